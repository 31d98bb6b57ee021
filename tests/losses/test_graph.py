"""Correlation clustering: its printed value, a slow version, and that 0 is its best."""

import numpy as np
import pytest
import torch

from semivox.losses.graph import cell_affinity, correlation_clustering, normalised_graph

CELLS = torch.tensor([[[1, 0], [0.9, 0.1], [0, 1]]], dtype=torch.float64)
CLUSTERS = torch.tensor([[[0.8, 0.2], [0.7, 0.3], [0.1, 0.9]]], dtype=torch.float64)


def shift(affinity):
    """What keeps the loss from being negative, Σ_ij max(W_ij, 0) / n²."""
    return affinity.clamp(min=0).mean().item()


@pytest.mark.parametrize(("form", "value"), [("deepcut", -0.899600), ("printed", 0.680200)])
def test_worked_value(form, value):
    affinity = cell_affinity(CELLS, 2.0, form)
    found = correlation_clustering(affinity, CLUSTERS).item() - shift(affinity)
    assert found == pytest.approx(value / 9, abs=1e-6)
    if form == "deepcut":
        assert found == pytest.approx(-0.099956, abs=1e-6)
    else:
        assert affinity.max() == 0


def sample(scans=3, cells=6, width=4, clusters=3):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(scans, cells, width, generator=generator, dtype=torch.float64)
    shares = torch.randn(scans, cells, clusters, generator=generator, dtype=torch.float64).softmax(2)
    counted = torch.rand(scans, cells, generator=generator) < 0.7
    counted[-1] = False
    return features, shares, counted


@pytest.mark.parametrize("form", ["deepcut", "printed"])
@pytest.mark.parametrize("masked", [False, True])
def test_agrees_with_a_loop_over_cells(form, masked):
    features, shares, counted = sample()
    affinity = cell_affinity(features, 3.0, form)
    values = []
    for scan, (f, s) in enumerate(zip(features.numpy(), shares.numpy(), strict=True)):
        largest = max(f[i] @ f[j] for i in range(6) for j in range(6))
        cells = [i for i in range(6) if counted[scan, i] or not masked]
        total = 0.0
        for i in range(6):
            for j in range(6):
                w = f[i] @ f[j] - largest / 3 if form == "deepcut" else (f[i] @ f[j] - largest) / 3
                assert affinity[scan, i, j].item() == pytest.approx(w, abs=1e-12)
                if i in cells and j in cells:
                    total += max(w, 0) - w * (s[i] @ s[j])
        if cells:
            values.append(total / len(cells) ** 2)
    found = correlation_clustering(affinity, shares, counted if masked else None)
    assert len(values) == (2 if masked else 3)
    assert found.item() == pytest.approx(np.mean(values), rel=1e-12)


def test_cells_that_do_not_count_have_no_say():
    features, shares, counted = sample()
    affinity = cell_affinity(features, 3.0)
    before = correlation_clustering(affinity, shares, counted)
    pairs = counted[:, None] & counted[:, :, None]
    others = affinity.where(pairs, 7.0), shares.where(counted[..., None], 0.5)
    assert torch.equal(correlation_clustering(*others, counted), before)
    assert correlation_clustering(*others) != before
    assert correlation_clustering(*others, torch.zeros_like(counted)) == 0


def test_the_best_assignment_has_the_value_0():
    cells = torch.tensor([[[1.0, 0], [1, 0], [0, 1], [0, 1]]])
    affinity = cell_affinity(cells, 2.0)
    assert affinity[0, 0].tolist() == [0.5, 0.5, -0.5, -0.5]
    best = torch.tensor([[[1.0, 0], [1, 0], [0, 1], [0, 1]]])
    assert correlation_clustering(affinity, best) == 0
    for other in ([[1.0, 0]] * 4, [[1.0, 0], [0, 1]] * 2, [[0.5, 0.5]] * 4):
        assert correlation_clustering(affinity, torch.tensor([other])) > 0


def test_gradient_in_float64():
    features, shares, counted = sample()
    affinity = cell_affinity(features, 3.0)
    assert torch.autograd.gradcheck(
        lambda shares: correlation_clustering(affinity, shares, counted), shares.requires_grad_()
    )
    # The shift carries no gradient, so that the affinity's is that of -W S Sᵀ / n² alone, meant over two scans.
    affinity.requires_grad_()
    found = torch.autograd.grad(correlation_clustering(affinity, shares, counted), affinity)[0]
    pairs = counted[:, None] & counted[:, :, None]
    expected = -(shares @ shares.mT) * pairs / pairs.sum((1, 2), keepdim=True).clamp(min=1) / 2
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(lambda features: cell_affinity(features, 3.0), features.requires_grad_())


def test_half_precision_is_computed_in_float32():
    features, shares, _ = (x.float() if x.is_floating_point() else x for x in sample())
    expected = correlation_clustering(cell_affinity(features, 2.0), shares)
    with torch.autocast("cpu", torch.bfloat16):
        found = correlation_clustering(cell_affinity(features, 2.0), shares)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_a_normalised_graph_is_that_of_its_formula_and_rows_of_nothing_stay_0():
    generator = torch.Generator().manual_seed(0)
    affinity = torch.rand(2, 5, 5, generator=generator, dtype=torch.float64)
    affinity = affinity + affinity.mT
    affinity[0, 2] = affinity[0, :, 2] = 0
    found = normalised_graph(affinity).numpy()
    for graph, w in zip(found, affinity.numpy(), strict=True):
        for i in range(5):
            for j in range(5):
                product = w[i].sum() * w[j].sum()
                assert graph[i, j] == pytest.approx(w[i, j] / product**0.5 if product else 0, abs=1e-12)
    # D^{1/2} 1 is an eigenvector for the eigenvalue 1, the largest there is.
    assert np.linalg.eigvalsh(found).max() == pytest.approx(1)
