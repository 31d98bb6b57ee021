"""SDCL: two different students see the same copy-paste mixes and are corrected where their labels differ."""

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.errors import SettingError
from semivox.methods import find_method
from semivox.methods.clock import Clock
from semivox.testing import Workbench
from semivox.training.config import method_settings

NAME = "students_discrepancy"
PRETRAIN, SELF_TRAIN = 0, 1
SECOND = {"name": "residual_encoder_unet", "settings": {"width": 4, "max_width": 16, "blocks": (1, 2)}}
in_2d_and_3d = pytest.mark.parametrize("dimensions", [2, 3])


def make_bench(dimensions=2, stage=SELF_TRAIN, **settings):
    settings = {"teacher_mode": "eval", "second_network": SECOND, **settings}
    return Workbench(NAME, dimensions, stage=stage, settings=settings, batch=4, dropout=False)


def watched(bench, batch):
    """What each student was shown and answered, and the terms."""
    seen = []
    hooks = [
        network.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output.detach())))
        for network in (bench.method.student, bench.method.second_student)
    ]
    terms = {name: term.item() for name, term in bench.losses(batch).items()}
    for hook in hooks:
        hook.remove()
    (shown, first), (shown_too, second) = seen
    assert torch.equal(shown, shown_too)
    return shown.numpy(), (first.double().numpy(), second.double().numpy()), terms


def probabilities(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def region_loss(p, label, region):
    """½ (CE + mean over classes of DiceSq) over the voxels of a region that have a label."""
    p, y = np.moveaxis(p, 1, -1)[region & (label != IGNORE)], label[region & (label != IGNORE)]
    one_hot = np.eye(p.shape[1])[y]
    dice = 1 - (2 * (p * one_hot).sum(0) + 1e-5) / ((p**2).sum(0) + one_hot.sum(0) + 1e-5)
    return 0.5 * (dice.mean() - np.log(p[np.arange(len(y)), y]).mean())


def corrections(p, other, label, weight):
    """L_mse and L_kl of one mix, voxel after voxel."""
    squares, divergences = [], []
    disagree = p.argmax(1) != other.argmax(1)
    for b, *voxel in np.argwhere(disagree & (label != IGNORE)):
        own, y, w = p[(b, slice(None), *voxel)], label[(b, *voxel)], weight[(b, *voxel)]
        squares.append(w * np.mean((own - (np.arange(len(own)) == y)) ** 2))
        if own.argmax() != y:
            divergences.append(w * (-np.log(own).mean() - np.log(len(own))))
    assert divergences, "one of them must be wrong somewhere"
    return np.mean(squares), np.mean(divergences)


@in_2d_and_3d
def test_both_students_learn_as_in_a_slow_version(dimensions):
    settings = {"pseudo_weight": 0.3, "mse_weight": 0.7, "divergence_weight": 0.2}
    bench = make_bench(dimensions, **settings).decide()
    batch = bench.batch()
    batch.unlabelled.valid[1, :5] = False
    batch.labelled.label[2, :4] = IGNORE
    with torch.no_grad():
        logits = bench.method.teacher(batch.unlabelled.image)
        pseudo = bench.method.pseudo_labels(logits, batch.unlabelled.valid).numpy()
    images, labels = batch.labelled.image.numpy(), batch.labelled.label.numpy()
    shown, answers, terms = watched(bench, batch)
    box = np.all(shown[0::2] == images[0::2], axis=1)
    assert np.array_equal(np.where(box[:, None], images[0::2], batch.unlabelled.image.numpy()[0::2]), shown[0::2])

    maps = [probabilities(answer) for answer in answers]
    expected = {}
    for number, own, other in ((1, *maps), (2, *maps[::-1])):
        expected[f"supervised_centre_{number}"] = region_loss(own[0::2], labels[0::2], box)
        expected[f"supervised_border_{number}"] = region_loss(own[1::2], labels[1::2], ~box)
        expected[f"pseudo_border_{number}"] = 0.3 * region_loss(own[0::2], pseudo[0::2], ~box)
        expected[f"pseudo_centre_{number}"] = 0.3 * region_loss(own[1::2], pseudo[1::2], box)
        one = corrections(own[0::2], other[0::2], np.where(box, labels[0::2], pseudo[0::2]), np.where(box, 1.0, 0.3))
        two = corrections(own[1::2], other[1::2], np.where(box, pseudo[1::2], labels[1::2]), np.where(box, 0.3, 1.0))
        expected[f"correction_{number}"] = 0.7 * (one[0] + two[0])
        expected[f"divergence_{number}"] = 0.2 * (one[1] + two[1])
    assert terms == pytest.approx(expected, rel=1e-3)


def test_pretraining_is_that_of_copy_paste_for_both():
    bench = make_bench(stage=PRETRAIN)
    assert set(bench.losses(bench.batch())) == {
        f"supervised_{place}_{number}" for place in ("border", "centre") for number in (1, 2)
    }


@pytest.mark.parametrize("stage", [PRETRAIN, SELF_TRAIN])
@pytest.mark.parametrize(
    ("number", "own", "other"), [(1, "student", "second_student"), (2, "second_student", "student")]
)
def test_a_students_terms_teach_it_alone(stage, number, own, other):
    bench = make_bench(stage=stage).decide()
    terms = [term for name, term in bench.losses(bench.batch()).items() if name.endswith(f"_{number}")]
    torch.stack(terms).sum().backward()
    assert all(parameter.grad.any() for parameter in getattr(bench.method, own).classifier.parameters())
    assert all(parameter.grad is None for parameter in getattr(bench.method, other).parameters())


def test_each_student_has_an_optimiser_and_each_step_moves_its_own():
    bench, moved = make_bench(), []
    networks = (bench.method.student, bench.method.second_student)
    for name, function in bench.method.steps(bench.batch(), bench.clock):
        before = [next(network.parameters()).clone() for network in networks]
        torch.stack([*function().values()]).sum().backward()
        bench.optimisers[name].step()
        now = [next(network.parameters()) for network in networks]
        moved.append((name, [not torch.equal(a, b) for a, b in zip(before, now, strict=True)]))
    assert moved == [("first", [True, False]), ("second", [False, True])]


def test_both_students_label_by_the_first_ones_average():
    bench = make_bench()
    assert bench.method.teachers() == [bench.method.teacher]
    assert bench.method.teacher.source is bench.method.student
    assert bench.method.second_average.source is bench.method.second_student


def test_averages_are_copies_until_self_training_begins_and_then_follow():
    bench = make_bench(stage=PRETRAIN)
    method = bench.method
    bench.train_step(bench.batch())
    for average in (method.teacher, method.second_average):
        for name, value in average.source.state_dict().items():
            assert torch.equal(average.module.state_dict()[name], value)
        before = next(average.module.parameters()).clone()
        with torch.no_grad():
            next(average.source.parameters()).add_(1.0)
        method.after_step(Clock(step=5, iterations=20, stage=method.stages()[SELF_TRAIN].name))
        moved = next(average.module.parameters()) - before
        torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-3, atol=1e-6)


def test_where_a_task_hides_classes_its_background_corrects_nobody():
    bench = make_bench().decide()
    batch = bench.batch()
    before = bench.losses(batch)
    batch.labelled.label.fill_(0)
    batch.labelled.known[:, 1] = False
    hidden = bench.losses(batch)
    batch.labelled.label.fill_(IGNORE)
    unknown = bench.losses(batch)
    for name in ("correction_1", "divergence_2"):
        assert hidden[name] == unknown[name] != before[name]


def test_the_second_student_is_another_network_by_setting():
    names = {type(module).__name__ for module in (make_bench().method.student, make_bench().method.second_student)}
    assert names == {"UNet", "ResidualEncoderUNet"}
    other = make_bench(second_network={"name": "vnet", "settings": {"width": 4}}).method
    assert type(other.second_student).__name__ == "VNet"
    with pytest.raises(SettingError, match="wdith"):
        make_bench(second_network={"name": "vnet", "settings": {"wdith": 4}})


def test_settings_without_a_name_change_the_usual_second_network():
    usual = find_method(NAME).Settings().second_network
    narrow = find_method(NAME).Settings(second_network={"settings": {"width": 8}}).second_network
    assert (narrow.name, narrow.settings) == (usual.name, {**usual.settings, "width": 8})


def test_the_usual_second_student_has_the_blocks_of_a_resnet_34():
    method = Workbench(NAME, 3).method
    stages = method.second_student.encoder.stages
    assert [len(stage) for stage in stages] == [1, 3, 4, 6, 3][: len(stages)]


@pytest.mark.parametrize("evaluate", ["teacher", "student"])
@pytest.mark.parametrize("predict_with", ["both", "first", "second"])
def test_who_predicts_is_a_setting(evaluate, predict_with):
    method = make_bench(evaluate=evaluate, predict_with=predict_with).method
    teacher = evaluate == "teacher"
    first, second = (method.teacher, method.second_average) if teacher else (method.student, method.second_student)
    assert method.inference_modules() == {"both": (first, second), "first": (first,), "second": (second,)}[predict_with]


def test_the_demand_names_the_second_network_that_is_built_and_counts_the_usual_one_as_larger():
    kind, bench = find_method("sdcl"), make_bench()
    (own,) = kind.demand(bench.method.settings).companions
    built = bench.problem.network(own.name, **own.settings)
    shapes = [{name: p.shape for name, p in net.named_parameters()} for net in (built, bench.method.second_student)]
    assert shapes[0] == shapes[1]
    usual = kind.demand(method_settings(Workbench(NAME).config.method))  # as a run's config.yaml has them
    equal = kind.demand(kind.Settings(second_network={"name": "vnet"}))
    # Two passes of as many mixes as there are labelled samples, and the teacher's.
    assert (equal.labelled_cost, equal.relative_cost) == pytest.approx((2, 2 + 1 / 3))
    assert usual.labelled_cost > 3


def test_odd_batches_are_refused_by_name():
    problem = make_bench().problem
    batch = problem.plan.batch.model_copy(update={"labelled": 3})
    object.__setattr__(problem, "plan", problem.plan.model_copy(update={"batch": batch}))
    with pytest.raises(SettingError, match="StudentsDiscrepancy pairs samples"):
        find_method(NAME)().build(problem)
