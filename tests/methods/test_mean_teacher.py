"""Mean teacher: its consistency term is the field's, and pulls the student towards the teacher."""

import numpy as np
import pytest
import torch

from semivox.testing import Workbench


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_consistency_equals_a_slow_version(dimensions):
    settings = {"consistency_weight": 0.7}
    bench = Workbench("mean_teacher", dimensions, settings=settings, dropout=False).decide()
    batch = bench.batch()
    terms = bench.losses(batch)
    clean, noisy = batch.unlabelled.views
    with torch.no_grad():
        student = bench.method.student(clean).softmax(1).double().numpy()
        teacher = bench.method.teacher(noisy).softmax(1).double().numpy()
    total = count = 0.0
    for index in np.ndindex(student.shape):
        if batch.unlabelled.valid[(index[0], *index[2:])]:
            total += (student[index] - teacher[index]) ** 2
            count += 1
    ramp = np.exp(-5 * (1 - 0.5) ** 2)  # the bench stands in the middle of the run
    assert float(terms["consistency"]) == pytest.approx(0.7 * ramp * total / count, rel=1e-4)


def test_the_consistency_pulls_the_student_towards_its_target():
    """A step along the gradient of the consistency term alone must lower it: a flipped sign would raise it."""
    bench = Workbench("mean_teacher", 3, settings={"consistency_weight": 1.0}).decide()
    batch = bench.batch()
    before = bench.losses(batch)["consistency"]
    before.backward()
    with torch.no_grad():
        for parameter in bench.method.student.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad / (parameter.grad.norm() + 1e-12)
    after = bench.losses(batch)["consistency"]
    assert 0 < float(after) < float(before)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_teacher_normalises_and_drops_out_as_its_mode_says(mode):
    bench = Workbench("mean_teacher", settings={"teacher_mode": mode})
    assert bench.method.teacher.module.training is (mode == "train")
    assert bench.method.teacher.mode == mode


@pytest.mark.parametrize(("evaluate", "name"), [("teacher", "teacher"), ("student", "student")])
def test_the_setting_says_who_predicts(evaluate, name):
    bench = Workbench("mean_teacher", settings={"evaluate": evaluate})
    assert bench.method.inference_modules() == (getattr(bench.method, name),)
