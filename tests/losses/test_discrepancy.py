import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.losses.discrepancy import label_mse, uniform_divergence

SPACES = [(3, 4), (2, 3, 2)]
LOSSES = [label_mse, uniform_divergence]


def sample(space, classes=3):
    generator = torch.Generator().manual_seed(len(space))
    logits = 2 * torch.randn(2, classes, *space, generator=generator, dtype=torch.float64)
    label = torch.randint(0, classes, (2, *space), generator=generator)
    label[0, 0] = IGNORE
    counted = torch.rand(2, *space, generator=generator) > 0.3
    return logits, label, counted, torch.rand(2, *space, generator=generator, dtype=torch.float64)


def slow(loss, logits, label, counted, weight):
    total, count = 0.0, 0
    for b, *voxel in np.argwhere(counted & (label != IGNORE)):
        z, y = logits[(b, slice(None), *voxel)], label[(b, *voxel)]
        p = np.exp(z) / np.exp(z).sum()
        if loss is label_mse:
            value = np.mean([(p[c] - (c == y)) ** 2 for c in range(len(p))])
        elif p.argmax() != y:
            value = sum(np.log(1 / len(p) / p[c]) / len(p) for c in range(len(p)))
        else:
            continue
        total, count = total + weight[(b, *voxel)] * value, count + 1
    return total / count


def test_worked_values():
    # p = (1/4, 3/4), (1/2, 1/2), and one that does not count. Squares: 1/16 of label 1, half of 1/4 of label 0.
    logits = torch.tensor([[0.0, 0.0, 9.0], [np.log(3), 0.0, 0.0]]).view(1, 2, 1, 3).double()
    counted = torch.tensor([[[True, True, False]]])
    weight = torch.tensor([[[1.0, 0.5, 1.0]]]).double()
    label = torch.tensor([[[1, 0, 1]]])
    assert label_mse(logits, label, counted, weight).item() == pytest.approx((0.0625 + 0.125) / 2)
    # Label 0 makes the first wrong: -½ (ln ¼ + ln ¾) - ln 2. Its neighbour is right, or undecided and costs 0.
    wrong = torch.tensor([[[0, 0, 1]]])
    assert uniform_divergence(logits, wrong, counted).item() == pytest.approx(0.143841, abs=1e-6)
    assert uniform_divergence(logits, label.fill_(1), counted).item() == pytest.approx(0.0, abs=1e-12)


def test_two_classes_give_the_binary_square():
    logits, label, counted, _ = sample((5, 4), classes=2)
    counted &= label != IGNORE
    foreground = logits.softmax(1)[:, 1]
    assert label_mse(logits, label, counted).item() == pytest.approx(
        (foreground - label)[counted].square().mean().item(), rel=1e-12
    )


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("loss", LOSSES)
def test_agrees_with_a_loop_over_voxels(loss, space):
    parts = sample(space)
    assert loss(*parts).item() == pytest.approx(slow(loss, *(part.numpy() for part in parts)), rel=1e-12)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_in_float64(loss, space):
    logits, *others = sample(space)
    assert torch.autograd.gradcheck(lambda z: loss(z, *others), (logits.requires_grad_(),))


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_are_in_the_numerator_alone(loss):
    logits, label, counted, weight = sample((3, 4))
    assert loss(logits, label, counted, 0.5 * weight).item() == pytest.approx(
        0.5 * loss(logits, label, counted, weight).item()
    )


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_that_counts_costs_nothing(loss, space):
    logits, label, counted, weight = sample(space)
    assert loss(logits, label, torch.zeros_like(counted), weight).item() == 0
    assert loss(logits, torch.full_like(label, IGNORE), counted, weight).item() == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_float32(loss):
    logits, label, counted, _ = sample((3, 4))
    half = loss(logits.bfloat16(), label, counted)
    assert half.dtype == torch.float32
    assert torch.equal(half, loss(logits.bfloat16().float(), label, counted))
