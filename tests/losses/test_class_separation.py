import numpy as np
import pytest
import torch

from semivox.losses.class_separation import class_separation


def sample(classes=3, queries=5, memory=4, width=6):
    random = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=random, dtype=torch.float64)

    counted = torch.rand(classes, queries, generator=random) < 0.7
    stored = torch.rand(classes, memory, generator=random) < 0.7
    stored[2] = False
    return [
        normal(classes, queries, width),
        normal(classes, queries),
        counted,
        normal(classes, memory, width),
        normal(classes, memory),
        stored,
    ]


def slow(queries, scores, counted, memory, memory_scores, stored):
    """The paper's form: weights w = N σ / Σ σ, the mean over all pairs, class by class."""
    total = 0.0
    for c in range(len(queries)):
        rows, columns = np.flatnonzero(counted[c]), np.flatnonzero(stored[c])
        if len(rows) == 0 or len(columns) == 0:
            continue
        own, others = (1 / (1 + np.exp(-s[c][i])) for s, i in ((scores, rows), (memory_scores, columns)))
        w, v = len(rows) * own / own.sum(), len(columns) * others / others.sum()
        pairs = []
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                q, m = queries[c, row], memory[c, column]
                pairs.append(w[i] * v[j] * (1 - q @ m / np.linalg.norm(q) / np.linalg.norm(m)))
        total += np.mean(pairs)
    return total / len(queries)


def test_worked_value():
    # One query along x; a memory of x (distance 0, weight σ(0) = ½) and -x (distance 2, weight σ(ln 3) = ¾):
    # (½ · 0 + ¾ · 2) / (½ + ¾) = 1.2, of one class of two: 0.6.
    queries = torch.tensor([[[2.0, 0.0]], [[1.0, 1.0]]])
    memory = torch.tensor([[[3.0, 0.0], [-1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    scores = torch.tensor([[0.0, float(np.log(3))], [0.0, 0.0]])
    stored = torch.tensor([[True, True], [False, False]])
    counted = torch.ones(2, 1, dtype=torch.bool)
    found = class_separation(queries, torch.zeros(2, 1), counted, memory, scores, stored)
    assert found.item() == pytest.approx(0.6)


def test_agrees_with_a_loop_over_pairs():
    parts = sample()
    expected = slow(*(part.numpy() for part in parts))
    assert expected > 0.1
    assert class_separation(*parts).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_in_float64_reaches_queries_and_both_selectors():
    queries, scores, counted, memory, memory_scores, stored = sample()
    inputs = [each.requires_grad_() for each in (queries, scores, memory_scores)]
    assert torch.autograd.gradcheck(lambda q, s, v: class_separation(q, s, counted, memory, v, stored), inputs)


def test_features_that_are_in_the_memory_cost_nothing():
    queries, scores, counted, *_ = sample()
    same = queries[:, :1].expand_as(queries)
    found = class_separation(same, scores, counted, 3 * same[:, :2], scores[:, :2], torch.ones(3, 2, dtype=torch.bool))
    assert found.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("empty", [2, 5], ids=["queries", "memory"])
def test_nothing_to_compare_costs_nothing(empty):
    parts = sample()
    parts[empty] = torch.zeros_like(parts[empty])
    queries = parts[0].requires_grad_()
    loss = class_separation(*parts)
    loss.backward()
    assert loss.item() == 0
    assert (queries.grad == 0).all()


def test_half_precision_is_computed_in_float32():
    parts = [part.bfloat16() if part.is_floating_point() else part for part in sample()]
    precise = [part.float() if part.is_floating_point() else part for part in parts]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(class_separation(*parts), class_separation(*precise))
