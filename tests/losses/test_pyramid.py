import itertools

import numpy as np
import pytest
import torch

from semivox.losses.pyramid import pyramid_consistency

SPACES = [(3, 4), (2, 3, 2)]


def sample(space, scales=3, classes=3):
    generator = torch.Generator().manual_seed(len(space))
    logits = torch.randn(scales, 2, classes, *space, generator=generator, dtype=torch.float64)
    return logits, torch.rand(2, *space, generator=generator) > 0.3


def slow(logits, mask):
    scales, _, classes = logits.shape[:3]
    total = 0.0
    for scale in range(scales):
        squares, weights, divergences = [], [], []
        for b, *voxel in itertools.product(*(range(n) for n in mask.shape)):
            if not mask[(b, *voxel)]:
                continue
            odds = np.exp(logits[(slice(None), b, slice(None), *voxel)])
            p = odds / odds.sum(1, keepdims=True)
            mean = p.mean(0)
            divergence = sum(mean[c] * np.log(mean[c] / p[scale, c]) for c in range(classes))
            weights.append(np.exp(-divergence))
            squares += [(mean[c] - p[scale, c]) ** 2 * weights[-1] for c in range(classes)]
            divergences.append(divergence)
        total += np.mean(squares) / np.mean(weights) + np.mean(divergences)
    return total / scales


def test_a_value_worked_by_hand():
    # (0.9, 0.1) and (0.5, 0.5) have the mean (0.7, 0.3): each differs from it by 0.2, squared 0.04; the divergences are
    # 0.7 ln(7/9) + 0.3 ln 3 = 0.153664 and 0.7 ln(7/5) + 0.3 ln(3/5) = 0.082283. Of one voxel the weight cancels.
    logits = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log().view(2, 1, 2, 1, 1)
    assert pyramid_consistency(logits).item() == pytest.approx(0.04 + (0.153664 + 0.082283) / 2, abs=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_agrees_with_a_loop_over_voxels(space):
    logits, mask = sample(space)
    assert pyramid_consistency(logits, mask).item() == pytest.approx(slow(logits.numpy(), mask.numpy()), rel=1e-12)
    assert pyramid_consistency(logits).item() == pytest.approx(slow(logits.numpy(), np.ones(mask.shape)), rel=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_gradient_in_float64_mean_and_weights_included(space):
    logits, mask = sample(space)
    assert torch.autograd.gradcheck(lambda z: pyramid_consistency(z, mask), logits.requires_grad_())


def test_scales_that_agree_cost_nothing_and_never_less():
    logits = 5 * torch.randn(1, 2, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    assert 0 <= pyramid_consistency(logits.expand(4, *logits.shape[1:])).item() < 1e-6


def test_scales_sure_of_different_classes_are_finite():
    logits = torch.zeros(2, 1, 2, 1, 1)
    logits[0, :, 0] = logits[1, :, 1] = 1e4
    loss = pyramid_consistency(logits.requires_grad_())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("space", SPACES)
def test_an_empty_mask_costs_nothing(space):
    logits, mask = sample(space)
    loss = pyramid_consistency(logits.requires_grad_(), torch.zeros_like(mask))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_half_precision_is_computed_in_float32():
    logits = sample((4, 5))[0].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = pyramid_consistency(logits)
    assert torch.equal(loss, pyramid_consistency(logits.float()))
