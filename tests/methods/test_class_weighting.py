"""Class weights that any method can be given by a setting of the run."""

import pytest
import torch
from torch import nn

from semivox.data.labels import IGNORE
from semivox.errors import SettingError
from semivox.losses.class_distribution import ClassDistribution
from semivox.losses.difficulty import Difficulty, hard_dice
from semivox.losses.supervised import supervised_loss
from semivox.methods.class_weighting import ClassWeighting, nearest_parameter
from semivox.methods.model import load_model, save_model
from semivox.testing import Candidate, Workbench
from semivox.testing.checks import (
    a_batch_may_lack_classes_labels_and_voxels,
    a_killed_run_resumes_exactly,
    losses_are_finite_and_never_negative,
    two_processes_give_the_loss_and_gradient_of_one,
)

K = 3


FURTHER = (
    ("supervised", "difficulty", a_batch_may_lack_classes_labels_and_voxels),
    ("supervised", "distribution", a_batch_may_lack_classes_labels_and_voxels),
    ("cross_pseudo_supervision", "dhc", losses_are_finite_and_never_negative),
    ("cross_pseudo_supervision", "dhc", a_killed_run_resumes_exactly),
    ("cross_pseudo_supervision", "dhc", two_processes_give_the_loss_and_gradient_of_one),
    ("mutual_consistency", "distribution", two_processes_give_the_loss_and_gradient_of_one),
    ("self_training", "difficulty", a_killed_run_resumes_exactly),
    ("bidirectional_copy_paste", "difficulty", two_processes_give_the_loss_and_gradient_of_one),
    ("mean_teacher+transferable_augmentation", "difficulty", a_killed_run_resumes_exactly),
)


@pytest.mark.parametrize(("name", "kind", "check"), FURTHER, ids=lambda part: getattr(part, "__name__", part))
def test_weighted_methods_keep_the_contract(name, kind, check, two_processes):
    check(Candidate(name, processes=two_processes, training={"class_weighting": kind}))


class Net(nn.Module):
    """Two classifiers on one convolution."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU())
        self.first = nn.Conv2d(4, K, 1)
        self.second = nn.Conv2d(4, K, 1, bias=False)

    def forward(self, x):
        features = self.body(x)
        return self.first(features), self.second(features)


def scene(seed=0, count=2):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 8, 9, generator=random), torch.randint(0, K, (count, 8, 9), generator=random)


def weighting_of(net, kind="difficulty"):
    weighting = ClassWeighting(kind, K)
    weighting._method = (net,)
    return weighting


@pytest.mark.parametrize("autocast", [False, True])
def test_the_graph_tells_which_classifier_gave_the_logits(autocast):
    net = Net()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        first, second = net(scene()[0])
        assert nearest_parameter(first) is net.first.bias
        assert nearest_parameter(second) is net.second.weight
        assert nearest_parameter(torch.cat([first, first]).split(2)[1][::2].float()) is net.first.bias
    assert nearest_parameter(first.detach()) is None


def test_each_classifier_has_a_state_of_its_own():
    net = Net()
    weighting = weighting_of(net)
    expected = [Difficulty(K), Difficulty(K)]
    for step in range(4):
        image, label = scene(step)
        for logits, state in zip(net(image), expected, strict=True):
            dice = hard_dice(logits.argmax(1), label, K)
            assert torch.equal(weighting(logits, label, None, None), state(dice))
            state.advance()
        weighting.advance()
        with torch.no_grad():
            net.first.bias += torch.tensor([0.2, -0.1, 0.1])
    for found, state in zip(weighting.states.values(), expected, strict=True):
        torch.testing.assert_close(found.weights, state.weights)


def test_several_parts_of_a_step_are_remembered_as_their_mean():
    net = Net()
    weighting, expected = weighting_of(net), Difficulty(K)
    dices = []
    for seed in (1, 2):
        image, label = scene(seed)
        logits = net(image)[0]
        dices.append(hard_dice(logits.argmax(1), label, K))
        weighting(logits, label, None, None)
    weighting.advance()
    expected(torch.stack(dices).mean(0))
    expected.advance()
    (state,) = weighting.states.values()
    torch.testing.assert_close(state.state_dict(), expected.state_dict())


def test_only_voxels_that_count_are_weighed():
    net = Net()
    image, label = scene()
    logits = net(image)[0]
    mask = torch.rand(label.shape, generator=torch.Generator().manual_seed(0)) > 0.6
    label[0, :2] = IGNORE
    masked = label.masked_fill(~mask, IGNORE)
    found = [weighting_of(net, kind)(logits, label, None, mask) for kind in ("difficulty", "distribution")]
    assert torch.equal(found[0], Difficulty(K)(hard_dice(logits.argmax(1), masked, K)))
    counts = torch.tensor([(masked == k).sum() for k in range(K)])
    assert torch.equal(found[1], ClassDistribution(K)(counts))


def test_classes_that_no_task_of_the_batch_annotates_keep_their_place():
    net = Net()
    weighting = weighting_of(net)
    known = torch.tensor([[True, False, True], [True, False, True]])
    remembered = []
    for step in range(3):
        image, label = scene(step)
        weighting(net(image)[0], label, None if step < 2 else known, None)
        weighting.advance()
        (state,) = weighting.states.values()
        remembered.append(state.previous.tolist())
    assert remembered[2][1] == remembered[1][1]
    assert remembered[2][2] != remembered[1][2]


@pytest.mark.parametrize("kind", ["difficulty", "distribution"])
def test_the_supervised_term_is_the_loss_with_these_weights(kind):
    bench = Workbench("supervised", class_weighting=kind).decide()
    batch = bench.batch()
    method, labelled = bench.method, batch.labelled
    bench._seed()
    logits = method.network(labelled.image)
    state = Difficulty(method.problem.classes) if kind == "difficulty" else ClassDistribution(method.problem.classes)
    figure = (
        hard_dice(logits.argmax(1), labelled.label, method.problem.classes)
        if kind == "difficulty"
        else torch.tensor([(labelled.label == k).sum() for k in range(method.problem.classes)])
    )
    expected = supervised_loss(logits, labelled.label, labelled.known, state(figure))
    assert bench.losses(batch)["supervised"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert supervised_loss(logits, labelled.label, labelled.known).item() != pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("kind", ["difficulty", "distribution"])
def test_weights_stay_finite_when_a_class_is_absent_for_a_thousand_steps(kind):
    net = Net()
    weighting = weighting_of(net, kind)
    image, label = scene()
    logits = net(image)[0]
    without = label.masked_fill(label == 2, 0)
    never = logits - torch.tensor([0.0, 0.0, 100.0]).view(K, 1, 1)
    for step in range(1010):
        absent = 5 <= step < 1005
        weights = weighting(never if absent else logits, without if absent else label, None, None)
        weighting.advance()
        assert weights.isfinite().all()
        assert (weights >= 0).all()
        assert weights.sum() > 0
    assert weights[2] > 0


def test_dhc_gives_each_of_two_networks_a_weighting_of_its_own():
    bench = Workbench("cross_pseudo_supervision", class_weighting="dhc")
    bench.train_step(bench.batch())
    states = bench.method.class_weighting.states
    assert {name.partition("/")[0]: type(state) for name, state in states.items()} == {
        "first": Difficulty,
        "second": ClassDistribution,
    }


def test_dhc_is_refused_where_there_are_not_two_networks():
    with pytest.raises(SettingError, match="trains 1; give difficulty or distribution"):
        Workbench("mean_teacher", class_weighting="dhc")


def test_a_method_that_weighs_its_terms_itself_is_told_so():
    bench = Workbench("supervised", class_weighting="difficulty")
    with pytest.raises(SettingError, match="has no effect"):
        bench.method.finish_step(bench.clock)


def test_the_state_comes_back_from_a_checkpoint():
    bench, other = (Workbench("cross_pseudo_supervision", class_weighting="dhc") for _ in range(2))
    for step in range(2):
        bench.train_step(bench.batch(step))
    other.method.load_state_dict(bench.method.state_dict())
    other.engine.step = bench.engine.step
    batch = bench.batch(2)
    found, expected = other.losses(batch), bench.losses(batch)
    assert {name: term.item() for name, term in found.items()} == {name: t.item() for name, t in expected.items()}


def test_a_model_folder_holds_nothing_of_it(tmp_path):
    bench = Workbench("mean_teacher", class_weighting="difficulty")
    bench.train_step(bench.batch())
    facts = {"method": "mean_teacher"}
    save_model(tmp_path, bench.method, bench.problem, channels=("MRI",), file_ending=".nii.gz", facts=facts)
    assert "weighting" not in (tmp_path / "model.json").read_text()
    assert not any("weighting" in name for name in load_model(tmp_path).method.state_dict())


def test_a_network_that_starts_afresh_has_no_history():
    bench = Workbench("self_training", class_weighting="difficulty")
    for step in range(2):
        bench.train_step(bench.batch(step))
    method, state = bench.method, bench.method.class_weighting.states["network/classifier/1/bias"]
    method.take_over(method.stages()[0])
    assert method.class_weighting.states["network/classifier/1/bias"] is state
    method.take_over(method.stages()[1])
    (fresh,) = method.class_weighting.states.values()
    torch.testing.assert_close(fresh.state_dict(), Difficulty(method.problem.classes).state_dict())


def test_the_log_tells_the_weights():
    bench = Workbench("cross_pseudo_supervision", class_weighting="dhc")
    bench.train_step(bench.batch())
    names = bench.problem.labels.names
    figures = bench.method.figures(names)
    for classifier in (1, 2):
        shares = [figures[f"class_weight/classifier_{classifier}/{name}"] for name in names]
        assert sum(shares) == pytest.approx(len(names), rel=1e-5)


def test_without_the_setting_nothing_is_weighed():
    bench = Workbench("mean_teacher")
    assert bench.problem.class_weighting is None
    assert not any(isinstance(module, ClassWeighting) for module in bench.method.modules())
