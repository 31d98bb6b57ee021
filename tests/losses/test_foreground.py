"""Losses of binary targets: worked values, slow versions, gradients, and what counts."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from semivox.data.labels import IGNORE
from semivox.losses.foreground import aggregated, any_foreground, binary_cross_entropy, foreground_dice

SPACES = [(3, 4), (2, 3, 2)]


def tensor(*rows):
    """Rows of numbers as one prompt of so many samples, (B, 1, V)."""
    return torch.tensor(rows, dtype=torch.float64).unsqueeze(1)


S, S2 = [0.9, 0.8, 0.3, 0.1], [0.2, 0.1, 0.1, 0.6]
WORKED_DICE = {
    "binary": (tensor(S), tensor([1, 1, 0, 0]), 0.042253),
    "soft": (tensor(S), tensor([0.7, 0.6, 0.2, 0]), 0.040983),
    "no foreground": (tensor([0.5] * 4), tensor([0] * 4), 0.999990),
    "nothing": (tensor([0] * 4), tensor([0] * 4), 0.0),
    "over the batch": (tensor(S, S2), tensor([1, 1, 0, 0], [0, 0, 0, 1]), 0.074447),
}


@pytest.mark.parametrize("name", WORKED_DICE)
def test_worked_values_of_the_dice(name):
    probabilities, target, expected = WORKED_DICE[name]
    assert foreground_dice(probabilities, target).item() == pytest.approx(expected, abs=1e-6)


def test_worked_value_of_the_supervised_term():
    scores, label = tensor([-3.0, 2.5, 0.0, 3.0]), tensor([0, 1, 0, 1])
    assert scores.sigmoid().flatten().tolist() == pytest.approx([0.047426, 0.924142, 0.5, 0.952574], abs=1e-6)
    assert foreground_dice(scores.sigmoid(), label).item() == pytest.approx(0.064841, abs=1e-6)
    assert binary_cross_entropy(scores, label).item() == pytest.approx(0.217303, abs=1e-6)


PROMPTS = torch.tensor(
    [[0.9, 0.2, 0.1, 0.05, 0.3], [0.1, 0.7, 0.1, 0.04, 0.3], [0.2, 0.1, 0.6, 0.03, 0.2], [0.05, 0.1, 0.2, 0.02, 0.4]],
    dtype=torch.float64,
).unsqueeze(0)
SYNTHETIC = tensor([0.8, 0.6, 0.7, 0.1, 0.2])


@pytest.mark.parametrize(("how", "expected"), [("max", 0.021561), ("mean", 0.299947), ("noisy_or", 0.090618)])
def test_worked_values_of_the_consistency(how, expected):
    assert foreground_dice(SYNTHETIC, aggregated(PROMPTS, how)).item() == pytest.approx(expected, abs=1e-6)


def test_worked_gradients_of_the_consistency():
    prompts, synthetic = PROMPTS.clone().requires_grad_(), SYNTHETIC.clone().requires_grad_()
    whole = aggregated(prompts)
    assert whole.flatten().tolist() == [0.9, 0.7, 0.6, 0.05, 0.4]
    foreground_dice(synthetic, whole).backward()
    expected = [-0.069739, -0.067174, 0.050502, 0.028457, -0.121524]
    assert synthetic.grad.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    winners = np.zeros((4, 5))
    winners[0, 0], winners[0, 3], winners[1, 1] = 0.047937, -0.030381, 0.050502
    winners[2, 2], winners[3, 4] = -0.067174, 0.113829
    assert prompts.grad[0].numpy() == pytest.approx(winners, abs=1e-6)


def test_worked_values_of_the_box_and_of_the_released_one():
    inside = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]])
    s, y = tensor([0.9, 0.2, 0.7, 0.4], [0.3, 0.6, 0.8, 0.1]), tensor([1, 0, 1, 0], [0, 1, 1, 0])
    assert foreground_dice(s, y, inside.unsqueeze(1)).item() == pytest.approx(0.028571, abs=1e-6)
    of_all = inside.sum(0, keepdim=True).unsqueeze(1)
    assert foreground_dice(s, y, of_all).item() == pytest.approx(0.090909, abs=1e-6)
    # As the released code multiplies: (B, *space) with (B, 1, *space) is (B, B, *space).
    masked = [part.squeeze(1) * inside.unsqueeze(1) for part in (s, y)]
    assert foreground_dice(*masked).item() == pytest.approx(0.090909, abs=1e-6)


def sample(space, prompts=3):
    generator = torch.Generator().manual_seed(len(space))
    scores = torch.randn(2, prompts, *space, generator=generator, dtype=torch.float64)
    soft = torch.rand(2, prompts, *space, generator=generator, dtype=torch.float64)
    weight = torch.rand(2, 1, *space, generator=generator, dtype=torch.float64)
    return scores, soft, weight


@pytest.mark.parametrize("space", SPACES)
def test_dice_of_sets_of_prompts_equals_a_slow_version(space):
    scores, soft, weight = sample(space)
    pairs = torch.tensor([[[1, 0, 1], [1, 1, 0]], [[0, 0, 0], [0, 1, 1]], [[0, 0, 0], [0, 0, 0]]]).bool()
    expected = []
    for chosen in pairs:
        overlap = prediction = reference = 0.0
        for b, k, *voxel in itertools.product(*(range(n) for n in scores.shape)):
            place = (b, k, *voxel)
            p, w = 1 / (1 + math.exp(-scores[place])), weight[(b, 0, *voxel)].item() * bool(chosen[b, k])
            overlap += w * p * soft[place].item()
            prediction += w * p**2
            reference += w * soft[place].item() ** 2
        expected.append(1 - (2 * overlap + 1e-5) / (prediction + reference + 1e-5))
    found = foreground_dice(scores.sigmoid(), soft, weight, pairs)
    assert found.tolist() == pytest.approx(expected, abs=1e-10)
    assert found[2] == 0
    one = foreground_dice(scores.sigmoid(), soft, weight * pairs[0].view(2, 3, *[1] * len(space)))
    assert one.item() == pytest.approx(expected[0], abs=1e-10)


@pytest.mark.parametrize("space", SPACES)
def test_cross_entropy_equals_a_slow_version(space):
    scores, soft, weight = sample(space)
    total = weights = 0.0
    for b, k, *voxel in itertools.product(*(range(n) for n in scores.shape)):
        background, foreground = np.exp([0.0, scores[(b, k, *voxel)].item()])
        hit = foreground if soft[(b, k, *voxel)] > 0.5 else background
        total -= weight[(b, 0, *voxel)].item() * math.log(hit / (background + foreground))
        weights += weight[(b, 0, *voxel)].item()
    assert binary_cross_entropy(scores, soft > 0.5, weight).item() == pytest.approx(total / weights, abs=1e-10)


@pytest.mark.parametrize("space", SPACES)
def test_gradients_are_right(space):
    scores, soft, weight = sample(space)
    inputs = (scores.requires_grad_(), soft.requires_grad_())
    assert gradcheck(lambda s, t: foreground_dice(s.sigmoid(), t, weight), inputs)
    assert gradcheck(lambda s: binary_cross_entropy(s, soft > 0.5, weight), inputs[:1])
    for how in ("max", "mean", "noisy_or"):
        assert gradcheck(lambda s, how=how: aggregated(s.sigmoid(), how), inputs[:1])


def test_nothing_that_counts_is_zero():
    scores, soft, weight = sample((3, 4))
    assert foreground_dice(scores.sigmoid(), soft, 0 * weight) == 0
    assert binary_cross_entropy(scores, soft > 0.5, 0 * weight) == 0


def test_half_precision_is_summed_in_full():
    probabilities = torch.full((1, 1, 5000), 0.7, dtype=torch.bfloat16)
    target = torch.ones(1, 1, 5000, dtype=torch.bool)
    exact = foreground_dice(probabilities.double(), target)
    assert foreground_dice(probabilities, target).item() == pytest.approx(exact.item(), abs=1e-5)
    assert foreground_dice(probabilities, target).dtype == torch.float32


def test_an_unknown_aggregate_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"'median'.*'noisy_or'"):
        aggregated(PROMPTS, "median")


def test_any_foreground_knows_what_is_ignored():
    foreground, known = any_foreground(torch.tensor([[0, 2, IGNORE, 1]]))
    assert foreground.tolist() == [[[False, True, False, True]]]
    assert known.tolist() == [[[True, True, False, True]]]
