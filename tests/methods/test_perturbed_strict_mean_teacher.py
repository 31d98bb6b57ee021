import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from slow_pseudo_labels import cut, log_likelihoods, softmax

from semivox.methods.perturbed_strict_mean_teacher import OWN_DECODER_PASS
from semivox.sampling.mixing import boxes
from semivox.testing import Workbench

NAME = "perturbed_strict_mean_teacher"
in_2d_and_3d = pytest.mark.parametrize("dimensions", [2, 3])
WEIGHT = 0.7


def make(dimensions=2, stage=1, **settings):
    """Two teachers that differ from the student and from each other."""
    settings = {"unlabelled_weight": WEIGHT, "ramp_share": 0.0, "threshold": 0.8} | settings
    bench = Workbench(NAME, dimensions, stage=stage, settings=settings, dropout=False, batch=4).decide()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for teacher in bench.method.teachers():
            for parameter in teacher.module.decoder.parameters():
                parameter += 0.5 * parameter.abs().mean() * torch.randn(parameter.shape, generator=random)
    return bench


@in_2d_and_3d
def test_confident_labels_of_both_teachers_count_by_their_confidence(dimensions):
    bench = make(dimensions, radius=0.0)
    batch, method = bench.batch(), bench.method
    batch.unlabelled.valid[0, :5] = False
    term = bench.losses(batch)["strong"]
    weak, strong = batch.unlabelled.views
    box = boxes(weak.shape[2:], batch.unlabelled.seeds, lambda random: random.beta(4, 4), stretch=1).numpy()
    with torch.no_grad():
        logits = [teacher(weak).numpy() for teacher in (method.first_teacher, method.second_teacher)]
        student = method.student(torch.from_numpy(cut(strong.numpy(), box))).numpy()
    p = softmax(cut((logits[0] + logits[1]) / 2, box))
    label, confidence = p.argmax(1), p.max(1)
    kept = cut(batch.unlabelled.valid.numpy(), box) & (confidence >= 0.8)
    assert 0.05 < kept.mean() < 0.95
    expected = (confidence * -log_likelihoods(student, label))[kept].mean()
    assert term.item() == pytest.approx(WEIGHT * expected, rel=2e-3)


@in_2d_and_3d
def test_the_students_coarsest_features_are_changed_by_epsilon_in_both_streams(dimensions):
    bench = make(dimensions, radius=1.5)
    batch, student = bench.batch(), bench.method.student
    encoded, decoded = [], []
    student.encoder.register_forward_hook(lambda module, inputs, output: encoded.append([*output]))
    student.decoder.register_forward_pre_hook(lambda module, inputs: decoded.append(inputs[0]))
    bench.losses(batch)
    assert [len(levels[0]) for levels in encoded] == [len(batch.labelled), len(batch.unlabelled)]
    for clean, changed in zip(encoded, decoded, strict=True):
        *fine, coarsest = ((b - a).flatten(1).norm(dim=1) for a, b in zip(clean, changed, strict=True))
        assert all(norm.max() == 0 for norm in fine)
        assert coarsest.tolist() == pytest.approx([1.5] * len(clean[0]), rel=1e-4)
        assert changed[-1].requires_grad


@in_2d_and_3d
def test_the_change_misleads_the_teachers_more_than_chance_does(dimensions):
    bench = make(dimensions, radius=0.5)
    batch, method = bench.batch(), bench.method
    pairs = []
    method.student.encoder.register_forward_hook(lambda module, inputs, output: pairs.append([[*output]]))
    method.student.decoder.register_forward_pre_hook(lambda module, inputs: pairs[-1].append(inputs[0]))
    bench.losses(batch)
    (clean, changed), _ = pairs

    def misled(features):
        q, p = (method.decoded(each).softmax(1) for each in (clean, features))
        return (q * (q / p).log()).sum(1).mean().item()

    with torch.no_grad():
        by_chance = []
        for seed in range(5):
            noise = torch.randn(clean[-1].shape, generator=torch.Generator().manual_seed(seed))
            noise *= 0.5 / noise.flatten(1).norm(dim=1).view(-1, *[1] * (noise.ndim - 1))
            by_chance.append(misled([*clean[:-1], clean[-1] + noise]))
        assert misled(changed) > 3 * max(by_chance)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_teachers_search_in_evaluation_mode_and_are_afterwards_as_their_mode_says(mode):
    bench = make(teacher_mode=mode)
    method, seen = bench.method, []
    for teacher in method.teachers():
        teacher.module.decoder.register_forward_pre_hook(
            lambda module, inputs: seen.append((torch.is_grad_enabled(), module.training))
        )
    bench.losses(bench.batch())
    assert all(not training for grad, training in seen if grad)
    assert sum(grad for grad, _ in seen) == 4, "each teacher once per stream"
    for teacher in method.teachers():
        assert teacher.module.training == (mode == "train")
        assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_demand_counts_each_pass_of_the_teachers():
    bench = make()
    method, batch = bench.method, bench.batch()
    weak, decoded = [], []
    for teacher in method.teachers():
        teacher.register_forward_hook(lambda module, inputs, output: weak.append(len(output)))
        teacher.module.decoder.register_forward_hook(
            # A gradient to the features alone is another pass.
            lambda module, inputs, output: decoded.append(len(output[-1]) * (1 + output[-1].requires_grad))
        )
    bench.losses(batch)
    search = (sum(decoded) - sum(weak)) * OWN_DECODER_PASS
    demand = method.demand(method.settings)
    assert sum(weak) + search == pytest.approx(demand.teacher_forwards * len(batch.unlabelled))
    assert demand.labelled_forwards == demand.unlabelled_forwards == 1


def moved(bench, step):
    """Which of the teachers a step of the second stage moves."""
    method = bench.method
    before = [copy.deepcopy(teacher.state_dict()) for teacher in method.teachers()]
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter += 0.01
    method.after_step(replace(bench.clock, stage_step=step))
    return tuple(
        any(not torch.equal(old[key], value) for key, value in teacher.state_dict().items())
        for old, teacher in zip(before, method.teachers(), strict=True)
    )


def test_teachers_move_in_turns_and_rest_in_the_warm_up():
    bench = make(turn_steps=3)
    assert [moved(bench, step).index(True) for step in range(9)] == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert all(sum(moved(bench, step)) == 1 for step in range(9))
    assert moved(make(stage=0), 0) == (False, False)


def test_a_teacher_never_becomes_a_copy_of_the_student():
    bench = make(average_decay=0.9)
    teacher, student = bench.method.first_teacher.module, bench.method.student
    before = copy.deepcopy(teacher)
    bench.method.after_step(replace(bench.clock, step=0, stage_step=0))
    for old, new, own in zip(before.parameters(), teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * own)


def test_the_warm_up_trains_three_networks_of_different_beginnings_on_labels_alone():
    bench = Workbench(NAME, stage=0, dropout=False)
    method, batch = bench.method, bench.batch()
    assert batch.unlabelled is None
    terms = bench.losses(batch)
    first, second = method.beginners
    networks = {"supervised": method.student, "supervised_first": first, "supervised_second": second}
    assert terms.keys() == networks.keys()
    for name, network in networks.items():
        expected = bench.problem.supervised_loss(network(batch.labelled.image), batch.labelled)
        assert terms[name].item() == pytest.approx(expected.item(), rel=1e-5)
    assert len({round(term.item(), 6) for term in terms.values()}) == 3
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert bench.gradients(batch).keys() == trained


def test_after_the_warm_up_the_teachers_are_what_was_trained_apart():
    bench = Workbench(NAME)
    method = bench.method
    warm_up, train = method.stages()
    assert not warm_up.unlabelled
    assert warm_up.share == pytest.approx(5 / 80)
    method.take_over(train)
    for teacher, beginner in zip(method.teachers(), method.beginners, strict=True):
        for key, value in beginner.state_dict().items():
            assert torch.equal(teacher.module.state_dict()[key], value)


def test_the_student_alone_learns_in_the_second_stage():
    bench = make()
    gradients = bench.gradients(bench.batch())
    assert {name.split(".")[0] for name in gradients} == {"student"}


def test_the_mean_of_the_teachers_logits_predicts():
    bench = make()
    method, image = bench.method.eval(), bench.batch().labelled.image
    with torch.no_grad():
        first, second = (teacher(image).double().numpy() for teacher in method.teachers())
        found = method.predict(image, "default").numpy()
    assert np.allclose(found, softmax((first + second) / 2), atol=1e-5)
    assert not np.allclose(found, (softmax(first) + softmax(second)) / 2, atol=1e-3)
