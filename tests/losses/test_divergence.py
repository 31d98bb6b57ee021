import itertools
import math

import numpy as np
import pytest
import torch

from semivox.losses.divergence import jensen_shannon, kl_divergence

SPACES = [(3, 4), (2, 3, 2)]
LOSSES = [kl_divergence, jensen_shannon]


def sample(space, classes=3):
    generator = torch.Generator().manual_seed(len(space))
    first, second = 2 * torch.randn(2, 2, classes, *space, generator=generator, dtype=torch.float64)
    return first, second, torch.rand(2, *space, generator=generator) > 0.3


def kl(q, p):
    return sum(a * np.log(a / b) for a, b in zip(q, p, strict=True))


def slow(loss, first, second, mask):
    values = []
    for b, *voxel in itertools.product(*(range(n) for n in mask.shape)):
        if mask[(b, *voxel)]:
            q, p = (np.exp(z[(b, slice(None), *voxel)]) for z in (first, second))
            q, p = q / q.sum(), p / p.sum()
            middle = (q + p) / 2
            values.append(kl(q, p) if loss is kl_divergence else (kl(q, middle) + kl(p, middle)) / 2)
    return np.mean(values)


def test_values_worked_by_hand():
    # q = (¾, ¼), p = (½, ½): KL(q ‖ p) = ln 2 - H(q) = 0.693147 - 0.562335; the middle (⅝, ⅜) has H = 0.661563, so that
    # JS = 0.661563 - ½ (0.562335 + 0.693147).
    q, p = (torch.tensor(values).log().view(1, 2, 1, 1) for values in ([0.75, 0.25], [0.5, 0.5]))
    assert kl_divergence(q, p).item() == pytest.approx(0.130812, abs=1e-6)
    assert jensen_shannon(q, p).item() == pytest.approx(0.033822, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("space", SPACES)
def test_agrees_with_a_loop_over_voxels(space, loss):
    first, second, mask = sample(space)
    arrays = first.numpy(), second.numpy()
    assert loss(first, second, mask).item() == pytest.approx(slow(loss, *arrays, mask.numpy()), rel=1e-10)
    assert loss(first, second).item() == pytest.approx(slow(loss, *arrays, np.ones(mask.shape)), rel=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("space", SPACES)
def test_gradient_in_float64_to_both(space, loss):
    first, second, mask = sample(space)
    inputs = first.requires_grad_(), second.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, mask), inputs)


@pytest.mark.parametrize("loss", LOSSES)
def test_equals_cost_nothing_and_sure_contradictions_stay_finite(loss):
    logits = 5 * torch.randn(1, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    assert loss(logits, logits).item() == pytest.approx(0, abs=1e-6)
    opposed = torch.zeros(2, 1, 2, 1, 1)
    opposed[0, :, 0] = opposed[1, :, 1] = 1e4
    value = loss(*opposed.requires_grad_())
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(opposed.grad).all()


def test_jensen_shannon_is_symmetric_and_at_most_ln_2():
    first, second, mask = sample((3, 4))
    assert jensen_shannon(first, second, mask).item() == pytest.approx(jensen_shannon(second, first, mask).item())
    opposed = torch.tensor([[50.0, 0.0], [0.0, 50.0]]).view(2, 1, 2, 1, 1)
    assert jensen_shannon(*opposed).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("space", SPACES)
def test_an_empty_mask_costs_nothing(space, loss):
    first, second, mask = sample(space)
    value = loss(first, second.requires_grad_(), torch.zeros_like(mask))
    value.backward()
    assert value.item() == 0
    assert (second.grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_float32(loss):
    first, second, _ = (part.bfloat16() for part in sample((4, 5)))
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(first, second)
    assert torch.equal(value, loss(first.float(), second.float()))
