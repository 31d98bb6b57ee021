import itertools

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.losses.dice import dice_linear, dice_soft, dice_squared

SPACES = [(3, 4), (2, 3, 2)]
both = pytest.mark.parametrize(("dice", "power"), [(dice_squared, 2), (dice_linear, 1)])


def slow_dice(probabilities, label, power, smooth, weight=None):
    """Class by class, voxel by voxel."""
    losses = []
    for k in range(probabilities.shape[1]):
        overlap = prediction = reference = 0.0
        for b, *voxel in itertools.product(*(range(n) for n in label.shape)):
            place = (b, *voxel)
            if label[place] == IGNORE:
                continue
            p, g = probabilities[(b, k, *voxel)], float(label[place] == k)
            w = 1.0 if weight is None else weight[place]
            overlap += w * p * g
            prediction += w * p**power
            reference += w * g**power
        losses.append(1 - (2 * overlap + smooth) / (prediction + reference + smooth))
    return np.array(losses)


def sample(space, classes=3):
    generator = torch.Generator().manual_seed(len(space))
    probabilities = torch.randn(2, classes, *space, generator=generator, dtype=torch.float64).softmax(1)
    label = torch.randint(0, classes, (2, *space), generator=generator)
    label[torch.rand(2, *space, generator=generator) < 0.2] = IGNORE
    return probabilities, label, torch.rand(2, *space, generator=generator, dtype=torch.float64)


WORKED_P = torch.tensor([[[[2.0, 0.5], [-1.0, 0.0]], [[0.0, 1.5], [1.0, 3.0]]]], dtype=torch.float64).softmax(1)
WORKED_LABEL = torch.tensor([[[0, 1], [1, 1]]])


def test_worked_value_squared():
    background, foreground = dice_squared(WORKED_P, WORKED_LABEL).tolist()
    assert foreground == pytest.approx(0.019687, abs=1e-6)
    assert background == pytest.approx(0.055238, abs=1e-6)


def test_worked_value_linear():
    losses = dice_linear(WORKED_P, WORKED_LABEL)
    assert losses[1].item() == pytest.approx(0.097609, abs=1e-6)
    assert losses.mean().item() == pytest.approx(0.168555, abs=1e-6)


@pytest.mark.parametrize(("dice", "expected"), [(dice_squared, 0.999833), (dice_linear, 0.999975)])
def test_a_class_absent_from_the_label_costs_nearly_one(dice, expected):
    foreground = torch.tensor([[0.1, 0.2], [0.0, 0.1]], dtype=torch.float64)
    p = torch.stack([1 - foreground, foreground]).unsqueeze(0)
    assert dice(p, torch.zeros(1, 2, 2, dtype=torch.long))[1].item() == pytest.approx(expected, abs=1e-6)


@both
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("smooth", [1e-5, 1e-10, 1.0])
def test_agrees_with_a_loop_over_voxels(dice, power, space, smooth):
    p, label, weight = sample(space)
    assert np.allclose(dice(p, label, smooth=smooth).numpy(), slow_dice(p.numpy(), label.numpy(), power, smooth))
    assert np.allclose(
        dice(p, label, weight, smooth).numpy(), slow_dice(p.numpy(), label.numpy(), power, smooth, weight.numpy())
    )


@both
@pytest.mark.parametrize("space", SPACES)
def test_gradient_in_float64(dice, power, space):
    p, label, weight = sample(space)
    assert torch.autograd.gradcheck(lambda z: dice(z.softmax(1), label, weight), p.log().requires_grad_())


@both
@pytest.mark.parametrize("space", SPACES)
def test_a_perfect_prediction_costs_nothing(dice, power, space):
    _, label, _ = sample(space)
    p = torch.stack([label == k for k in range(3)], 1).double()
    assert dice(p, label).abs().max() < 1e-12


@both
def test_sums_run_over_the_whole_batch(dice, power):
    p, label, _ = sample((4, 6))
    side_by_side = torch.cat([p[:1], p[1:]], -1), torch.cat([label[:1], label[1:]], -1)
    assert torch.allclose(dice(p, label), dice(*side_by_side))


@both
def test_ignored_voxels_leave_all_sums(dice, power):
    p, label, _ = sample((4, 6))
    label[:, :, 3:] = IGNORE
    assert torch.allclose(dice(p, label), dice(p[..., :3], label[..., :3]))


@both
def test_nothing_that_counts_costs_nothing(dice, power):
    p, label, weight = sample((4, 5))
    p.requires_grad_()
    for loss in (dice(p, torch.full_like(label, IGNORE)), dice(p, label, 0 * weight)):
        loss.sum().backward()
        assert (loss == 0).all()
        assert (p.grad == 0).all()


@both
def test_half_precision_is_computed_in_float32(dice, power):
    p, label, _ = sample((40, 50))
    with torch.autocast("cpu", torch.bfloat16):
        loss = dice(p.bfloat16(), label)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss.double(), dice(p.bfloat16().double(), label), atol=1e-6)


def test_worked_value_of_a_soft_target():
    # p = (0.5, 0), q = (1, 0.5): Σpq 0.5, Σp² 0.25, Σq² 1.25.
    p, q = (torch.tensor([[[values]]], dtype=torch.float64) for values in ([0.5, 0.0], [1.0, 0.5]))
    assert dice_soft(p, q, smooth=0).item() == pytest.approx(1 - 1 / 1.5)


@pytest.mark.parametrize("space", SPACES)
def test_a_soft_target_agrees_with_a_loop_over_voxels(space):
    p, _, weight = sample(space)
    q = p.flip(1, 2)
    for k, found in enumerate(dice_soft(p, q, weight).tolist()):
        places = [(b, k, *voxel) for b, *voxel in np.ndindex(weight.shape)]
        w = [weight[(b, *voxel)].item() for b, _, *voxel in places]
        pairs = [(p[place].item(), q[place].item()) for place in places]
        overlap = sum(c * a * b for c, (a, b) in zip(w, pairs, strict=True))
        sizes = sum(c * (a * a + b * b) for c, (a, b) in zip(w, pairs, strict=True))
        assert found == pytest.approx(1 - (2 * overlap + 1e-5) / (sizes + 1e-5), rel=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_a_soft_target_that_is_met_costs_nothing_and_has_a_gradient_in_float64(space):
    p, _, weight = sample(space)
    assert dice_soft(p, p).abs().max() < 1e-12
    assert dice_soft(p, p.flip(1), torch.zeros_like(weight)).abs().max() == 0
    assert torch.autograd.gradcheck(lambda p, q: dice_soft(p, q, weight), (p.requires_grad_(), p.detach().flip(1)))
    assert torch.equal(dice_soft(p.bfloat16(), p.bfloat16()), dice_soft(p.bfloat16().float(), p.bfloat16().float()))
