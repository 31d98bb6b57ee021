import itertools

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.losses.cross_entropy import cross_entropy

SPACES = [(3, 4), (2, 3, 2)]


def slow_cross_entropy(logits, label, weight=None, class_weight=None):
    """Voxel by voxel: Σ w_v w_y (-ln p_y) / Σ w_v w_y over voxels that are not ignored."""
    total = count = 0.0
    for b, *voxel in itertools.product(*(range(n) for n in label.shape)):
        place = (b, *voxel)
        y = label[place]
        if y == IGNORE:
            continue
        z = logits[(b, slice(None), *voxel)]
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        w = (1.0 if weight is None else weight[place]) * (1.0 if class_weight is None else class_weight[y])
        total += w * -np.log(p[y])
        count += w
    return total / count if count else 0.0


def sample(space, classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(len(space))
    logits = torch.randn(2, classes, *space, generator=generator, dtype=dtype)
    label = torch.randint(0, classes, (2, *space), generator=generator)
    label[torch.rand(2, *space, generator=generator) < 0.2] = IGNORE
    weight = torch.rand(2, *space, generator=generator, dtype=dtype)
    return logits, label, weight


def test_worked_value():
    logits = torch.tensor([[[[2.0, 0.5], [-1.0, 0.0]], [[0.0, 1.5], [1.0, 3.0]]]])
    label = torch.tensor([[[0, 1], [1, 1]]])
    assert cross_entropy(logits, label).item() == pytest.approx(0.153926, abs=1e-6)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("class_weight", [None, (0.5, 2.0, 1.0)])
def test_agrees_with_a_loop_over_voxels(space, weighted, class_weight):
    logits, label, weight = sample(space)
    expected = slow_cross_entropy(logits.numpy(), label.numpy(), weight.numpy() if weighted else None, class_weight)
    actual = cross_entropy(
        logits,
        label,
        weight=weight if weighted else None,
        class_weight=None if class_weight is None else torch.tensor(class_weight),
    )
    assert actual.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_gradient_in_float64(space):
    logits, label, weight = sample(space)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, label, weight, torch.tensor([0.5, 2.0, 1.0])), logits)


@pytest.mark.parametrize("space", SPACES)
def test_ignored_voxels_have_no_say(space):
    logits, label, _ = sample(space)
    logits.requires_grad_()
    changed = logits.detach() + 100.0 * torch.randn(2, 1, *space) * (label == IGNORE).unsqueeze(1)
    loss = cross_entropy(logits, label)
    loss.backward()
    assert torch.allclose(cross_entropy(changed, label), loss)
    assert (logits.grad.movedim(1, -1)[label == IGNORE] == 0).all()


def test_a_bool_weight_is_a_mask():
    logits, label, weight = sample((4, 5))
    mask = weight > 0.5
    assert torch.allclose(
        cross_entropy(logits, label, mask), cross_entropy(logits, label.masked_fill(~mask, IGNORE)), rtol=1e-12
    )


@pytest.mark.parametrize("space", SPACES)
def test_nothing_that_counts_costs_nothing(space):
    logits, label, weight = sample(space)
    logits.requires_grad_()
    for loss in (cross_entropy(logits, torch.full_like(label, IGNORE)), cross_entropy(logits, label, 0 * weight)):
        loss.backward()
        assert loss.item() == 0
        assert (logits.grad == 0).all()


def test_half_precision_is_computed_in_float32():
    logits, label, _ = sample((4, 5), dtype=torch.float32)
    half = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(half, label)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, cross_entropy(half.float(), label))


def test_large_logits_stay_finite():
    logits = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).requires_grad_()
    loss = cross_entropy(logits, torch.ones(1, 1, 1, dtype=torch.long))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert logits.grad.isfinite().all()
