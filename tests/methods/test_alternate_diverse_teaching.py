import copy
import itertools

import numpy as np
import pytest
import torch
from slow_pseudo_labels import cut, dice, log_likelihoods, softmax

from semivox.methods.clock import Clock
from semivox.sampling.draws import seed_of
from semivox.sampling.mixing import boxes
from semivox.testing import Workbench

NAME = "alternate_diverse_teaching"
WEIGHT = 0.7


def make_bench(dimensions=2, active=0, **settings):
    """Teachers and student that are sure of many voxels and quarrel about some, in the turn of a teacher."""
    settings = {"unlabelled_weight": WEIGHT, "threshold": 0.9} | settings
    bench = Workbench(NAME, dimensions, settings=settings, dropout=False, batch=4).decide()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for network in (bench.method.first_teacher.module, bench.method.second_teacher.module):
            for parameter in network.decoder.parameters():
                parameter += 0.5 * parameter.abs().mean() * torch.randn(parameter.shape, generator=random)
    bench.method.active = active
    return bench


def fused(first, second, student):
    """Label and confidence, and where the student had its way; probabilities (B, K, *space) in, NumPy throughout."""
    h1, h2 = (-(p * np.log2(p + 1e-10)).sum(1, keepdims=True) for p in (first, second))
    ensemble = (np.exp(-h1) * first + np.exp(-h2) * second) / (np.exp(-h1) + np.exp(-h2))
    label, confidence = ensemble.argmax(1), ensemble.max(1)
    quarrel = first.argmax(1) != second.argmax(1)
    its_way = quarrel & (student.argmax(1) != label) & (student.max(1) > confidence)
    return np.where(its_way, student.argmax(1), label), np.where(its_way, student.max(1), confidence), its_way


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", ["cross_entropy", "dice"])
@pytest.mark.parametrize("active", [0, 1], ids=["intensities", "cutmix"])
def test_the_strong_view_learns_what_teachers_and_student_agree_on(dimensions, kind, active):
    bench = make_bench(dimensions, active, unlabelled_loss=kind)
    batch = bench.batch()
    batch.unlabelled.valid[0, :5] = False
    term = bench.losses(batch)["strong"]
    method, valid = bench.method, batch.unlabelled.valid.numpy()
    weak, strong = batch.unlabelled.views
    with torch.no_grad():
        own, first, second = (
            softmax(network(weak).numpy()) for network in (method.student, method.first_teacher, method.second_teacher)
        )
        if active:
            share = {"share": lambda random: 1 - random.beta(4, 4), "stretch": 1}
            box = boxes(weak.shape[2:], batch.unlabelled.seeds, **share).numpy()
            uncut = own
            valid, own, first, second = (cut(each, box) for each in (valid, own, first, second))
            strong = torch.from_numpy(cut(weak.numpy(), box))
        logits = method.student(strong).numpy()
    label, confidence, its_way = fused(first, second, own)
    kept = valid & (confidence >= 0.9)
    if active:
        assert (fused(first, second, uncut)[0] != label).any(), "maps that are not cut alike must be noticed"
    assert 0.05 < kept.sum() / valid.sum() < 0.95, "the threshold must matter"
    assert (its_way & kept).any(), "the student must have its way somewhere"
    if kind == "dice":
        expected = dice(logits, label, kept)
    else:
        expected = -log_likelihoods(logits, label)[kept].mean()
    assert term.item() == pytest.approx(WEIGHT * expected, rel=2e-3)


def test_in_a_cutmix_turn_the_student_learns_on_the_weak_views_mixed_with_their_neighbours():
    bench = make_bench(active=1)
    batch, seen = bench.batch(), []
    bench.method.student.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    bench.losses(batch)
    (labelled_by, learnt_on), weak = seen, batch.unlabelled.views[0]
    mixed = learnt_on[len(batch.labelled) :]
    assert torch.equal(labelled_by, weak)
    own, neighbours = (mixed == weak).all(1), (mixed == weak[[1, 0, 3, 2]]).all(1)
    assert (own | neighbours).all(), "every voxel is the sample's own or its neighbour's"
    assert 0.2 < neighbours.float().mean() < 0.8


def test_labels_are_made_without_gradient_and_everything_else_in_one_pass():
    bench = make_bench()
    batch, seen = bench.batch(), []
    for network in (bench.method.student, bench.method.first_teacher, bench.method.second_teacher):
        network.register_forward_hook(
            lambda module, inputs, output: seen.append((len(inputs[0]), output.requires_grad))
        )
    bench.losses(batch)
    assert seen == [(4, False)] * 3 + [(8, True)]


def moved(method, clock):
    """Which of the teachers a step moves."""
    teachers = (method.first_teacher, method.second_teacher)
    before = [copy.deepcopy(teacher.state_dict()) for teacher in teachers]
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter += 0.01
    method.after_step(clock)
    return tuple(
        any(not torch.equal(old[key], value) for key, value in teacher.state_dict().items())
        for old, teacher in zip(before, teachers, strict=True)
    )


def clock_at(step):
    return Clock(step=step, iterations=200, seed=seed_of(0, "step", step))


def test_only_the_active_teacher_moves_and_turns_end():
    method = Workbench(NAME, settings={"longest_turn": 5}).method
    turns = []
    for step in range(120):
        active = method.active
        assert moved(method, clock_at(step)) == (active == 0, active == 1)
        turns.append(active)
    lengths = [len(list(group)) for _, group in itertools.groupby(turns)][:-1]
    assert turns[0] == 0
    assert set(lengths) == {1, 2, 3, 4, 5}


def test_a_resumed_run_goes_on_with_the_same_turns():
    def turns(method, first, last):
        order = []
        for step in range(first, last):
            order.append(method.active)
            method.after_step(clock_at(step))
        return order

    method = Workbench(NAME, settings={"longest_turn": 7}).method
    turns(method, 0, 23)
    other = Workbench(NAME, settings={"longest_turn": 7}).method
    other.load_state_dict(method.state_dict())
    assert turns(other, 23, 80) == turns(method, 23, 80)


@pytest.mark.parametrize(("step", "decay"), [(0, 0.0), (19, 0.0), (22, 0.5), (38, 0.9), (400, 0.99)])
def test_a_teacher_is_a_copy_for_the_first_steps_and_slows_down_then(step, decay):
    """τ = ⌊t/2⌋ and R = 10: α = 1 - 1/(τ - R + 1), at most 0.99, and 0 while τ < R."""
    method = Workbench(NAME, settings={"copied_steps": 10}).method
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter += 1.0
    method.after_step(clock_at(step))
    pairs = zip(method.first_teacher.parameters(), method.student.parameters(), strict=True)
    for teacher, student in pairs:
        torch.testing.assert_close(student - teacher, torch.full_like(student, decay), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_teachers_normalise_as_their_mode_says(mode):
    method = Workbench(NAME, settings={"teacher_mode": mode}).method
    for teacher in (method.first_teacher, method.second_teacher):
        assert teacher.module.training == (mode == "train")
        assert teacher.mode == mode


def test_who_predicts_is_a_setting():
    bench = make_bench()
    method, image = bench.method.eval(), bench.batch().labelled.image
    with torch.no_grad():
        mean = (method.first_teacher(image).softmax(1) + method.second_teacher(image).softmax(1)) / 2
        torch.testing.assert_close(method.predict(image, "default"), mean)
    method = Workbench(NAME, settings={"evaluate": "student"}).method
    assert method.inference_modules() == (method.student,)
