import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.losses.cross_entropy import cross_entropy
from semivox.losses.dice import dice_squared
from semivox.losses.supervised import supervised_loss

SPACES = [(3, 4), (2, 3, 2)]


def sample(space, classes=4):
    generator = torch.Generator().manual_seed(len(space))
    logits = torch.randn(2, classes, *space, generator=generator, dtype=torch.float64)
    label = torch.randint(0, classes, (2, *space), generator=generator)
    label[torch.rand(2, *space, generator=generator) < 0.2] = IGNORE
    return logits, label


def test_worked_value():
    logits = torch.tensor([[[[2.0, 0.5], [-1.0, 0.0]], [[0.0, 1.5], [1.0, 3.0]]]])
    assert supervised_loss(logits, torch.tensor([[[0, 1], [1, 1]]])).item() == pytest.approx(0.095694, abs=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_is_half_of_cross_entropy_plus_mean_dice(space):
    logits, label = sample(space)
    expected = 0.5 * (cross_entropy(logits, label) + dice_squared(logits.softmax(1), label).mean())
    assert torch.allclose(supervised_loss(logits, label), expected, rtol=1e-12)
    everything = torch.ones(2, 4, dtype=torch.bool)
    assert torch.allclose(supervised_loss(logits, label, known=everything), expected, rtol=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_class_weights_weigh_both_terms(space):
    logits, label = sample(space)
    weight = torch.tensor([0.1, 1.0, 2.0, 4.0], dtype=torch.float64)
    dice = (weight * dice_squared(logits.softmax(1), label)).sum() / weight.sum()
    expected = 0.5 * (cross_entropy(logits, label, class_weight=weight) + dice)
    assert torch.allclose(supervised_loss(logits, label, class_weight=weight), expected, rtol=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_unannotated_classes_count_as_background(space):
    """Two tasks of one class each are two binary problems; summed by hand here."""
    logits, _ = sample(space, classes=3)
    known = torch.tensor([[False, True, False], [False, False, True]])
    label = torch.randint(0, 2, (2, *space), generator=torch.Generator().manual_seed(1))
    label[1] *= 2
    p = logits.softmax(1)
    ones, twos = label[0] == 1, label[1] == 2
    right = torch.cat([torch.where(ones, p[0, 1], 1 - p[0, 1]), torch.where(twos, p[1, 2], 1 - p[1, 2])])

    def dice(prediction, reference):
        return 1 - (2 * prediction[reference].sum() + 1e-5) / (prediction.square().sum() + reference.sum() + 1e-5)

    background = torch.stack([1 - p[0, 1], 1 - p[1, 2]])
    mean_dice = (dice(background, torch.stack([~ones, ~twos])) + dice(p[0, 1], ones) + dice(p[1, 2], twos)) / 3
    expected = 0.5 * (-right.log().mean() + mean_dice)
    assert torch.allclose(supervised_loss(logits, label, known=known), expected, rtol=1e-10)


@pytest.mark.parametrize("space", SPACES)
def test_a_class_that_nobody_annotates_gets_no_gradient_of_its_own(space):
    """Background and the hidden class may share their probability as they like."""
    logits, label = sample(space, classes=3)
    label[label == 2] = 0
    known = torch.tensor([[False, True, False]] * 2)
    moved = logits.clone()
    merged = torch.logsumexp(logits[:, [0, 2]], 1)
    moved[:, 2] -= 3.0
    moved[:, 0] = torch.log(merged.exp() - moved[:, 2].exp())
    assert torch.allclose(supervised_loss(moved, label, known), supervised_loss(logits, label, known), rtol=1e-10)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("known", [None, [[False, True, False, True], [True] * 4]])
def test_gradient_in_float64(space, known):
    logits, label = sample(space)
    annotated = None if known is None else torch.tensor(known)
    assert torch.autograd.gradcheck(lambda z: supervised_loss(z, label, annotated), logits.requires_grad_())


@pytest.mark.parametrize("space", SPACES)
def test_a_batch_without_any_truth_costs_nothing(space):
    logits, label = sample(space)
    logits.requires_grad_()
    loss = supervised_loss(logits, torch.full_like(label, IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("space", SPACES)
def test_voxel_weights_weigh_both_terms(space):
    logits, label = sample(space)
    mask = torch.rand(2, *space) > 0.5
    expected = supervised_loss(logits, label.masked_fill(~mask, IGNORE))
    assert torch.allclose(supervised_loss(logits, label, weight=mask), expected, rtol=1e-12)


def test_half_precision_is_computed_in_float32():
    logits, label = sample((8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        loss = supervised_loss(logits.bfloat16(), label)
    assert torch.equal(loss, supervised_loss(logits.bfloat16().float(), label))
