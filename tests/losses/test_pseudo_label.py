import itertools

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.losses.pseudo_label import (
    confidence_weighted_cross_entropy,
    confident_cross_entropy,
    confident_dice,
    confident_label,
)

SPACES = [(3, 4), (2, 3, 2)]


def voxels(shape):
    return itertools.product(*(range(n) for n in shape))


def sample(space, classes=3):
    """Logits, a label, which voxels are kept, which are valid; half precision nowhere."""
    generator = torch.Generator().manual_seed(len(space))
    logits = 2 * torch.randn(2, classes, *space, generator=generator, dtype=torch.float64)
    label = torch.randint(0, classes, (2, *space), generator=generator)
    valid = torch.rand(2, *space, generator=generator) < 0.8
    return logits, label, valid & (torch.rand(2, *space, generator=generator) < 0.6), valid


def slow_cross_entropy(logits, label, kept, valid):
    """Voxel by voxel: Σ over kept of -ln p_y, divided by the number of valid voxels."""
    total = count = 0.0
    for b, *voxel in voxels(label.shape):
        place = (b, *voxel)
        count += valid[place]
        if kept[place]:
            z = logits[(b, slice(None), *voxel)]
            total -= z[label[place]] - np.log(np.exp(z).sum())
    return total / count


def slow_dice(logits, label, kept, smooth=1e-5):
    """Class by class, voxel by voxel: 1 - (2 Σpg + s) / (Σp² + Σg² + s) over kept voxels, mean over classes."""
    losses = []
    for k in range(logits.shape[1]):
        overlap = prediction = reference = 0.0
        for b, *voxel in voxels(label.shape):
            if kept[(b, *voxel)]:
                z = logits[(b, slice(None), *voxel)]
                p, g = np.exp(z[k]) / np.exp(z).sum(), float(label[(b, *voxel)] == k)
                overlap, prediction, reference = overlap + p * g, prediction + p * p, reference + g
        losses.append(1 - (2 * overlap + smooth) / (prediction + reference + smooth))
    return np.mean(losses)


@pytest.mark.parametrize("space", SPACES)
def test_a_label_is_kept_where_it_is_confident_and_inside_the_scan(space):
    logits, _, _, valid = sample(space)
    probabilities = logits.softmax(1)
    label, kept = confident_label(probabilities, valid, 0.7)
    assert 0 < kept.sum() < valid.sum() < valid.numel()
    for b, *voxel in voxels(label.shape):
        place = (b, *voxel)
        p = probabilities[(b, slice(None), *voxel)].numpy()
        assert label[place] == max(range(len(p)), key=lambda k: p[k])
        assert kept[place] == (bool(valid[place]) and max(p) >= 0.7)


def test_the_threshold_itself_is_confident_enough():
    probabilities = torch.tensor([0.25, 0.75]).view(1, 2, 1, 1)
    inside = torch.ones(1, 1, 1, dtype=torch.bool)
    assert confident_label(probabilities, inside, 0.75)[1].all()
    assert not confident_label(probabilities, inside, 0.7501)[1].any()


def test_a_confidence_is_compared_in_float32():
    """In bfloat16 both numbers are 0.94921875 or 0.953125; the threshold lies between."""
    probabilities = torch.tensor([0.049, 0.951]).view(1, 2, 1, 1)
    inside = torch.ones(1, 1, 1, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        assert confident_label(probabilities, inside, 0.95)[1].all()


@pytest.mark.parametrize("space", SPACES)
def test_cross_entropy_agrees_with_a_loop_over_voxels(space):
    logits, label, kept, valid = sample(space)
    expected = slow_cross_entropy(*(x.numpy() for x in (logits, label, kept, valid)))
    assert confident_cross_entropy(logits, label, kept, valid).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_dice_agrees_with_a_loop_over_voxels(space):
    logits, label, kept, _ = sample(space)
    expected = slow_dice(*(x.numpy() for x in (logits, label, kept)))
    assert confident_dice(logits, label, kept).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_gradients_in_float64(space):
    logits, label, kept, valid = sample(space)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: confident_cross_entropy(z, label, kept, valid), logits)
    assert torch.autograd.gradcheck(lambda z: confident_dice(z, label, kept), logits)


@pytest.mark.parametrize("space", SPACES)
def test_where_nothing_is_confident_the_loss_is_zero_and_so_is_its_gradient(space):
    logits, label, kept, valid = sample(space)
    logits.requires_grad_()
    nothing = torch.zeros_like(kept)
    for loss in (
        confident_cross_entropy(logits, label, nothing, valid),
        confident_cross_entropy(logits, label, nothing, nothing),
        confident_dice(logits, label, nothing),
    ):
        loss.backward()
        assert loss.item() == 0
        assert (logits.grad == 0).all()


@pytest.mark.parametrize("space", SPACES)
def test_voxels_that_are_not_kept_have_no_say(space):
    logits, label, kept, valid = sample(space)
    changed = torch.where(kept.unsqueeze(1), logits, 50 * torch.randn_like(logits))
    relabelled = label.masked_fill(~kept, IGNORE)
    assert torch.allclose(
        confident_cross_entropy(changed, relabelled, kept, valid), confident_cross_entropy(logits, label, kept, valid)
    )
    assert torch.allclose(confident_dice(changed, relabelled, kept), confident_dice(logits, label, kept))


def test_half_precision_is_computed_in_float32():
    logits, label, kept, valid = sample((30, 40))
    half = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        losses = confident_cross_entropy(half, label, kept, valid), confident_dice(half, label, kept)
    exact = confident_cross_entropy(half.float(), label, kept, valid), confident_dice(half.float(), label, kept)
    assert all(loss.dtype == torch.float32 for loss in losses)
    assert torch.allclose(torch.stack(losses), torch.stack(exact))


def test_dice_of_the_confident_of_the_worked_example():
    first = torch.tensor([0.9, 0.6, 0.2, 0.3], dtype=torch.float64)
    logits = torch.stack([first, 1 - first]).log()[None]
    label = torch.tensor([[0, 0, 1, 0]])
    kept = torch.tensor([[0.97, 0.96, 0.99, 0.60]]) >= 0.95
    assert confident_dice(logits, label, kept).item() == pytest.approx(0.090721, abs=1e-6)
    assert confident_dice(logits, label, torch.ones_like(kept)).item() == pytest.approx(0.233568, abs=1e-6)
    assert confident_dice(logits, label, torch.zeros_like(kept)).item() == 0


def test_cross_entropy_over_all_voxels_of_the_worked_example():
    logits = torch.tensor([[2, 0], [1, 1.5], [-1, 3], [0.5, 0]], dtype=torch.float64).T[None]
    label, confidence = torch.tensor([[0, 1, 1, 0]]), torch.tensor([[0.98, 0.80, 0.97, 0.95]], dtype=torch.float64)
    found = confident_cross_entropy(logits, label, confidence >= 0.95, torch.ones(1, 4, dtype=torch.bool))
    assert found.item() == pytest.approx(0.154789, abs=1e-6)


def test_a_value_weighed_by_confidence_worked_by_hand():
    # Equal logits: CE = ln 2 in each voxel. Of three kept voxels (0.6 + 0.8 + 1) / 3 · ln 2; the fourth is not kept.
    confidence = torch.tensor([[[0.6, 0.8, 1.0, 0.9]]])
    kept = torch.tensor([[[True, True, True, False]]])
    found = confidence_weighted_cross_entropy(torch.zeros(1, 2, 1, 4), torch.ones(1, 1, 4).long(), confidence, kept)
    assert found.item() == pytest.approx(0.8 * np.log(2))


@pytest.mark.parametrize("space", SPACES)
def test_weighing_by_confidence_agrees_with_a_loop_over_voxels(space):
    logits, label, kept, _ = sample(space)
    confidence = logits.flip(1).softmax(1).amax(1)
    terms = []
    for place in np.argwhere(kept.numpy()):
        z = logits[(place[0], slice(None), *place[1:])].numpy()
        terms.append(confidence[tuple(place)].item() * (np.log(np.exp(z).sum()) - z[label[tuple(place)]]))
    found = confidence_weighted_cross_entropy(logits, label, confidence, kept)
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_weighing_by_confidence_has_a_gradient_in_float64_and_costs_nothing_where_nothing_is_kept(space):
    logits, label, kept, _ = sample(space)
    confidence = logits.flip(1).softmax(1).amax(1)
    assert torch.autograd.gradcheck(
        lambda z: confidence_weighted_cross_entropy(z, label, confidence, kept), logits.requires_grad_()
    )
    assert confidence_weighted_cross_entropy(logits, label, confidence, torch.zeros_like(kept)).item() == 0
