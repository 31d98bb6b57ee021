"""The expected transferable cross-entropy: worked values, a slow version, and that it is a bound."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from semivox.data.labels import IGNORE
from semivox.losses.transferable import (
    CHUNK_ELEMENTS,
    augmentation_table,
    class_moments,
    mean_and_covariance,
    merge_moments,
    sampled_cross_entropy,
    transferable_cross_entropy,
    transferable_mean,
)

SPACES = [(5, 4), (3, 4, 2)]


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def image(rows):
    """Features or logits (N, A), labels (N,) → one sample of N x 1 pixels."""
    return rows.T[None, ..., None] if rows.ndim == 2 else rows[None, :, None]


def statistics(rows, label, classes):
    """Count, mean and covariance of every class's rows."""
    reference = rows.new_zeros(classes, rows.shape[1])
    return mean_and_covariance(class_moments(image(rows), image(label), reference), reference)


def random_setting(seed, classes=4, width=6, voxels=9):
    """Features, labels, weights, bias, shift and covariance."""
    random = np.random.default_rng(seed)
    roots = random.normal(size=(classes, width, width)) / width**0.5
    return (
        torch.from_numpy(random.normal(size=(voxels, width))),
        torch.from_numpy(random.integers(classes, size=voxels)),
        torch.from_numpy(0.5 * random.normal(size=(classes, width))),
        torch.from_numpy(0.1 * random.normal(size=classes)),
        torch.from_numpy(random.normal(size=(classes, width))),
        torch.from_numpy(roots @ roots.transpose(0, 2, 1)),
    )


def bound(features, label, weights, bias, shift, covariance, strength):
    """L_tsa of rows of features."""
    table = augmentation_table(weights, shift, covariance, strength)
    return transferable_cross_entropy(image(features @ weights.T + bias), image(label), table)


# Worked values --------------------------------------------------------------------------------------------------------

FIRST = tensor([[1, 0], [3, 2]])
SECOND = tensor([[2, 4], [4, 4], [6, 1]])


def batch_statistics(rows):
    return statistics(rows, torch.zeros(len(rows), dtype=torch.int64), 1)


@pytest.mark.parametrize(
    ("weight", "mean", "covariance"),
    [
        (0.6, [3.2, 2.2], [[2.96, 0.16], [0.16, 2.56]]),
        (0.1, [2.2, 1.2], [[1.526667, 1.06], [1.06, 1.46]]),
    ],
    ids=["count", "ema"],
)
def test_worked_value_of_a_merge(weight, mean, covariance):
    count, *first = batch_statistics(FIRST)
    assert (count.item(), first[0].tolist(), first[1].tolist()) == (2, [[2, 1]], [[[1, 1], [1, 1]]])
    count, *second = batch_statistics(SECOND)
    torch.testing.assert_close(second[1], tensor([[[2.666667, -2], [-2, 2]]]), atol=1e-6, rtol=0)
    merged = merge_moments(*first, *second, tensor([weight]))
    torch.testing.assert_close(merged[0], tensor([mean]), atol=1e-12, rtol=0)
    torch.testing.assert_close(merged[1], tensor([covariance]), atol=1e-6, rtol=0)


W = tensor([[1, 0], [0, 1], [-1, 0.5]])
B = tensor([0.1, -0.2, 0])
SHIFT = tensor([[0.2, -0.1], [-0.3, 0.1], [0, 0.4]])
COVARIANCE = tensor([[[0.5, 0.1], [0.1, 0.4]], [[0.3, -0.1], [-0.1, 0.6]], [[0.2, 0], [0, 0.2]]])
FEATURES = tensor([[1, 0.5], [-0.5, 1], [0.3, -0.7]])
LABEL = torch.tensor([0, 1, 2])


def test_worked_values_of_table_loss_and_gradients():
    weights, bias, features = (x.clone().requires_grad_() for x in (W, B, FEATURES))
    table = augmentation_table(weights, SHIFT, COVARIANCE, 0.25)
    expected = [[0, 0.0125, 0.125], [0.0375, 0, 0.10625], [0.05625, 0.08125, 0]]
    torch.testing.assert_close(table, tensor(expected), atol=1e-12, rtol=0)
    logits = features @ weights.T + bias
    plain = F.cross_entropy(logits, LABEL, reduction="none").tolist()
    assert plain == pytest.approx([0.474099, 0.925289, 1.533949], abs=1e-6)
    each = [bound(FEATURES[i : i + 1], LABEL[i : i + 1], W, B, SHIFT, COVARIANCE, 0.25).item() for i in range(3)]
    assert each == pytest.approx([0.490513, 0.982462, 1.582626], abs=1e-6)
    loss = transferable_cross_entropy(image(logits), image(LABEL), table)
    assert loss.item() == pytest.approx(1.018534, abs=1e-6)
    loss.backward()
    slopes = [[-0.053500, -0.164559], [0.235067, -0.180632], [-0.181567, 0.345191]]
    torch.testing.assert_close(weights.grad, tensor(slopes), atol=1e-6, rtol=0)
    torch.testing.assert_close(bias.grad, tensor([0.116805, -0.057829, -0.058976]), atol=1e-6, rtol=0)
    slopes = [[-0.165595, 0.111046], [-0.130489, -0.123781], [0.471865, -0.074583]]
    torch.testing.assert_close(features.grad, tensor(slopes), atol=1e-6, rtol=0)


def test_worked_values_of_a_diagonal_covariance():
    variance = COVARIANCE.diagonal(0, 1, 2)
    table = augmentation_table(W, SHIFT, variance, 0.25)
    expected = [[0, 0.0375, 0.15], [0.0125, 0, 0.11875], [0.05625, 0.08125, 0]]
    torch.testing.assert_close(table, tensor(expected), atol=1e-12, rtol=0)
    assert bound(FEATURES, LABEL, W, B, SHIFT, variance, 0.25).item() == pytest.approx(1.022956, abs=1e-6)


def test_worked_values_of_the_sampled_expectation():
    random = torch.Generator().manual_seed(0)
    found = sampled_cross_entropy(FEATURES, LABEL, W, B, SHIFT, COVARIANCE, 0.25, 400_000, random)
    assert found.tolist() == pytest.approx([0.4740, 0.9700, 1.5328], abs=2e-3)


@pytest.mark.parametrize(
    ("strength", "exact", "above", "gap_per_strength"),
    [
        (1, 0.924521, 1.867786, 0.943265),
        (0.25, 0.965336, 1.171101, 0.823058),
        (0.1, 0.971003, 1.050447, 0.794438),
        (0.01, 0.973795, 0.981563, 0.776860),
        (0.001, 0.974049, 0.974824, 0.775106),
    ],
)
def test_worked_values_of_the_gap_between_bound_and_expectation(strength, exact, above, gap_per_strength):
    """Two classes and one feature: the log-odds of the wrong class are N(0.5 - 0.8 α, 4 α)."""
    weights, shift, covariance = tensor([[0], [1]]), tensor([[-0.8], [0]]), tensor([[[4]], [[0]]])
    label = torch.tensor([0])
    found = bound(tensor([[0.5]]), label, weights, tensor([0, 0]), shift, covariance, strength).item()
    nodes, shares = np.polynomial.hermite_e.hermegauss(200)
    odds = 0.5 - 0.8 * strength + 2 * strength**0.5 * nodes
    expectation = (shares * np.logaddexp(0, odds)).sum() / shares.sum()
    assert expectation == pytest.approx(exact, abs=1e-6)
    assert found == pytest.approx(above, abs=1e-6)
    assert (found - expectation) / strength == pytest.approx(gap_per_strength, abs=2e-6)


def end_to_end():
    """Student's and teacher's features and labels, weights and bias, from formulas."""
    a = torch.arange(1, 5, dtype=torch.float64)
    n, m = torch.arange(1, 61).double()[:, None], torch.arange(1, 51).double()[:, None]
    student, teacher = (0.1 * n * a + 0.3).sin(), (0.07 * m * a - 0.3).cos() + 0.05 * a
    c = torch.arange(3).double()
    weights = ((c[:, None] + 1) * a + 0.3).sin()
    return student, torch.arange(60) % 3, teacher, torch.arange(50) // 2 % 3, weights, 0.1 * c


def test_worked_values_from_features_to_gradients():
    student, label, teacher, pseudo, weights, bias = end_to_end()
    _, source, _ = statistics(student, label, 3)
    count, target, covariance = statistics(teacher, pseudo, 3)
    shift = target - source
    assert count.tolist() == [18, 16, 16]
    assert shift[0].tolist() == pytest.approx([0.098449, 0.256723, 0.100885, 0.298689], abs=1e-6)
    expected = [[0, 0.282185, 0.090201], [0.252032, 0, 0.086508], [0.117355, 0.180120, 0]]
    torch.testing.assert_close(augmentation_table(weights, shift, covariance, 0.2), tensor(expected), atol=1e-6, rtol=0)
    student, weights = student.requires_grad_(), weights.requires_grad_()
    assert F.cross_entropy(student @ weights.T + bias, label).item() == pytest.approx(1.391528, abs=1e-6)
    loss = bound(student, label, weights, bias, shift, covariance, 0.2)
    assert loss.item() == pytest.approx(1.508699, abs=1e-6)
    by_weights, by_features = torch.autograd.grad(loss, (weights, student))
    assert by_weights.norm().item() == pytest.approx(0.390729, abs=1e-6)
    assert by_features.norm().item() == pytest.approx(0.172761, abs=1e-6)
    diagonal = bound(student, label, weights, bias, shift, covariance.diagonal(0, 1, 2), 0.2)
    assert diagonal.item() == pytest.approx(1.528698, abs=1e-6)


def test_worked_values_without_the_gradient_through_the_table_and_in_reverse():
    student, label, teacher, pseudo, weights, bias = end_to_end()
    _, source, spread = statistics(student, label, 3)
    _, target, covariance = statistics(teacher, pseudo, 3)
    weights.requires_grad_()
    constant = augmentation_table(weights, target - source, covariance, 0.2).detach()
    loss = transferable_cross_entropy(image(student @ weights.T + bias), image(label), constant)
    assert torch.autograd.grad(loss, weights)[0].norm().item() == pytest.approx(0.265333, abs=1e-6)
    assert F.cross_entropy(teacher @ weights.T + bias, pseudo).item() == pytest.approx(1.367124, abs=1e-6)
    reverse = bound(teacher, pseudo, weights, bias, source - target, spread, 0.2)
    assert reverse.item() == pytest.approx(1.509439, abs=1e-6)


# The loss -------------------------------------------------------------------------------------------------------------


def slow_loss(features, label, weight, weights, bias, shift, covariance, strength, balanced):
    """Voxel by voxel: log Σ_c exp of mean and half the variance of each logit's lead over the true one."""
    totals, counts = {}, {}
    for b, *voxel in itertools.product(*map(range, label.shape)):
        y = int(label[(b, *voxel)])
        if y == IGNORE:
            continue
        f = features[(b, slice(None), *voxel)]
        powers = []
        for c in range(len(weights)):
            lead = weights[c] - weights[y]
            mean = lead @ (f + strength * shift[y]) + bias[c] - bias[y]
            spread = np.diag(covariance[y]) if covariance.ndim == 2 else covariance[y]
            powers.append(np.exp(mean + 0.5 * strength * lead @ spread @ lead))
        v = 1.0 if weight is None else float(weight[(b, *voxel)])
        totals[y] = totals.get(y, 0) + v * np.log(sum(powers))
        counts[y] = counts.get(y, 0) + v
    if balanced:
        return np.mean([totals[y] / counts[y] for y in totals])
    return sum(totals.values()) / sum(counts.values())


@pytest.mark.parametrize("balanced", [False, True], ids=["voxels", "classes"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("kind", ["full", "diagonal"])
@pytest.mark.parametrize("space", SPACES)
def test_agrees_with_a_loop_over_voxels(space, kind, weighted, balanced):
    random = np.random.default_rng(len(space))
    _, _, weights, bias, shift, covariance = (each.numpy() for each in random_setting(5, classes=4, width=5))
    covariance = covariance if kind == "full" else covariance.diagonal(0, 1, 2).copy()
    features = random.normal(size=(2, 5, *space))
    label = random.choice([0, 1, 3, IGNORE], size=(2, *space))  # class 2 does not occur
    weight = random.uniform(0.2, 2, size=label.shape) if weighted else None
    logits = np.einsum("ca,ba...->bc...", weights, features) + bias.reshape(-1, *[1] * len(space))
    expected = slow_loss(features, label, weight, weights, bias, shift, covariance, 0.7, balanced)
    table = augmentation_table(*map(torch.from_numpy, (weights, shift, covariance)), 0.7)
    arguments = torch.from_numpy(logits), torch.from_numpy(label), table
    voxel_weight = None if weight is None else torch.from_numpy(weight)
    found = transferable_cross_entropy(*arguments, voxel_weight, balanced)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    halves = [(x[0][None], x[1][None]) for x in arguments[:2]]
    weights_of_halves = (None, None) if weight is None else (voxel_weight[:1], voxel_weight[1:])
    parts = [(*half, v) for half, v in zip(zip(*halves, strict=True), weights_of_halves, strict=True)]
    assert transferable_mean(parts, table, balanced).item() == pytest.approx(expected, rel=1e-6)


def test_the_table_has_an_exactly_empty_diagonal_and_without_strength_the_loss_is_cross_entropy():
    features, label, weights, bias, shift, covariance = random_setting(0)
    table = augmentation_table(weights, shift, covariance, 0.25)
    assert (table.diagonal() == 0).all()
    assert (table + torch.eye(4) != 0).all()
    plain = F.cross_entropy(features @ weights.T + bias, label)
    assert bound(features, label, weights, bias, shift, covariance, 0.0).item() == pytest.approx(
        plain.item(), rel=1e-12
    )


def test_without_covariance_it_is_the_cross_entropy_of_shifted_features():
    features, label, weights, bias, shift, _ = random_setting(1)
    shifted = F.cross_entropy((features + 0.3 * shift[label]) @ weights.T + bias, label)
    found = bound(features, label, weights, bias, shift, torch.zeros(4, 6, 6, dtype=torch.float64), 0.3)
    assert found.item() == pytest.approx(shifted.item(), rel=1e-12)


def test_without_a_shift_nothing_gets_easier():
    for seed in range(10):
        features, label, weights, bias, shift, covariance = random_setting(seed)
        table = augmentation_table(weights, 0 * shift, covariance, 0.5)
        assert (table >= 0).all()
        plain = F.cross_entropy(features @ weights.T + bias, label)
        assert bound(features, label, weights, bias, 0 * shift, covariance, 0.5) > plain


def test_what_all_classes_share_changes_nothing():
    features, label, weights, bias, shift, covariance = random_setting(2)
    before = bound(features, label, weights, bias, shift, covariance, 0.4).item()
    common = weights + torch.linspace(-1, 1, 6, dtype=torch.float64)
    assert bound(features, label, common, bias, shift, covariance, 0.4).item() == pytest.approx(before, rel=1e-12)
    assert bound(features, label, weights, bias + 3, shift, covariance, 0.4).item() == pytest.approx(before, rel=1e-12)


def test_it_bounds_the_sampled_expectation_in_random_settings():
    random, parts, draws = np.random.default_rng(0), 8, 1000
    gaps = []
    for seed in range(50):
        setting = random_setting(seed, int(random.integers(2, 5)), int(random.integers(8, 17)), voxels=3)
        strength = float(10 ** random.uniform(-3, 0))
        generator = torch.Generator().manual_seed(seed)
        estimates = [sampled_cross_entropy(*setting, strength, draws, generator).mean().item() for _ in range(parts)]
        standard_error = np.std(estimates, ddof=1) / parts**0.5
        gaps.append((bound(*setting, strength).item() - np.mean(estimates)) / standard_error)
    assert min(gaps) > -4
    assert np.median(gaps) > 3, "no power: what is sampled is as large as the bound"


def test_the_gap_falls_linearly_with_the_strength():
    """gap / α → ½ gᵀ Σ g, g the gradient of the cross-entropy by the feature. With Σ = v vᵀ what is sampled is one
    number, so that quadrature gives the expectation."""
    features, label, weights, bias, shift, _ = random_setting(3, voxels=1)
    direction = torch.linspace(-1, 1.5, 6, dtype=torch.float64)
    covariance = torch.outer(direction, direction).expand(4, 6, 6)
    nodes, shares = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(100))
    y = int(label[0])
    slope = ((features @ weights.T + bias).softmax(1) @ weights)[0] - weights[y]
    limit = (0.5 * slope @ covariance[y] @ slope).item()
    distances = []
    for strength in (1e-2, 1e-3, 1e-4):
        moved = features + strength * shift[y] + strength**0.5 * nodes[:, None] * direction
        values = F.cross_entropy(moved @ weights.T + bias, label.expand(100), reduction="none")
        gap = bound(features, label, weights, bias, shift, covariance, strength) - (shares @ values) / shares.sum()
        distances.append(abs(gap.item() / strength - limit))
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-3 * limit


@pytest.mark.parametrize("balanced", [False, True])
def test_gradient_in_float64_through_logits_and_table(balanced):
    features, label, weights, bias, shift, covariance = random_setting(4, classes=3, width=4, voxels=6)
    label[0] = IGNORE
    weight = torch.linspace(0.1, 1, 6, dtype=torch.float64)

    def loss(features, weights, bias):
        table = augmentation_table(weights, shift, covariance, 0.6)
        logits = image(features @ weights.T + bias)
        return transferable_cross_entropy(logits, image(label), table, image(weight), balanced)

    assert torch.autograd.gradcheck(loss, tuple(x.requires_grad_() for x in (features, weights, bias)))


@pytest.mark.parametrize("balanced", [False, True])
def test_nothing_known_is_no_loss_and_no_gradient(balanced):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    weights = torch.randn(3, 5, requires_grad=True)
    table = augmentation_table(weights, torch.ones(3, 5), torch.eye(5).expand(3, 5, 5), 0.25)
    nothing = torch.full((2, 4, 4), IGNORE)
    for parts in ([(logits, nothing, None)], [(logits, torch.zeros_like(nothing), torch.zeros(2, 4, 4))], []):
        logits.grad = weights.grad = None
        loss = transferable_mean(parts, table, balanced)
        loss.backward(retain_graph=True)
        assert loss == 0
        assert weights.grad.abs().max() == 0
        assert logits.grad is None or logits.grad.abs().max() == 0


def test_huge_logits_stay_finite():
    logits = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).requires_grad_()
    loss = transferable_cross_entropy(logits, torch.ones(1, 1, 1, dtype=torch.int64), torch.zeros(3, 3))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert logits.grad.isfinite().all()


def test_half_precision_is_computed_in_float32():
    features, label, weights, bias, shift, covariance = (
        x.float() if x.is_floating_point() else x for x in random_setting(6, voxels=50)
    )
    table = augmentation_table(weights, shift, covariance, 0.25)
    logits = image(features @ weights.T + bias).bfloat16()
    loss = transferable_cross_entropy(logits, image(label), table)
    with torch.autocast("cpu", torch.bfloat16):
        for kind in (covariance, covariance.diagonal(0, 1, 2)):
            assert augmentation_table(weights, shift, kind, 0.25).dtype == torch.float32
        torch.testing.assert_close(augmentation_table(weights, shift, covariance, 0.25), table, rtol=0, atol=0)
        torch.testing.assert_close(transferable_cross_entropy(logits, image(label), table), loss, rtol=0, atol=0)


class Largest(TorchDispatchMode):
    """Notes how many elements the largest tensor has that an operation makes anew."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        made = function(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in given:
                self.elements = max(self.elements, x.numel())
        return made


def test_no_tensor_of_voxels_times_classes_times_features_is_built(monkeypatch):
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 1000)
    classes, width, voxels = 4, 16, 2 * 20 * 20
    logits = torch.randn(2, classes, 20, 20, requires_grad=True)
    label, weights = torch.randint(classes, (2, 20, 20)), torch.randn(classes, width, requires_grad=True)
    with Largest() as largest:
        table = augmentation_table(weights, torch.randn(classes, width), torch.eye(width).expand(classes, -1, -1), 0.2)
        transferable_cross_entropy(logits, label, table).backward()
    assert largest.elements == voxels * classes
    features = torch.randn(2, width, 20, 20)
    with Largest() as largest:
        class_moments(features, label, torch.zeros(classes, width))
    assert largest.elements <= max(1000, classes * (width + 1) ** 2)


# Statistics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("space", SPACES)
def test_moments_agree_with_those_of_each_class_alone(space, weighted):
    random = np.random.default_rng(1)
    features = random.normal(2, 1, size=(2, 3, *space))
    label = random.choice([0, 1, 3, IGNORE], size=(2, *space))
    weight = random.choice([0, 1, 2], size=label.shape) if weighted else np.ones(label.shape, int)
    reference = torch.from_numpy(random.normal(size=(4, 3)))
    moments = class_moments(
        torch.from_numpy(features),
        torch.from_numpy(label),
        reference,
        torch.from_numpy(weight) if weighted else None,
    )
    count, mean, covariance = mean_and_covariance(moments, reference)
    for k in range(4):
        rows = np.moveaxis(features, 1, -1)[label == k].repeat(weight[label == k], 0)
        assert count[k] == len(rows)
        expected = (rows.mean(0), np.cov(rows.T, bias=True)) if len(rows) else (np.zeros(3), np.zeros((3, 3)))
        assert np.allclose(mean[k], expected[0], atol=1e-12)
        assert np.allclose(covariance[k], expected[1], atol=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_chunks_change_nothing(space, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, *space, generator=generator, dtype=torch.float64)
    label = torch.randint(3, (2, *space), generator=generator)
    weight = torch.rand(2, *space, generator=generator, dtype=torch.float64)
    reference = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    whole = class_moments(features, label, reference, weight)
    logits = torch.randn(2, 3, *space, generator=generator, dtype=torch.float64, requires_grad=True)
    table = torch.rand(3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    loss = transferable_cross_entropy(logits, label, table, weight)
    slopes = torch.autograd.grad(loss, (logits, table))
    for elements in (1, 40, 100):
        monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", elements)
        again = transferable_cross_entropy(logits, label, table, weight)
        torch.testing.assert_close(again, loss)
        torch.testing.assert_close(torch.autograd.grad(again, (logits, table)), slopes)
        torch.testing.assert_close(class_moments(features, label, reference, weight), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("cuts", [[10], [1, 2, 3], [30, 30], [5, 20, 35], list(range(1, 40))])
def test_any_split_of_a_batch_merges_to_the_whole(cuts):
    generator = torch.Generator().manual_seed(0)
    rows = 3 + torch.randn(40, 3, generator=generator, dtype=torch.float64)
    label = torch.arange(40) // 14  # the first parts lack the last class, the last ones the first
    total, mean, covariance = (x.clone() for x in statistics(rows[:0], label[:0], 3))
    for part in np.split(np.arange(40), cuts):
        count, *new = statistics(rows[part], label[part], 3)
        mean, covariance = merge_moments(mean, covariance, *new, count / (total + count).clamp(min=1))
        total = total + count
    expected = statistics(rows, label, 3)
    for found, whole in zip((total, mean, covariance), expected, strict=True):
        torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)


def test_grams_of_parts_add_up():
    rows, label = torch.randn(30, 3, dtype=torch.float64), torch.arange(30) % 4
    reference = torch.randn(4, 3, dtype=torch.float64)
    parts = sum(class_moments(image(rows[i::3]), image(label[i::3]), reference) for i in range(3))
    torch.testing.assert_close(parts, class_moments(image(rows), image(label), reference))


def test_a_covariance_is_never_negative_whatever_is_merged():
    generator = torch.Generator().manual_seed(0)
    mean, covariance = tensor([[0] * 6] * 2), tensor([[[0] * 6] * 6] * 2)
    for _ in range(60):
        rows = 20 * torch.randn(1, 6, generator=generator) + torch.randn(4, 6, generator=generator)
        _, *new = statistics(rows.double(), torch.tensor([0, 0, 1, 1]), 2)
        share = torch.rand(2, generator=generator).double()
        mean, covariance = merge_moments(mean, covariance, *new, share)
        torch.testing.assert_close(covariance, covariance.transpose(1, 2))
        assert torch.linalg.eigvalsh(covariance).min() > -1e-12 * covariance.abs().max()


def test_a_reference_near_the_mean_keeps_the_digits_of_float32():
    generator = torch.Generator().manual_seed(0)
    rows = 30 + torch.randn(5000, 4, generator=generator)
    exact = np.cov(rows.double().numpy().T, bias=True)
    label, errors = torch.zeros(5000, dtype=torch.int64), []
    for origin in (0.0, 29.5):
        reference = torch.full((1, 4), origin)
        _, _, covariance = mean_and_covariance(class_moments(image(rows), image(label), reference), reference)
        errors.append(np.abs(covariance[0].numpy() - exact).max())
    assert errors[1] < 2e-6
    assert errors[0] > 10 * errors[1]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_leaves_no_trace(value):
    rows, label = torch.randn(12, 3), torch.arange(12) % 3
    rows[4, 1] = value
    moments = class_moments(image(rows), image(label), torch.zeros(3, 3))
    for found in mean_and_covariance(moments, torch.zeros(3, 3)):
        assert (found == 0).all()
    moments = class_moments(image(rows[6:]), image(label[6:]), torch.zeros(3, 3))
    moments[1, 2, 3] = value  # one class's sums have overflowed
    count, mean, covariance = mean_and_covariance(moments, torch.zeros(3, 3))
    assert count.tolist() == [2, 0, 2]
    assert (mean[1] == 0).all()
    assert mean.isfinite().all()
    assert covariance.isfinite().all()


def test_statistics_are_float32_without_gradient_whatever_surrounds_them():
    rows = torch.randn(64, 3).requires_grad_()
    label = torch.arange(64) % 2
    exact = class_moments(image(rows.bfloat16().float()), image(label), torch.zeros(2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        moments = class_moments(image(rows.bfloat16()), image(label), torch.zeros(2, 3))
    assert moments.dtype == torch.float32
    assert not moments.requires_grad
    torch.testing.assert_close(moments, exact, rtol=1e-6, atol=1e-5)
