import numpy as np
import pytest
import torch

from semivox.losses.virtual_adversarial import adversarial_direction, smoothness_dice, unit

SPACES = [(3, 4), (2, 3, 2)]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_worked_value_of_a_power_step():
    # D(d) = ½ (4 d₁² + d₂²) from d = (0.6, 0.8): ∇ = ξ (2.4, 0.8), of direction (3, 1) / √10 whatever ξ is.
    scale = torch.tensor([4.0, 1.0]).double()
    start = torch.tensor([[3.0, 4.0]]).double()
    for xi in (1e-6, 1.0, 10.0):
        found = adversarial_direction(lambda d: (scale * d.square()).sum() / 2, start, xi)
        assert np.allclose(found.numpy(), [[3 / 10**0.5, 1 / 10**0.5]])


@pytest.mark.parametrize("space", SPACES)
def test_the_direction_is_that_of_slow_differences(space):
    """D by NumPy, its gradient at ξ d by central differences, sample by sample."""
    matrix, start = random(5, 2 * int(np.prod(space)), seed=1), random(2, 2, *space)

    def divergence(change):
        return (change.flatten(1) @ matrix.to(change).T).sin().square().sum()

    def slow(change):
        return np.square(np.sin(change.reshape(2, -1) @ matrix.numpy().T)).sum()

    xi, step = 0.3, 1e-6
    place = np.stack([xi * one / np.linalg.norm(one) for one in start.numpy()])
    gradient = np.zeros_like(place)
    for index in np.ndindex(place.shape):
        up, down = place.copy(), place.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (slow(up) - slow(down)) / (2 * step)
    expected = np.stack([one / np.linalg.norm(one) for one in gradient])
    found = adversarial_direction(divergence, start, xi)
    assert np.allclose(found.numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("space", SPACES)
def test_every_sample_has_norm_one_or_zero(space):
    x = random(3, 2, *space)
    x[1] = 0
    norms = [float(np.sqrt(np.square(one).sum())) for one in unit(x).numpy()]
    assert norms == pytest.approx([1, 0, 1])
    found = adversarial_direction(lambda d: (d[0] * d[2]).sum(), x, 1.0)
    assert found[1].abs().max() == 0
    assert found.isfinite().all()


def test_no_weight_gets_a_gradient_and_none_is_needed_around():
    weight = torch.nn.Parameter(torch.ones(4))
    with torch.no_grad():
        found = adversarial_direction(lambda d: (weight * d).square().sum(), torch.randn(1, 4), 1.0)
    assert not found.requires_grad
    assert weight.grad is None


def test_the_direction_of_a_half_precision_network_is_float32():
    found = adversarial_direction(lambda d: d.bfloat16().square().sum(), torch.randn(2, 3).bfloat16(), 1.0)
    assert found.dtype == torch.float32


def test_a_divergence_as_small_as_a_mean_over_a_volume_is_not_lost_in_float16():
    start = random(1, 1, 64, 64, 64)
    found = adversarial_direction(lambda d: d.half().float().square().mean(), start.float(), 1.0)
    assert torch.nn.functional.cosine_similarity(found.flatten(), start.float().flatten(), 0) > 0.99


def test_a_prediction_that_withstands_costs_nothing():
    logits = random(2, 3, 4, 5)
    assert smoothness_dice(logits, logits.softmax(1)).item() == pytest.approx(0, abs=1e-12)
    assert smoothness_dice(logits, logits.flip(1).softmax(1)).item() > 0.1


def test_worked_value_of_smoothness():
    # One voxel of two classes: p = (½, ½), q = (1, 0). 1 - 2·½ / (¼ + 1) = 0.2, 1 - 0 / ¼ = 1; mean 0.6.
    found = smoothness_dice(torch.zeros(1, 2, 1, 1), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    assert found.item() == pytest.approx(0.6, abs=1e-4)


@pytest.mark.parametrize("space", SPACES)
def test_smoothness_agrees_with_a_loop_over_voxels(space):
    logits, target = random(2, 3, *space), random(2, 3, *space, seed=1).softmax(1)
    mask = random(2, *space, seed=2) > -0.5
    losses = []
    for k in range(3):
        overlap = sizes = 0.0
        for b, *voxel in np.argwhere(mask.numpy()):
            powers = np.exp(logits[(b, slice(None), *voxel)].numpy())
            p, q = powers[k] / powers.sum(), target[(b, k, *voxel)].item()
            overlap, sizes = overlap + p * q, sizes + p * p + q * q
        losses.append(1 - (2 * overlap + 1e-5) / (sizes + 1e-5))
    assert smoothness_dice(logits, target, mask).item() == pytest.approx(np.mean(losses), rel=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_smoothness_has_a_gradient_in_float64_and_is_zero_over_nothing(space):
    logits, target = random(2, 3, *space), random(2, 3, *space, seed=1).softmax(1)
    mask = random(2, *space, seed=2) > 0
    assert torch.autograd.gradcheck(lambda z: smoothness_dice(z, target, mask), logits.requires_grad_())
    assert smoothness_dice(logits, target, torch.zeros_like(mask)).item() == 0
