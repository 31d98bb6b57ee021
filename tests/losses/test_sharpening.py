import itertools

import numpy as np
import pytest
import torch

from semivox.losses.mutual import mutual_mse
from semivox.losses.sharpening import sharpen, sharpen_classes

SPACES = [(3, 4), (2, 3, 2)]


def sample(space, classes=3, maps=1):
    generator = torch.Generator().manual_seed(len(space))
    return torch.randn(maps, 2, classes, *space, generator=generator, dtype=torch.float64)


def slow_sharpen(p, temperature):
    return p ** (1 / temperature) / (p ** (1 / temperature) + (1 - p) ** (1 / temperature))


def slow_mutual(maps, mask, temperature):
    total = 0.0
    for i, j in itertools.permutations(range(len(maps)), 2):
        squares = []
        for b, *voxel in itertools.product(*(range(n) for n in mask.shape)):
            if mask[(b, *voxel)]:
                one, other = (np.exp(z[(b, slice(None), *voxel)]) for z in (maps[i], maps[j]))
                target = [slow_sharpen(q, temperature) for q in other / other.sum()]
                squares += [(p - q) ** 2 for p, q in zip(one / one.sum(), target, strict=True)]
        total += np.mean(squares)
    return total


def test_worked_values():
    # 0.6^10 / (0.6^10 + 0.4^10) = 1 / (1 + (2/3)^10); T = ½ squares: 0.36 / (0.36 + 0.16).
    p = torch.tensor([0.6, 0.5, 0.0, 1.0], dtype=torch.float64)
    assert sharpen(p, 0.1).tolist() == pytest.approx([1 / (1 + (2 / 3) ** 10), 0.5, 0.0, 1.0], rel=1e-12)
    assert sharpen(p, 0.5)[0].item() == pytest.approx(0.36 / 0.52, rel=1e-12)
    classes = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).view(1, 3, 1, 1)
    assert sharpen_classes(classes, 0.5).flatten().tolist() == pytest.approx([25 / 38, 9 / 38, 4 / 38], rel=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("space", SPACES)
def test_both_forms_are_one_for_two_classes(space, temperature):
    p = sample(space, classes=2)[0].softmax(1)
    torch.testing.assert_close(sharpen(p, temperature), sharpen_classes(p, temperature))


@pytest.mark.parametrize("space", SPACES)
def test_of_three_classes_only_the_normalised_form_sums_to_one(space):
    p = sample(space)[0].softmax(1)
    assert (sharpen_classes(p, 0.1).sum(1) - 1).abs().max() < 1e-12
    assert (sharpen(p, 0.1).sum(1) - 1).abs().max() > 0.1
    for form in (sharpen, sharpen_classes):
        assert torch.equal(form(p, 0.1).argmax(1), p.argmax(1))
        torch.testing.assert_close(form(p, 1.0), p)


@pytest.mark.parametrize("form", [sharpen, sharpen_classes])
def test_no_temperature_and_no_certainty_gives_nan(form):
    logits = torch.tensor([0.0, 200.0, -200.0, 1e-3]).view(1, 4, 1, 1).requires_grad_()
    for temperature in (1e-3, 0.01, 0.1):
        found = form(logits.softmax(1), temperature)
        (gradient,) = torch.autograd.grad(found.square().sum(), logits)
        assert torch.isfinite(found).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("form", [sharpen, sharpen_classes])
def test_gradient_in_float64(form, space):
    assert torch.autograd.gradcheck(lambda z: form(z.softmax(1), 0.2), sample(space)[0].requires_grad_())


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("space", SPACES)
def test_mutual_mse_agrees_with_a_loop_over_pairs_and_voxels(space, count):
    maps = sample(space, maps=count)
    mask = torch.rand(2, *space, generator=torch.Generator().manual_seed(1)) > 0.3
    expected = slow_mutual(maps.numpy(), mask.numpy(), 0.1)
    assert mutual_mse(list(maps), 0.1, mask).item() == pytest.approx(expected, rel=1e-12)
    assert mutual_mse(list(maps), 0.1, mask, detach=True).item() == pytest.approx(expected, rel=1e-12)
    assert mutual_mse(list(maps), 0.1, torch.zeros_like(mask)).item() == 0


@pytest.mark.parametrize("space", SPACES)
def test_mutual_mse_has_its_gradient_in_float64(space):
    first, second = sample(space, maps=2)
    assert torch.autograd.gradcheck(
        lambda z, w: mutual_mse([z, w], 0.3), (first.requires_grad_(), second.requires_grad_())
    )


def test_a_detached_target_leaves_the_gradient_of_the_prediction_alone():
    first, second = sample((3, 4), maps=2)
    first.requires_grad_()
    (found,) = torch.autograd.grad(mutual_mse([first, second], 0.1, detach=True), first)
    target = sharpen(second.softmax(1), 0.1)
    (expected,) = torch.autograd.grad((first.softmax(1) - target).square().mean(), first)
    torch.testing.assert_close(found, expected)
    (through,) = torch.autograd.grad(mutual_mse([first, second], 0.1), first)
    assert (through - found).abs().max() > 1e-4


def test_half_precision_is_computed_in_float32():
    maps = sample((4, 5), maps=2).bfloat16()
    found = mutual_mse(list(maps), 0.1)
    assert found.dtype == torch.float32
    assert torch.equal(found, mutual_mse(list(maps.float()), 0.1))
