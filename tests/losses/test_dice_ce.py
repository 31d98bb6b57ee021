"""DiceCE: published values, a slow version, and that 0 is its best."""

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.losses.cross_entropy import cross_entropy
from semivox.losses.dice import dice_linear
from semivox.losses.dice_ce import dice_ce

SPACES = [(3, 4), (2, 3, 2)]
in_2d_and_3d = pytest.mark.parametrize("space", SPACES, ids=["2-D", "3-D"])

LOGITS = torch.tensor([[2, 0, -1, 0.5], [0, 1, 0.5, -0.5], [-1, -1, 2, 1.5]], dtype=torch.float64).view(1, 3, 2, 2)
LABEL = torch.tensor([[[0, 1], [2, 0]]])
WEIGHT = torch.tensor([0.5, 1.5, 2.0], dtype=torch.float64)


def sample(space, classes=3):
    generator = torch.Generator().manual_seed(len(space))
    logits = torch.randn(2, classes, *space, generator=generator, dtype=torch.float64)
    label = torch.randint(0, classes, (2, *space), generator=generator)
    label[torch.rand(2, *space, generator=generator) < 0.2] = IGNORE
    return logits, label


def slow_dice_ce(logits, label, weight):
    """Voxel by voxel; from probabilities, so that classes can be merged beforehand."""
    classes = logits.shape[1]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    total = norm = 0.0
    true, false, missed = (np.zeros(classes) for _ in range(3))
    for b, *voxel in np.argwhere(label != IGNORE):
        y = label[(b, *voxel)]
        total -= weight[y] * np.log(p[(b, y, *voxel)])
        norm += weight[y]
        for k in range(classes):
            if y == k:
                true[k] += p[(b, k, *voxel)]
                missed[k] += 1 - p[(b, k, *voxel)]
            else:
                false[k] += p[(b, k, *voxel)]
    dice = (2 * true + 1) / (2 * true + false + missed + 1 + 1e-8)
    return total / norm - np.mean([weight[k] * dice[k] for k in range(1, classes)])


def test_published_values_but_for_the_shift():
    dice = 1 - dice_linear(LOGITS.softmax(1), LABEL, smooth=1.0)
    assert dice.tolist() == pytest.approx([0.726620, 0.765408, 0.717634], abs=1e-6)
    assert cross_entropy(LOGITS, LABEL).item() == pytest.approx(0.556592, abs=1e-6)
    assert cross_entropy(LOGITS, LABEL, class_weight=WEIGHT).item() == pytest.approx(0.418391, abs=1e-6)
    assert -(WEIGHT * dice)[1:].mean().item() == pytest.approx(-1.291690, abs=1e-6)
    assert dice_ce(LOGITS, LABEL).item() - 1 == pytest.approx(-0.184929, abs=1e-6)
    assert dice_ce(LOGITS, LABEL, WEIGHT).item() - (1.5 + 2) / 2 == pytest.approx(-0.873299, abs=1e-6)


@in_2d_and_3d
@pytest.mark.parametrize("weighted", [True, False])
def test_agrees_with_a_loop_over_voxels_but_for_the_shift(space, weighted):
    logits, label = sample(space)
    weight = np.array([0.3, 1.2, 2.5]) if weighted else np.ones(3)
    found = dice_ce(logits, label, torch.tensor(weight) if weighted else None).item()
    expected = slow_dice_ce(logits.numpy(), label.numpy(), weight)
    assert found == pytest.approx(expected + weight[1:].mean(), rel=1e-7)


@in_2d_and_3d
def test_gradient_in_float64(space):
    logits, label = sample(space)
    for weight in (None, WEIGHT):
        assert torch.autograd.gradcheck(lambda z, w=weight: dice_ce(z, label, w), logits.requires_grad_())


@in_2d_and_3d
def test_the_best_value_is_0(space):
    logits, label = sample(space)
    perfect = 100.0 * torch.stack([label == k for k in range(3)], 1)
    for weight in (None, WEIGHT):
        assert dice_ce(perfect, label, weight).item() == pytest.approx(0, abs=1e-6)
        assert dice_ce(logits, label, weight) > 0


def test_the_background_counts_in_cross_entropy_alone():
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    logits = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    logits = torch.cat([logits, -100 * torch.ones(1, 2, 4, 4)], 1)
    assert dice_ce(logits, label).item() == pytest.approx(0, abs=1e-6)


@in_2d_and_3d
def test_nothing_that_counts_costs_nothing(space):
    logits, label = sample(space)
    logits.requires_grad_()
    loss = dice_ce(logits, torch.full_like(label, IGNORE), WEIGHT)
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


@in_2d_and_3d
def test_classes_that_a_sample_does_not_annotate_are_part_of_its_background(space):
    logits, label = sample(space)
    known = torch.tensor([[True, True, False], [True, True, True]])
    merged, merged_logits = label.clone(), logits.clone()
    merged[0][label[0] == 2] = 0
    merged_logits[0, 0] = logits[0, [0, 2]].logsumexp(0)
    merged_logits[0, 2] = -200
    expected = slow_dice_ce(merged_logits.numpy(), merged.numpy(), WEIGHT.numpy()) + 1.75
    assert dice_ce(logits, label, WEIGHT, known).item() == pytest.approx(expected, rel=1e-7)
    # What a label says of a class that its task does not annotate is no matter.
    assert dice_ce(logits, merged, WEIGHT, known) == dice_ce(logits, label, WEIGHT, known)


def test_half_precision_is_computed_in_float32():
    logits, label = sample((40, 50))
    with torch.autocast("cpu", torch.bfloat16):
        loss = dice_ce(logits.bfloat16(), label, WEIGHT.float())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(dice_ce(logits.bfloat16().double(), label, WEIGHT).item(), rel=1e-5)
