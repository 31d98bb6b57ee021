import itertools
import math

import numpy as np
import pytest
import torch

from semivox.losses.entropy import entropy, normalised_entropy

SPACES = [(3, 4), (2, 3, 2)]


def sample(space, classes=3):
    generator = torch.Generator().manual_seed(len(space))
    logits = 2 * torch.randn(2, classes, *space, generator=generator, dtype=torch.float64)
    return logits, torch.rand(2, *space, generator=generator) > 0.3


def slow(logits, mask):
    values = []
    for b, *voxel in itertools.product(*(range(n) for n in mask.shape)):
        if mask[(b, *voxel)]:
            odds = np.exp(logits[(b, slice(None), *voxel)])
            values.append(-sum(p * np.log(p) for p in odds / odds.sum()) / np.log(len(odds)))
    return np.mean(values)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_is_one_where_all_classes_are_alike_and_zero_where_one_is_sure(classes):
    even = torch.full((1, classes, 2, 3), 0.7)
    assert normalised_entropy(even).item() == pytest.approx(1, abs=1e-6)
    sure = torch.zeros(1, classes, 2, 3)
    sure[:, 1] = 1000
    assert normalised_entropy(sure).item() == 0


def test_a_value_worked_by_hand():
    logits = torch.tensor([0.5, 0.25, 0.25]).log().view(1, 3, 1, 1)
    assert normalised_entropy(logits).item() == pytest.approx(1.5 * math.log(2) / math.log(3))
    assert entropy(logits).item() == pytest.approx(1.5 * math.log(2))


@pytest.mark.parametrize("space", SPACES)
def test_agrees_with_a_loop_over_voxels(space):
    logits, mask = sample(space)
    assert normalised_entropy(logits, mask).item() == pytest.approx(slow(logits.numpy(), mask.numpy()), rel=1e-12)
    assert normalised_entropy(logits).item() == pytest.approx(slow(logits.numpy(), np.ones(mask.shape)), rel=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_gradient_in_float64(space):
    logits, mask = sample(space)
    assert torch.autograd.gradcheck(lambda z: normalised_entropy(z, mask), logits.requires_grad_())


@pytest.mark.parametrize("space", SPACES)
def test_an_empty_mask_costs_nothing(space):
    logits, mask = sample(space)
    loss = normalised_entropy(logits.requires_grad_(), torch.zeros_like(mask))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_half_precision_is_computed_in_float32():
    logits, _ = sample((4, 5))
    with torch.autocast("cpu", torch.bfloat16):
        loss = normalised_entropy(logits.bfloat16())
    assert torch.equal(loss, normalised_entropy(logits.bfloat16().float()))
