"""PMT: two students that take turns, each with its teacher, and the better one teaches the other."""

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.methods.clock import Clock
from semivox.methods.progressive_mean_teacher import Turn
from semivox.testing import Workbench

NAME = "progressive_mean_teacher"
in_2d_and_3d = pytest.mark.parametrize("dimensions", [2, 3])


def make_bench(dimensions=2, **settings):
    """At a later turn of the first student, in the middle of a run."""
    settings = {"teacher_mode": "eval", **settings}
    bench = Workbench(NAME, dimensions, settings=settings, dropout=False, batch=4, iterations=8).decide()
    bench.engine.step = 4  # a turn is one step
    assert bench.method.turn(bench.clock) == Turn(student=0, own_step=2, is_first=False)
    return bench


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def maps(bench, network, stream):
    with torch.no_grad():
        return softmax(network(stream.image).double().numpy())


def slow_mse(p, q, valid):
    """To the sharpened target, voxel after voxel; T = 0.1."""
    values = []
    for b, *voxel in np.argwhere(valid):
        target = q[(b, slice(None), *voxel)] ** 10
        values.append(np.mean((p[(b, slice(None), *voxel)] - target / target.sum()) ** 2))
    return np.mean(values)


def slow_dice(p, label):
    losses = []
    for c in range(p.shape[1]):
        known = label != IGNORE
        own, true = p[:, c][known], (label == c)[known]
        losses.append(1 - (2 * own[true].sum() + 1e-5) / ((own**2).sum() + true.sum() + 1e-5))
    return np.mean(losses)


@in_2d_and_3d
@pytest.mark.parametrize("worse", [True, False], ids=["the worse student", "the better student"])
def test_a_student_learns_from_its_teacher_and_from_the_better_student_as_in_a_slow_version(dimensions, worse):
    weights = {"student_weight": 0.7, "teacher_weight": 0.3, "disagreement_weight": 0.9, "ramp_share": 1.0}
    bench = make_bench(dimensions, **weights)
    batch = bench.batch()
    batch.labelled.label[0, :4] = IGNORE
    batch.unlabelled.valid[1, :5] = False
    method = bench.method
    own, other = maps(bench, method.first, batch.labelled), maps(bench, method.second, batch.labelled)
    if (slow_dice(own, batch.labelled.label.numpy()) > slow_dice(other, batch.labelled.label.numpy())) != worse:
        method.first, method.second = method.second, method.first
        own, other = other, own
    terms = bench.losses(batch)

    label, valid = batch.labelled.label.numpy(), batch.unlabelled.valid.numpy()
    student, better = (maps(bench, network, batch.unlabelled) for network in (method.first, method.second))
    teacher = maps(bench, method.first_teacher, batch.unlabelled)
    ramp = np.exp(-5 * (1 - 4 / 8) ** 2)
    assert terms["teacher"].item() == pytest.approx(0.3 * ramp * slow_mse(student, teacher, valid), rel=1e-3)
    squares = []
    for b, *voxel in np.argwhere((own.argmax(1) != other.argmax(1)) & (label != IGNORE)):
        truth = np.arange(own.shape[1]) == label[(b, *voxel)]
        squares.append(np.mean((own[(b, slice(None), *voxel)] - truth) ** 2))
    assert squares, "they must disagree somewhere"
    expected = (0.9 * np.mean(squares), 0.7 * ramp * slow_mse(student, better, valid)) if worse else (0, 0)
    assert terms["disagreement"].item() == pytest.approx(expected[0], rel=1e-3)
    assert terms["student"].item() == pytest.approx(expected[1], rel=1e-3)
    supervised = 2 * method.problem.supervised_loss(method.first(batch.labelled.image), batch.labelled)
    torch.testing.assert_close(terms["supervised"], supervised)


def clock_at(step, iterations=48000):
    return Clock(step=step, iterations=iterations, stage_step=step, stage_iterations=iterations)


def test_turns_are_those_of_a_buffer_of_160_batches():
    """Whenever 80 batches have come in, the student whose turn it is runs over the last 160 (at first 80) of them."""
    method = make_bench().method
    order, seen = [], [0, 0]
    for batches in range(80, 1000, 80):
        student = 1 - batches // 80 % 2
        for _ in range(min(batches, 160)):
            order.append((student, seen[student]))
            seen[student] += 1
    turns = [method.turn(clock_at(step)) for step in range(len(order))]
    assert [(turn.student, turn.own_step) for turn in turns] == order
    first = [turn.is_first for turn in turns]
    assert first == [True] * (80 + 160) + [False] * (len(order) - 240)


@pytest.mark.parametrize("iterations", [4, 50, 3000])
def test_short_runs_have_turns_in_proportion_and_both_students_their_half(iterations):
    method = make_bench().method
    steps = [method.turn(clock_at(step, iterations)) for step in range(iterations)]
    shares = [sum(turn.student == student for turn in steps) for student in (0, 1)]
    assert abs(shares[0] - shares[1]) <= max(1, round(iterations / 300))
    for student in (0, 1):
        assert [turn.own_step for turn in steps if turn.student == student] == list(range(shares[student]))


def test_in_its_first_turn_a_student_has_its_teacher_alone():
    bench = make_bench()
    for step in (0, 1):
        bench.engine.step = step
        assert set(bench.losses(bench.batch())) == {"supervised", "teacher"}
    bench.engine.step = 2
    assert set(bench.losses(bench.batch())) == {"supervised", "teacher", "disagreement", "student"}


@pytest.mark.parametrize(("step", "mover", "rests"), [(4, "first", "second"), (5, "second", "first")])
def test_only_the_student_whose_turn_it_is_learns_and_its_teacher_follows(step, mover, rests):
    bench = make_bench()
    bench.engine.step = step
    before = {name: tensor.clone() for name, tensor in bench.method.state_dict().items()}
    bench.train_step(bench.batch())
    moved = {
        name.partition(".")[0]
        for name, tensor in bench.method.named_parameters()
        if not torch.equal(before[name], tensor)
    }
    assert moved == {mover, f"{mover}_teacher"}
    assert all(parameter.grad is None for parameter in getattr(bench.method, rests).parameters())


def test_targets_carry_no_gradient_and_the_other_student_keeps_none():
    bench = make_bench()
    passes = []
    for network in (bench.method.first, bench.method.second, bench.method.first_teacher):
        network.register_forward_hook(lambda module, inputs, output: passes.append(output.requires_grad))
    bench.losses(bench.batch())
    assert passes == [True, False, False]


@pytest.mark.parametrize(("step", "own_step"), [(0, 0), (1, 0), (2, 1), (5, 2), (200, 100)])
def test_a_teacher_warms_up_by_the_steps_of_its_own_student(step, own_step):
    """With turns of one step."""
    bench = make_bench(average_decay=0.9)
    method = bench.method
    turn = method.turn(clock_at(step, 300))
    student = (method.first, method.second)[turn.student]
    teacher = (method.first_teacher, method.second_teacher)[turn.student].module
    teacher.load_state_dict(student.state_dict())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 1.0
    method.after_step(clock_at(step, 300))
    assert turn.own_step == own_step
    decay = min(1 - 1 / (own_step + 1), 0.9)
    for one, other in zip(teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(other - one, torch.full_like(one, decay), atol=1e-5, rtol=0)


@pytest.mark.parametrize("evaluate", ["teachers", "students"])
def test_who_predicts_is_a_setting(evaluate):
    method = make_bench(evaluate=evaluate).method
    expected = {"teachers": (method.first_teacher, method.second_teacher), "students": (method.first, method.second)}
    assert method.inference_modules() == expected[evaluate]
