"""The sliding window: probabilities of a whole prepared scan from a function that sees patches.

A scan is covered by overlapping boxes of the training patch's size (statistics of GroupNorm and InstanceNorm see
another extent otherwise, which costs several Dice points). Where boxes overlap, their probabilities are averaged with
weights that fall off towards a box's border (Gaussian, sigma 1/8 of the box; Isensee et al., Nature Methods 2021).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from semivox.errors import SettingError
from semivox.inference.augmentation import Predictor, flip_average

SIGMA = 1 / 8
"""Standard deviation of the Gaussian weights, in window lengths."""

BATCH_VOXELS = 2_000_000
"""Voxels per call of the network where no batch is given: two patches of 112x112x80, 30 slices of 256x256."""

HALF_ABOVE_BYTES = 2**30
"""Results that would be larger than this in float32 are float16: 512x512x800 with five classes is then 2 GiB."""


@dataclass(frozen=True)
class Windows:
    """How a scan is covered; `run` does it.

    `window` is `Plan.window`. Boxes start evenly spread so that neighbours share at least `overlap`, or, where
    `stride` is given, at min(k * stride, size - window) as published protocols do.
    """

    window: tuple[int, int, int]
    dimensions: int = 3
    slice_axis: int = 2
    """For 2 dimensions: the axis that patches do not have; the window is one slice thick there."""
    overlap: float = 0.5
    stride: tuple[int, int, int] | None = None
    weighting: Literal["gaussian", "uniform"] = "gaussian"
    batch: int | None = None
    """Windows per call; None: as many as `BATCH_VOXELS` allows."""
    flips: tuple[int, ...] = ()
    """Axes of the volume to mirror as test-time augmentation; every combination is averaged."""
    autocast: torch.dtype | None = None
    """Runs the function under autocast to this type; None: as it is."""
    device: torch.device | None = None
    """Where patches are computed and summed; None: where the volume is. The result lies where the volume is."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise SettingError(f"overlap is {self.overlap}; give a number from 0 to below 1")
        if self.stride and any(not 0 < step <= size for step, size in zip(self.stride, self.window, strict=True)):
            raise SettingError(
                f"stride {list(self.stride)} leaves voxels out between windows of {list(self.window)};"
                " give at least 1 and at most the window's size on each axis"
            )
        if self.dimensions == 2 and self.window[self.slice_axis] != 1:
            raise SettingError(
                f"window {list(self.window)} is not one slice thick across axis {self.slice_axis}; give 1 there"
            )
        if self.dimensions == 2 and self.slice_axis in self.flips:
            raise SettingError(f"flips {list(self.flips)}: a 2-D network cannot mirror across its slice axis")

    def starts(self, shape: Sequence[int]) -> tuple[list[int], ...]:
        """Per axis, where windows start in a volume of `shape` (X, Y, Z), each at least the window's size."""
        strides = self.stride or (None, None, None)
        return tuple(
            _starts(size, window, stride, self.overlap)
            for size, window, stride in zip(shape, self.window, strides, strict=True)
        )

    @torch.no_grad()
    def run(self, function: Predictor, volume: Tensor) -> Tensor:
        """Probabilities (K, X, Y, Z) of `volume` (C, X, Y, Z).

        `function` maps patches (B, C, *space) to probabilities (B, K, *space); in 2-D the slice axis is dropped. A
        volume smaller than the window is padded with zeros on both sides. Sums are float32 and held for one slab of
        windows only, so that beside the result little memory is needed; the result is float32, or float16 when large.
        """
        function = flip_average(function, self._patch_axes(self.flips))
        padded, inside = self.pad(volume)
        shape = padded.shape[1:]
        starts = self.starts(shape)
        weights = [
            _weights(size, window, axis_starts, self.weighting)
            for size, window, axis_starts in zip(shape, self.window, starts, strict=True)
        ]
        device = self.device or volume.device
        # The axis with most positions is streamed: windows come in its order, so that what lies behind is final.
        axis = max(range(3), key=lambda a: len(starts[a]))
        sums: _SlabSum | None = None
        for corners in self._batches(starts, axis):
            patches = torch.stack([self.patch(padded, corner) for corner in corners]).to(device)
            with torch.autocast(device.type, self.autocast, enabled=self.autocast is not None):
                probabilities = self._expand(function(patches)).float()
            if sums is None:
                sums = _SlabSum(_result(probabilities.shape[1], shape, volume.device), axis, device)
            sums.advance(corners[0][axis], corners[-1][axis] + self.window[axis])
            for corner, values in zip(corners, probabilities, strict=True):
                x, y, z = (weights[a][corner[a]].to(device) for a in range(3))
                sums.add(self._box(corner), values, x[:, None, None] * y[:, None] * z)
        assert sums is not None, "every volume has at least one window"
        sums.advance(shape[axis], shape[axis])
        return sums.result[(slice(None), *inside)]

    def pad(self, volume: Tensor) -> tuple[Tensor, tuple[slice, ...]]:
        """The volume, at least as large as the window on each axis, and where it lies in that."""
        sizes = volume.shape[1:]
        missing = [max(window - size, 0) for window, size in zip(self.window, sizes, strict=True)]
        before = [m // 2 for m in missing]
        inside = tuple(slice(b, b + size) for b, size in zip(before, sizes, strict=True))
        if not any(missing):
            return volume, inside
        # torch counts paddings from the last axis.
        amounts = [n for b, m in reversed(list(zip(before, missing, strict=True))) for n in (b, m - b)]
        return pad(volume, amounts), inside

    def _batches(self, starts: Sequence[list[int]], axis: int) -> Iterator[list[tuple[int, ...]]]:
        """First voxels of the windows, ascending along `axis`, in groups for one call each."""
        corners = sorted(product(*starts), key=lambda corner: corner[axis])
        size = self.batch or max(1, BATCH_VOXELS // prod(self.window))
        for first in range(0, len(corners), size):
            yield corners[first : first + size]

    def _box(self, corner: Sequence[int]) -> tuple[slice, ...]:
        return tuple(slice(first, first + size) for first, size in zip(corner, self.window, strict=True))

    def patch(self, padded: Tensor, corner: Sequence[int]) -> Tensor:
        """What a function sees (C, *space) of the window at `corner` of a padded volume."""
        window = padded[(slice(None), *self._box(corner))]
        return window.squeeze(self.slice_axis + 1) if self.dimensions == 2 else window

    def _expand(self, probabilities: Tensor) -> Tensor:
        return probabilities.unsqueeze(self.slice_axis + 2) if self.dimensions == 2 else probabilities

    def _patch_axes(self, axes: Sequence[int]) -> list[int]:
        """Volume axes as axes of the patch."""
        return [axis - (self.dimensions == 2 and axis > self.slice_axis) for axis in axes]


class _SlabSum:
    """A weighted sum over windows that come in ascending order along one axis.

    Only the slab between the first voxel a window may still touch and the last one touched is held; what lies before
    it is final and moves to `result` (K, X, Y, Z).
    """

    def __init__(self, result: Tensor, axis: int, device: torch.device) -> None:
        self.result = result
        self.axis = axis + 1
        self.first = 0
        self.slab = self._zeros(0, device)

    def _zeros(self, length: int, device: torch.device) -> Tensor:
        shape = list(self.result.shape)
        shape[self.axis] = length
        return torch.zeros(shape, device=device)

    def advance(self, first: int, end: int) -> None:
        """From now on windows lie in [first, end): stores what is before `first`, makes room up to `end`."""
        length = self.slab.shape[self.axis]
        done = first - self.first
        if done == 0 and end - first <= length:
            return
        kept = length - done
        self.result.narrow(self.axis, self.first, done).copy_(self.slab.narrow(self.axis, 0, done))
        slab = self._zeros(end - first, self.slab.device)
        slab.narrow(self.axis, 0, kept).copy_(self.slab.narrow(self.axis, done, kept))
        self.first, self.slab = first, slab

    def add(self, box: tuple[slice, ...], values: Tensor, weights: Tensor) -> None:
        """Adds `values` (K, x, y, z) times `weights` (x, y, z) at `box` of the volume."""
        at = list(box)
        at[self.axis - 1] = slice(box[self.axis - 1].start - self.first, box[self.axis - 1].stop - self.first)
        self.slab[(slice(None), *at)].addcmul_(values, weights)


def _result(classes: int, shape: Sequence[int], device: torch.device) -> Tensor:
    large = classes * prod(shape) * 4 > HALF_ABOVE_BYTES
    return torch.empty((classes, *shape), dtype=torch.float16 if large else torch.float32, device=device)


def _starts(size: int, window: int, stride: int | None, overlap: float) -> list[int]:
    room = size - window
    if stride is not None:
        return sorted({min(k * stride, room) for k in range(ceil(room / stride) + 1)})
    gaps = ceil(room / max(window * (1 - overlap), 1))
    return [round(k * room / gaps) for k in range(gaps + 1)] if gaps else [0]


def _weights(size: int, window: int, starts: Sequence[int], weighting: str) -> dict[int, Tensor]:
    """Start → weights (window,) along one axis; over all windows they sum to 1 at every voxel.

    Windows stand on a grid, so that the products of the three axes' weights sum to 1 as well: nothing has to be
    divided afterwards.
    """
    if weighting == "gaussian":
        offsets = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
        profile = torch.exp(-0.5 * (offsets / (SIGMA * window)) ** 2)
    else:
        profile = torch.ones(window, dtype=torch.float64)
    total = torch.zeros(size, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += profile
    return {start: (profile / total[start : start + window]).float() for start in starts}
