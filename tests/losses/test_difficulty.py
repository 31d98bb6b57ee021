"""Difficulty weights: published values, a slow version, and that no class can break them."""

import numpy as np
import pytest
import torch

from semivox.data.labels import IGNORE
from semivox.losses.difficulty import Difficulty, hard_dice

SPACES = [(5, 6), (3, 4, 5)]
in_2d_and_3d = pytest.mark.parametrize("space", SPACES, ids=["2-D", "3-D"])


def slow_weights(dices, window, normalise=False):
    """Class by class, step by step."""
    classes = len(dices[0])
    previous, learned, unlearned, missing = [1e-8] * classes, [0.0] * classes, [0.0] * classes, [1.0] * classes
    keep, found = (window - 1) / window, []
    for dice in dices:
        weights = []
        for k in range(classes):
            change, ratio = dice[k] - previous[k], np.log(dice[k] / previous[k])
            learned[k] = keep * learned[k] + (1 - keep) * (change * ratio if change > 0 else 0)
            unlearned[k] = keep * unlearned[k] + (1 - keep) * (change * ratio if change < 0 else 0)
            missing[k] = keep * missing[k] + (1 - keep) * (1 - dice[k])
            previous[k] = dice[k]
            weights.append(missing[k] * ((unlearned[k] + 1e-8) / (learned[k] + 1e-8)) ** (1 / 5))
        top = max(weights) if normalise else 1
        found.append([classes * weight / top for weight in weights])
    return np.array(found)


def weights_of(difficulty, dices):
    found = []
    for dice in dices:
        found.append(difficulty(torch.tensor(dice)).tolist())
        difficulty.advance()
    return np.array(found)


def test_published_values():
    difficulty = Difficulty(3)
    found = weights_of(difficulty, [(0.8, 0.4, 0.2), (0.85, 0.3, 0.2), (0.84, 0.45, 0.1)])
    expected = [
        (0.094905, 0.110761, 0.128780),
        (0.093670, 0.989842, 0.128793),
        (0.276215, 0.979322, 1.377877),
    ]
    assert np.allclose(found, expected, atol=1e-5)
    assert difficulty.learned.tolist() == pytest.approx([0.279690, 0.135706, 0.064582], abs=1e-5)
    assert difficulty.missing.tolist() == pytest.approx([0.951174, 0.977437, 0.990238], abs=1e-5)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("window", [1, 7, 50])
def test_agrees_with_a_loop_over_classes_and_steps(window, normalise):
    dices = np.random.default_rng(0).uniform(0.01, 0.99, (30, 4)).astype(np.float32)
    found = weights_of(Difficulty(4, window, normalise), dices)
    assert np.allclose(found, slow_weights(dices.astype(float), window, normalise), rtol=1e-3)
    if normalise:
        assert np.allclose(found.max(1), 4)


def test_a_step_that_is_computed_again_has_the_same_weights():
    difficulty = Difficulty(2)
    dices = torch.tensor([[0.3, 0.6], [0.5, 0.2]])
    once, again = difficulty(dices[0]), difficulty(dices[0])
    assert torch.equal(once, again)
    difficulty.advance()
    assert torch.equal(difficulty.weights, once)
    difficulty.advance()  # without a step between, nothing moves
    assert torch.equal(difficulty.weights, once)
    assert not torch.equal(difficulty(dices[1]), once)


def test_its_state_survives_a_checkpoint():
    dices = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    one, other = Difficulty(3), Difficulty(3)
    weights_of(one, dices[:3].tolist())
    other.load_state_dict(one.state_dict())
    assert np.array_equal(weights_of(one, dices[3:].tolist()), weights_of(other, dices[3:].tolist()))


@pytest.mark.parametrize("before", [0.9, 1e-14])
@pytest.mark.parametrize("normalise", [True, False])
def test_weights_stay_finite_when_a_class_is_absent_for_a_thousand_steps_and_comes_back(before, normalise):
    difficulty = Difficulty(2, normalise=normalise)
    dices = [(before, 0.7)] * 3 + [(0.5, 0.7)] * 1000 + [(1e-14, 0.7), (0.5, 0.7), (1.0, 0.7), (1e-14, 1.0)]
    found = weights_of(difficulty, dices)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert found.max() < 100


def test_a_perfect_model_has_no_difficulty_and_normalising_does_not_divide_by_it():
    for normalise in (True, False):
        difficulty = Difficulty(2, window=1, normalise=normalise)
        assert weights_of(difficulty, [(1.0, 1.0)] * 3).tolist() == [[0.0, 0.0]] * 3


def test_what_samples_do_not_annotate_is_their_background_and_a_class_of_none_stays_as_it_was():
    generator = torch.Generator().manual_seed(0)
    prediction, label = (torch.randint(0, 4, (2, 5, 6), generator=generator) for _ in range(2))
    difficulty = Difficulty(4)
    weights_of(difficulty, [(0.3, 0.4, 0.5, 0.6)])
    known = torch.tensor([[True, True, False, False], [True, True, True, False]])
    merged = [torch.stack([where[0] * (where[0] == 1), where[1] * (where[1] < 3)]) for where in (prediction, label)]
    expected = hard_dice(*merged, 4)
    expected[3] = 0.6
    assert torch.equal(difficulty.dice(prediction, label, known), expected)
    assert torch.equal(difficulty.dice(prediction, label, None), hard_dice(prediction, label, 4))


@in_2d_and_3d
def test_hard_dice_agrees_with_a_loop_over_voxels(space):
    generator = torch.Generator().manual_seed(len(space))
    prediction, label = (torch.randint(0, 4, (2, *space), generator=generator) for _ in range(2))
    label[torch.rand(2, *space, generator=generator) < 0.2] = IGNORE
    prediction[prediction == 2] = 0
    found = hard_dice(prediction, label, 5)
    assert not found.requires_grad
    for k in range(5):
        overlap = predicted = true = 0
        for place in np.argwhere(label.numpy() != IGNORE):
            p, y = prediction[tuple(place)] == k, label[tuple(place)] == k
            overlap, predicted, true = overlap + int(p & y), predicted + int(p), true + int(y)
        expected = (2 * overlap + 1e-8) / (predicted + true + 2e-8)
        assert found[k].item() == pytest.approx(expected, rel=1e-6)
    assert found[4] == 0.5
    assert 0 < found[2] < 1e-9
