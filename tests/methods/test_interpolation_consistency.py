"""ICT: between two scans the student goes as straight as the image does."""

import numpy as np
import pytest
import torch
from slow_pseudo_labels import softmax

from semivox.errors import SettingError
from semivox.methods.interpolation_consistency import InterpolationConsistency
from semivox.planning.plan import BatchSize
from semivox.sampling.draws import generator
from semivox.testing import Workbench

NAME = "interpolation_consistency"
RAMP = np.exp(-5 * (1 - 0.5) ** 2)
"""λ(t) / λ_max in the middle of a run, where a workbench stands."""


def make_bench(dimensions=2, **settings):
    settings = {"concentration": 1.0, "consistency_weight": 0.7} | settings
    return Workbench(NAME, dimensions, settings=settings, dropout=False, batch=4).decide()


def shares(batch, concentration=1.0):
    """m of each pair, from the seed of its first sample."""
    return [generator(seed, "mixup").beta(concentration, concentration) for seed in batch.unlabelled.seeds[0::2]]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_student_learns_the_mixed_targets_of_the_mix_as_in_a_slow_version(dimensions):
    bench = make_bench(dimensions)
    batch = bench.batch()
    unlabelled = batch.unlabelled
    unlabelled.valid[0, :5] = False
    unlabelled.valid[1, -4:] = False
    term = bench.losses(batch)["consistency"]
    squares = []
    for pair, m in enumerate(shares(batch)):
        one, other = 2 * pair, 2 * pair + 1
        mixed = (1 - m) * unlabelled.image[one] + m * unlabelled.image[other]
        with torch.no_grad():
            student = softmax(bench.method.student(mixed[None]).numpy())[0]
            first, second = (
                softmax(bench.method.teacher(unlabelled.image[i : i + 1]).numpy())[0] for i in (one, other)
            )
        target = (1 - m) * first + m * second
        counted = (unlabelled.valid[one] & unlabelled.valid[other]).numpy()
        squares.append(((student - target) ** 2)[:, counted].ravel())
    assert sum(len(each) for each in squares) < unlabelled.valid.numel() / 2 * bench.problem.classes
    assert term.item() == pytest.approx(0.7 * RAMP * np.concatenate(squares).mean(), rel=1e-3)


def test_labelled_scans_and_mixes_pass_the_student_in_one_batch_and_the_teacher_sees_no_mix():
    bench = make_bench()
    batch, seen = bench.batch(), {}
    for name in ("student", "teacher"):
        network = getattr(bench.method, name)
        network.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: inputs[0]}))
    bench.losses(batch)
    assert torch.equal(seen["teacher"], batch.unlabelled.image)
    assert len(seen["student"]) == 4 + 2
    assert torch.equal(seen["student"][:4], batch.labelled.image)
    for pair, m in enumerate(shares(batch)):
        one, other = batch.unlabelled.image[2 * pair : 2 * pair + 2]
        torch.testing.assert_close(seen["student"][4 + pair], (1 - float(m)) * one + float(m) * other)


def test_the_supervised_term_is_that_of_the_labelled_scans_alone():
    bench = make_bench()
    batch = bench.batch()
    with torch.no_grad():
        expected = bench.problem.supervised_loss(bench.method.student(batch.labelled.image), batch.labelled)
    assert bench.losses(batch)["supervised"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_concentration_says_how_much_is_mixed():
    bench = make_bench(concentration=200.0)
    batch, seen = bench.batch(), []
    bench.method.student.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    bench.losses(batch)
    halves = (batch.unlabelled.image[0::2] + batch.unlabelled.image[1::2]) / 2
    assert (seen[0][4:] - halves).abs().mean() < 0.1 * halves.abs().mean()


def test_no_gradient_reaches_the_teacher():
    bench = make_bench()
    bench.losses(bench.batch())["consistency"].backward()
    assert all(p.grad is None for p in bench.method.teacher.parameters())


def test_an_odd_number_of_unlabelled_samples_is_refused_with_the_mend():
    problem = make_bench().problem
    plan = problem.plan.model_copy(update={"batch": BatchSize(labelled=2, unlabelled=3)})
    with pytest.raises(SettingError, match=r"the batch has 3; give plan\.batch\.unlabelled an even number"):
        InterpolationConsistency().build(type(problem)(plan=plan, channels=1, labels=problem.labels))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_teacher_normalises_as_its_mode_says(mode):
    assert Workbench(NAME, settings={"teacher_mode": mode}).method.teacher.module.training is (mode == "train")


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_the_setting_says_who_predicts(name):
    method = Workbench(NAME, settings={"evaluate": name}).method
    assert method.inference_modules() == (getattr(method, name),)
