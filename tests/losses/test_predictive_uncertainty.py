import itertools
import math

import numpy as np
import pytest
import torch

from semivox.losses.uncertainty import (
    entropy_threshold,
    log_mean,
    prediction_variance,
    predictive_entropy,
    steadiness,
)

SPACES = [(3, 4), (2, 3, 2)]


def passes(space, count=5, classes=3):
    generator = torch.Generator().manual_seed(len(space))
    return 2 * torch.randn(count, 2, classes, *space, generator=generator, dtype=torch.float64)


def slow_mean(logits):
    mean = np.zeros(logits.shape[1:])
    for n, b, *voxel in itertools.product(*(range(n) for n in (*logits.shape[:2], *logits.shape[3:]))):
        odds = np.exp(logits[(n, b, slice(None), *voxel)])
        mean[(b, slice(None), *voxel)] += odds / odds.sum() / len(logits)
    return mean


@pytest.mark.parametrize(("step", "expected"), [(0, 0.521028), (1500, 0.530267), (3000, 0.569508), (6000, 0.693147)])
def test_the_threshold_has_the_published_values(step, expected):
    assert entropy_threshold(step / 6000, 2) == pytest.approx(expected, abs=1e-6)


def test_the_threshold_ends_at_the_largest_entropy_of_any_number_of_classes():
    for classes in (2, 3, 7):
        assert entropy_threshold(1.0, classes) == math.log(classes)


def test_two_passes_worked_by_hand():
    # (0.9, 0.1) and (0.5, 0.5) have the mean (0.7, 0.3), of entropy 0.7 · 0.356675 + 0.3 · 1.203973 = 0.610864.
    logits = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log().view(2, 1, 2, 1, 1)
    assert predictive_entropy(logits).item() == pytest.approx(0.610864, abs=1e-6)
    torch.testing.assert_close(log_mean(logits).exp().flatten(), torch.tensor([0.7, 0.3]))


def test_passes_that_are_sure_of_different_classes_are_unsure_together():
    logits = torch.zeros(2, 1, 2, 1, 1)
    logits[0, :, 0] = logits[1, :, 1] = 1000
    assert predictive_entropy(logits).item() == pytest.approx(math.log(2))
    assert predictive_entropy(logits[:1]).item() == 0


@pytest.mark.parametrize("space", SPACES)
def test_mean_and_entropy_agree_with_a_loop_over_voxels(space):
    logits = passes(space)
    mean = slow_mean(logits.numpy())
    np.testing.assert_allclose(log_mean(logits.log_softmax(2)).exp(), mean, rtol=1e-12)
    np.testing.assert_allclose(predictive_entropy(logits), -(mean * np.log(mean)).sum(1), rtol=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_gradient_in_float64(space):
    assert torch.autograd.gradcheck(predictive_entropy, passes(space, count=2).requires_grad_())


def test_half_precision_is_computed_in_float32():
    logits = passes((4, 5)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        uncertainty = predictive_entropy(logits)
    assert torch.equal(uncertainty, predictive_entropy(logits.float()))


def test_worked_values_of_variance_and_steadiness():
    # One voxel of three predictions of two classes, 0.2, 0.4, 0.9 of the first: mean 0.5, variance 0.26 / 3.
    said = torch.tensor([[0.2, 0.8], [0.4, 0.6], [0.9, 0.1]], dtype=torch.float64).view(3, 1, 2, 1, 1)
    assert prediction_variance(said).item() == pytest.approx(0.086667, abs=1e-6)
    assert steadiness(said).item() == pytest.approx(0.653333, abs=1e-6)
    extremes = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 1, 2, 1, 1)
    assert steadiness(extremes).item() == 0
    assert steadiness(said[:1]).item() == 1


@pytest.mark.parametrize("space", SPACES)
def test_the_variance_agrees_with_a_loop_over_voxels(space):
    said = passes(space).softmax(2)
    found = prediction_variance(said).numpy()
    for b, *voxel in itertools.product(*(range(n) for n in found.shape)):
        values = said[(slice(None), b, slice(None), *voxel)].tolist()
        means = [sum(one[k] for one in values) / len(values) for k in range(3)]
        squares = [sum((one[k] - means[k]) ** 2 for one in values) / len(values) for k in range(3)]
        assert found[(b, *voxel)] == pytest.approx(sum(squares) / 3)


@pytest.mark.parametrize("space", SPACES)
def test_gradient_of_the_variance(space):
    assert torch.autograd.gradcheck(steadiness, passes(space, count=3).softmax(2).requires_grad_())
