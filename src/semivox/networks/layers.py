"""What the networks share: layers of 2 or 3 dimensions, chosen by name, and the rule for sizes.

Going down rounds a size up, going up cuts to the size of the skip: any input size passes, and no voxel is lost.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

T = TypeVar("T")
Norm = Literal["batch", "group", "instance", "none"]
Upsampling = Literal["transposed", "linear", "nearest"]

Layers = dict[int, Callable[..., nn.Module]]
"""Number of dimensions → layer."""

CONVOLUTIONS: Layers = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: Layers = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORMS: Layers = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
DROPOUTS: Layers = {2: nn.Dropout2d, 3: nn.Dropout3d}
MAX_POOLS: Layers = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOLS: Layers = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
LINEAR = {2: "bilinear", 3: "trilinear"}


def without_dropout(module: nn.Module) -> nn.Module:
    """`module`, whose dropout layers drop nothing from now on; its weights stay."""
    for layer in module.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d | nn.Dropout3d):
            layer.p = 0.0
    return module


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """In this block, batch norm inside `module` normalises as ever, but training passes leave no trace in its running
    statistics."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d)]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@contextmanager
def in_evaluation_mode(module: nn.Module) -> Iterator[None]:
    """In this block `module` is in evaluation mode, afterwards as it was."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def convolution(
    dimensions: int, inputs: int, outputs: int, kernel: int | Sequence[int] = 3, stride: int | Sequence[int] = 1
) -> nn.Module:
    """A convolution with bias and an odd `kernel`, padded so that a size n becomes ceil(n / stride)."""
    kernels = (kernel,) * dimensions if isinstance(kernel, int) else tuple(kernel)
    strides = (stride,) * dimensions if isinstance(stride, int) else tuple(stride)
    padding = tuple(size // 2 for size in kernels)
    return CONVOLUTIONS[dimensions](inputs, outputs, kernels, strides, padding)


class GroupNorm(nn.Module):
    """Normalisation over groups of channels within each sample, always computed in float32.

    In bfloat16, statistics over few voxels lose all digits, and small networks give NaN on a CPU. `groups` equal
    to `channels` is instance normalisation; unlike torch's own layer it also takes a map of a single voxel.
    """

    def __init__(self, groups: int, channels: int, affine: bool) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            precise = x.to(torch.promote_types(x.dtype, torch.float32))
            return torch.group_norm(precise, self.groups, self.weight, self.bias).to(x.dtype)

    def extra_repr(self) -> str:
        return f"groups={self.groups}, affine={self.weight is not None}"


def normalisation(kind: Norm, dimensions: int, channels: int, affine_instance: bool = False) -> nn.Module:
    """A normalisation by name. `group` has 16 groups where `channels` allows; `instance` learns no scale by default."""
    if kind == "batch":
        return BATCH_NORMS[dimensions](channels)
    if kind == "group":
        return GroupNorm(math.gcd(16, channels), channels, affine=True)
    if kind == "instance":
        return GroupNorm(channels, channels, affine=affine_instance)
    return nn.Identity()


def pad_to_multiple(x: Tensor, divisor: Sequence[int]) -> Tensor:
    """Appends zeros to the end of each axis of (B, C, *space) until it is a multiple of `divisor`."""
    missing = [-size % factor for size, factor in zip(x.shape[2:], divisor, strict=True)]
    if not any(missing):
        return x
    return F.pad(x, [amount for extra in reversed(missing) for amount in (0, extra)])


def cut_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Drops voxels at the end of each axis of (B, C, *space) so that space is `size`."""
    for axis, length in enumerate(size, start=2):
        if x.shape[axis] != length:  # a slice of everything costs a copy of the gradient, and its memory layout
            x = x.narrow(axis, 0, length)
    return x


def halvings(patch: Sequence[int], at_most: int, smallest: int = 4) -> int:
    """How often all axes of `patch` can be halved with `smallest` voxels or more left on each.

    >>> halvings((112, 112, 80), at_most=4), halvings((56, 56, 40), at_most=4)
    (4, 3)
    """
    count, sizes = 0, list(patch)
    while count < at_most and min(sizes) > 2 * (smallest - 1):
        sizes = [-(-size // 2) for size in sizes]
        count += 1
    return count


def per_level(values: Sequence[T], levels: int) -> tuple[T, ...]:
    """One value per level, fine to coarse; the last one serves all coarser levels."""
    return tuple(values[min(level, len(values) - 1)] for level in range(levels))
