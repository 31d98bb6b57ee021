import numpy as np
import pytest
import torch

from semivox.networks.feature_enhancement import enhance, reconstruct, similarity

shapes = pytest.mark.parametrize("shape", [(2, 5, 4, 3), (2, 3, 2, 3, 2)], ids=["2-D", "3-D"])


def views(shape: tuple[int, ...], seed: int = 0, **kind) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(2))
    return first.to(**kind), second.to(**kind)


def slow_enhance(weak, strong, strength):
    """Position by position in NumPy."""
    found = np.empty_like(weak), np.empty_like(strong)
    for place in np.ndindex(weak.shape[0], *weak.shape[2:]):
        at = (place[0], slice(None), *place[1:])
        w, s = weak[at], strong[at]
        cosine = w @ s / (max(np.sqrt(w @ w), 1e-8) * max(np.sqrt(s @ s), 1e-8))
        agree = (1 + cosine) / 2
        mean, own = (w + s) / 2, (w - s) / 2
        found[0][at] = w + strength * (agree * mean + (1 - agree) * own - w)
        found[1][at] = s + strength * (agree * mean - (1 - agree) * own - s)
    return found


def test_the_worked_example():
    weak = torch.tensor([[1.0, 2, 2], [2, 0, 0]], dtype=torch.float64).T[None, :, :, None]
    strong = torch.tensor([[2.0, 0, 1], [-1, 0, 0]], dtype=torch.float64).T[None, :, :, None]
    assert torch.allclose(similarity(weak, strong).flatten(), torch.tensor([0.798142, 0.0]).double(), atol=1e-6)
    r_w, r_s = (part[0, :, :, 0].T for part in reconstruct(weak, strong))
    assert np.allclose(r_w, [[1.096285, 1.0, 1.298142], [1.5, 0, 0]], atol=1e-6)
    assert np.allclose(r_s, [[1.298142, 0.596285, 1.096285], [-1.5, 0, 0]], atol=1e-6)
    w, s = (part[0, :, :, 0].T for part in enhance(weak, strong))
    assert np.allclose(w, [[1.048142, 1.5, 1.649071], [1.75, 0, 0]], atol=1e-6)
    assert np.allclose(s, [[1.649071, 0.298142, 1.048142], [-1.25, 0, 0]], atol=1e-6)


@shapes
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_it_is_the_slow_version(shape, strength):
    weak, strong = views(shape)
    found = enhance(weak, strong, strength)
    for part, expected in zip(found, slow_enhance(weak.numpy(), strong.numpy(), strength), strict=True):
        assert np.allclose(part, expected)


@shapes
def test_equal_views_stay_as_they_are(shape):
    weak, _ = views(shape, dtype=torch.float32)
    for strength in (0.5, 1.0):
        for part in enhance(weak, weak.clone(), strength):
            assert torch.allclose(part, weak, atol=1e-6)


@shapes
def test_no_strength_changes_nothing(shape):
    weak, strong = views(shape, dtype=torch.bfloat16)
    assert all(torch.equal(*pair) for pair in zip(enhance(weak, strong, 0.0), (weak, strong), strict=True))


@shapes
def test_swapped_views_swap_the_results(shape):
    weak, strong = views(shape)
    there, back = enhance(weak, strong), enhance(strong, weak)
    assert torch.allclose(there[0], back[1])
    assert torch.allclose(there[1], back[0])


def test_similarity_does_not_depend_on_the_scale_of_a_view():
    weak, strong = views((2, 5, 4, 3))
    assert torch.allclose(similarity(weak, strong), similarity(7 * weak, 0.01 * strong))
    assert torch.allclose(similarity(weak, weak), torch.ones(2, 1, 4, 3, dtype=torch.float64))


def test_the_literal_figure_adds_the_reconstruction_and_a_projection_acts_on_it_alone():
    weak, strong = views((1, 4, 2, 2))
    r_w, r_s = reconstruct(weak, strong)
    added = enhance(weak, strong, 0.25, residual="sum")
    assert torch.allclose(added[0], weak + 0.25 * r_w)
    projected = enhance(weak, strong, 0.25, project=lambda x: 3 * x)
    assert torch.allclose(projected[1], strong + 0.25 * (3 * r_s - strong))


@shapes
def test_the_gradient_is_that_of_finite_differences(shape):
    pair = tuple(view[:1, :, :2].requires_grad_() for view in views(shape))
    assert torch.autograd.gradcheck(enhance, pair)


def test_gradients_are_finite_where_a_feature_is_0():
    for kind in (torch.float32, torch.float64):
        weak = torch.zeros(1, 4, 2, 2, dtype=kind, requires_grad=True)
        strong = views((1, 4, 2, 2), dtype=kind)[1].requires_grad_()
        sum(part.square().sum() for part in enhance(weak, strong)).backward()
        assert weak.grad.isfinite().all()
        assert strong.grad.isfinite().all()
        both = torch.zeros(1, 4, 2, 2, dtype=kind, requires_grad=True)
        sum(part.sum() for part in enhance(both, both)).backward()
        assert both.grad.isfinite().all()


def test_similarity_never_leaves_0_to_1():
    weak = torch.randn(1, 7, 64, 64, generator=torch.Generator().manual_seed(0))
    assert similarity(weak, 3 * weak).max() <= 1
    assert similarity(weak, -3 * weak).min() >= 0
