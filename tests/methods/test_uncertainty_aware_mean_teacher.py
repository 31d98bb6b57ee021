import itertools

import numpy as np
import pytest
import torch
from torch import nn

from semivox.testing.workbench import Workbench

RAMP = np.exp(-5 * (1 - 0.5) ** 2)
"""λ(t) / λ_max in the middle of a run, where a workbench stands."""
NAME = "uncertainty_aware_mean_teacher"


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_student_follows_one_pass_where_the_mean_of_the_others_is_certain(dimensions):
    settings = {"consistency_weight": 0.7, "passes": 3}
    bench = Workbench(NAME, dimensions, settings=settings, dropout=False).decide()
    with torch.no_grad():
        for parameter in bench.method.teacher.module.classifier.parameters():
            parameter *= 0.3  # so that about half of the voxels are certain
    batch = bench.batch()
    batch.unlabelled.valid[0, :5] = False
    terms = bench.losses(batch)
    clean, *noisy = batch.unlabelled.views
    with torch.no_grad():
        student = bench.method.student(clean).double().softmax(1).numpy()
        *passes, teacher = (bench.method.teacher(view).double().softmax(1).numpy() for view in noisy)
    valid, classes = batch.unlabelled.valid.numpy(), student.shape[1]
    threshold = (0.75 + 0.25 * RAMP) * np.log(classes)
    squares, certain = [], np.zeros(valid.shape, bool)
    for b, *voxel in itertools.product(*(range(n) for n in valid.shape)):
        at = (b, slice(None), *voxel)
        mean = sum(p[at] for p in passes) / 3
        if valid[(b, *voxel)] and -sum(m * np.log(m) for m in mean) < threshold:
            certain[(b, *voxel)] = True
            squares += list((student[at] - teacher[at]) ** 2)
    assert 0.1 < certain.sum() / valid.sum() < 0.9, "the mask must matter"
    assert terms["consistency"].item() == pytest.approx(0.7 * RAMP * np.mean(squares), rel=1e-4)
    assert (bench.method.notes["kept"].numpy() == certain).mean() > 0.999  # up to rounding at the threshold


def test_all_passes_of_the_teacher_are_one_batch_of_freshly_noised_copies():
    bench = Workbench(NAME)
    batch = bench.batch()
    noisy = batch.unlabelled.views[1:]
    assert len(noisy) == 9
    seen = []
    bench.method.teacher.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    bench.losses(batch)
    (images,) = seen
    torch.testing.assert_close(images, torch.cat(noisy))
    for one, other in itertools.pairwise(noisy):
        assert (one - other).std() == pytest.approx(0.1 * 2**0.5, rel=0.1)


def test_dropout_is_on_in_the_teacher_while_training_and_off_in_prediction():
    bench = Workbench(NAME)
    dropouts = [m for m in bench.method.teacher.modules() if isinstance(m, nn.Dropout) and m.p > 0]
    assert dropouts
    assert all(module.training for module in dropouts)
    bench.method.eval()
    assert not any(module.training for module in dropouts)


def test_a_teacher_that_is_certain_of_nothing_teaches_nothing():
    bench = Workbench(NAME)
    with torch.no_grad():
        for parameter in bench.method.teacher.module.classifier.parameters():
            parameter.zero_()
    terms = bench.losses(bench.batch())
    assert terms["consistency"].item() == 0
    terms["consistency"].backward()
    assert all(torch.isfinite(p.grad).all() for p in bench.method.student.parameters() if p.grad is not None)


def test_the_student_is_evaluated_where_one_asks_for_it():
    assert Workbench(NAME, settings={"evaluate": "student"}).method.inference_modules()[0].training
    method = Workbench(NAME).method
    assert method.inference_modules() == (method.teacher,)
