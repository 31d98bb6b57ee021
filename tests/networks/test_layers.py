import contextlib

import pytest
import torch
from torch import nn

from semivox.networks.layers import (
    GroupNorm,
    convolution,
    cut_to,
    halvings,
    in_evaluation_mode,
    normalisation,
    pad_to_multiple,
    per_level,
    running_statistics_kept,
)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size", [1, 4, 7])
def test_a_convolution_rounds_sizes_up(dimensions, stride, kernel, size):
    layer = convolution(dimensions, 1, 1, kernel, stride)
    assert set(layer(torch.zeros(1, 1, *[size] * dimensions)).shape[2:]) == {-(-size // stride)}


def test_padding_and_cutting_are_inverse():
    x = torch.randn(1, 2, 5, 8, 3)
    padded = pad_to_multiple(x, (4, 4, 2))
    assert padded.shape == (1, 2, 8, 8, 4)
    assert padded.sum().item() == pytest.approx(x.sum().item(), rel=1e-4)
    assert torch.equal(cut_to(padded, (5, 8, 3)), x)


@pytest.mark.parametrize("space", [(6, 5), (3, 4, 5)])
def test_group_norm_is_torchs(space):
    x = torch.randn(2, 6, *space)
    assert torch.allclose(GroupNorm(3, 6, affine=True)(x), nn.GroupNorm(3, 6)(x), atol=1e-6)
    instance = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[len(space)](6)
    assert torch.allclose(GroupNorm(6, 6, affine=False)(x), instance(x), atol=1e-5)


def test_group_norm_keeps_its_digits_in_bfloat16():
    """A map far from zero: in bfloat16, the variance would be lost to the mean."""
    x = (torch.randn(1, 4, 16, 16) + 20).bfloat16().requires_grad_()
    layer = GroupNorm(4, 4, affine=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), nn.GroupNorm(4, 4)(x.float()), atol=0.02)
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_group_norm_of_a_constant_map_is_zero(dtype):
    x = torch.full((2, 3, 4, 4), 7.0, dtype=dtype, requires_grad=True)
    y = GroupNorm(3, 3, affine=False)(x)
    y.sum().backward()
    assert (y == 0).all()
    assert x.grad.isfinite().all()


def test_halvings_leave_four_voxels():
    assert [halvings(patch, at_most=4) for patch in [(112, 112, 80), (56, 56, 40), (6, 64), (7, 64)]] == [4, 3, 0, 1]


def test_per_level_goes_on_with_the_last_value():
    assert per_level((1, 2, 3), 5) == (1, 2, 3, 3, 3)
    assert per_level((1, 2, 3), 2) == (1, 2)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_batch_norm_normalises_alike_whether_or_not_its_running_statistics_are_kept(dimensions):
    norm = nn.Sequential(normalisation("batch", dimensions, 2))
    x = 3 + torch.randn(2, 2, *[4] * dimensions)
    with running_statistics_kept(norm):
        kept = norm(x)
    assert all((buffer == start).all() for buffer, start in zip(norm.buffers(), (0, 1, 0), strict=True))
    assert torch.equal(norm(x), kept)
    assert norm[0].running_mean.abs().min() > 0
    with running_statistics_kept(norm), pytest.raises(ZeroDivisionError):
        raise ZeroDivisionError
    assert norm[0].track_running_stats


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_mode_ends_with_its_block_also_by_an_error(training):
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).train(training)
    with contextlib.suppress(ZeroDivisionError), in_evaluation_mode(module):
        assert not any(each.training for each in module.modules())
        raise ZeroDivisionError
    assert all(each.training == training for each in module.modules())
