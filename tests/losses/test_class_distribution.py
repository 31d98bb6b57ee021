import math

import pytest
import torch

from semivox.losses.class_distribution import ClassDistribution


def slow_weights(batches, window):
    """Plain numbers, step by step."""
    mean = None
    for counts in batches:
        mean = counts if mean is None else [m + (c - m) / window for m, c in zip(mean, counts, strict=True)]
    ratios = [math.log((max(mean) + 1) / (m + 1)) for m in mean]
    return [len(mean) * r / max(ratios) if max(ratios) > 0 else 1.0 for r in ratios]


def after(batches, window=100):
    """The weights at the last of these steps, and the state when all are taken in."""
    state = ClassDistribution(len(batches[0]), window)
    for counts in batches:
        weights = state(torch.tensor(counts))
        state.advance()
    return weights, state


def test_worked_value():
    weights, _ = after([[999, 9, 0]])
    # ln(1000 / 10) / ln(1000 / 1) = 2 / 3, of three classes
    torch.testing.assert_close(weights, torch.tensor([0.0, 2.0, 3.0]))


def test_weights_follow_the_mean_of_the_counts():
    random = torch.Generator().manual_seed(0)
    scale = torch.tensor([10_000, 900, 50, 3])
    batches = [(torch.rand(4, generator=random) * scale).long().tolist() for _ in range(30)]
    weights, state = after(batches, window=10)
    torch.testing.assert_close(weights, torch.tensor(slow_weights(batches, 10)))
    torch.testing.assert_close(state.weights, weights)


def test_a_class_that_is_absent_for_a_thousand_steps_leaves_the_others_their_weights():
    began, _ = after([[100_000, 2_000, 500]])
    weights, _ = after([[100_000, 2_000, 500]] + [[100_000, 2_000, 0]] * 1000)
    assert weights.isfinite().all()
    assert weights[0] == 0
    assert weights[2] == 3
    assert began[1] / 2.5 < weights[1] < began[1], "the weights of one batch without a class would be 2e-1 of it"


@pytest.mark.parametrize("counts", [[0, 0, 0], [7, 7, 7]])
def test_classes_that_are_equally_frequent_have_equal_weights(counts):
    weights, state = after([counts, counts])
    assert weights.tolist() == [1, 1, 1]
    assert state.weights.tolist() == [1, 1, 1]


def test_a_step_that_is_computed_again_has_the_same_weights():
    _, state = after([[100, 10, 1]])
    counts = torch.tensor([50, 0, 20])
    first, second = state(counts), state(counts)
    assert torch.equal(first, second)
    assert not torch.equal(state.weights, first)
    state.advance()
    assert torch.equal(state.weights, first)
    state.advance()
    assert torch.equal(state.weights, first), "nothing was heard since"


def test_the_state_is_in_the_buffers():
    batches = [[100, 10, 1], [90, 0, 4], [50, 20, 2]]
    _, state = after(batches)
    copy = ClassDistribution(3)
    copy.load_state_dict(state.state_dict())
    counts = torch.tensor([10, 10, 1])
    assert torch.equal(copy(counts), state(counts))
