import numpy as np
import pytest
import torch

from semivox.losses.dependence import condensed, weight_dependence

KERNELS = [(3, 3), (3, 3, 3)]


def sample(kernel, others=1):
    """Coefficients, own weights and those of the others, of two layers."""
    generator = torch.Generator().manual_seed(len(kernel))
    shapes = [(4, 2, *kernel), (3, 4, *[1] * len(kernel))]
    own = [torch.randn(shape, generator=generator, dtype=torch.float64).flatten(1) for shape in shapes]
    foreign = [torch.randn(others * len(w), w.shape[1], generator=generator, dtype=torch.float64) for w in own]
    coefficients = [
        torch.randn(len(w), len(v), generator=generator, dtype=torch.float64) for w, v in zip(own, foreign, strict=True)
    ]
    return coefficients, own, foreign


def slow_dependence(coefficients, own, others):
    layers = []
    for p, w, v in zip(coefficients, own, others, strict=True):
        squares = []
        for row in range(len(w)):
            told = sum(p[row, other] * v[other] for other in range(len(v)))
            squares.append((told @ w[row]) ** 2 / ((told @ told) * (w[row] @ w[row])))
        layers.append(np.mean(squares))
    return np.mean(layers)


def test_worked_values():
    # Rows (3, 4), (1, 0) tell (4, 3), (0, 2): cosines 24/25 and 0; exchanged by P, 4/5 and 4/5.
    own, other = torch.tensor([[4.0, 3.0], [0.0, 2.0]]), torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    as_they_are, exchanged = torch.eye(2), torch.eye(2).flip(0)
    assert weight_dependence([as_they_are], [own], [other]).item() == pytest.approx(0.4608)
    assert weight_dependence([exchanged], [own], [other]).item() == pytest.approx(0.64)
    assert weight_dependence([as_they_are, exchanged], [own] * 2, [other] * 2).item() == pytest.approx(0.5504)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("others", [1, 2])
def test_agrees_with_a_loop_over_filters(kernel, others):
    parts = sample(kernel, others)
    expected = slow_dependence(*([matrix.numpy() for matrix in part] for part in parts))
    assert weight_dependence(*parts).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_is_one_where_the_filters_are_combinations_and_whatever_their_length(kernel):
    coefficients, _, others = sample(kernel)
    told = [-3 * p @ v for p, v in zip(coefficients, others, strict=True)]
    assert weight_dependence(coefficients, told, others).item() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradient_in_float64_reaches_coefficients_and_weights(kernel):
    (p, _), (w, _), (v, _) = sample(kernel)
    assert torch.autograd.gradcheck(
        lambda p, w: weight_dependence([p], [w], [v]), (p.requires_grad_(), w.requires_grad_())
    )


def test_filters_of_zeros_cost_nothing_and_have_a_finite_gradient():
    coefficients, own, others = sample((3, 3))
    nothing = [torch.zeros_like(w).requires_grad_() for w in own]
    value = weight_dependence(coefficients, nothing, others)
    value.backward()
    assert value.item() == 0
    assert all(w.grad.isfinite().all() for w in nothing)


@pytest.mark.parametrize("kernel", KERNELS)
def test_condensed_weights_have_the_same_inner_products_and_so_the_same_dependence(kernel):
    coefficients, own, others = sample(kernel, others=2)
    small = [condensed([w, v]) for w, v in zip(own, others, strict=True)]
    for w, v, (w_small, v_small) in zip(own, others, small, strict=True):
        whole, coordinates = torch.cat([w, v]), torch.cat([w_small, v_small])
        assert coordinates.shape == (len(whole), min(whole.shape))
        torch.testing.assert_close(coordinates @ coordinates.T, whole @ whole.T)
    found = weight_dependence(coefficients, *([pair[i] for pair in small] for i in (0, 1)))
    torch.testing.assert_close(found, weight_dependence(coefficients, own, others))


def test_half_precision_and_autocast_are_computed_in_float32():
    parts = [[matrix.bfloat16() for matrix in part] for part in sample((3, 3))]
    expected = weight_dependence(*([matrix.float() for matrix in part] for part in parts))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(weight_dependence(*parts), expected)
