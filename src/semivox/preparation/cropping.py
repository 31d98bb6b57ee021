"""Which part of a scan is kept. It is found in the image alone, never in a label."""

from collections.abc import Iterable
from math import floor

import numpy as np

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First voxel and the one after the last, along X, Y, Z."""

ROUNDING = 1e-6
"""Two thirds of 9 voxels are 6, and not a rounding error less."""


def whole_box(shape: tuple[int, ...]) -> Box:
    """The box that holds all of an array of shape (..., X, Y, Z)."""
    x, y, z = shape[-3:]
    return (0, x), (0, y), (0, z)


def centre_box(shape: tuple[int, ...], shares: Iterable[float | None]) -> Box:
    """The middle of an array of shape (..., X, Y, Z): n // 2 ± half of each share, rounded down; None keeps all.

    At least one voxel is kept of an axis.
    """
    ends = []
    for length, share in zip(shape[-3:], shares, strict=True):
        half = floor(length * share / 2 + ROUNDING) if share is not None else 0
        whole = share is None or 2 * half >= length
        middle = length // 2
        ends.append((0, length) if whole else (middle - half, middle + max(half, 1)))
    x, y, z = ends
    return x, y, z


def body_box(array: np.ndarray) -> Box:
    """The smallest box outside which every channel of `array` (C, X, Y, Z) is constant.

    A channel's background is the value that its eight corners share. Where the corners of any channel differ, or
    nothing differs from the background, the box holds everything.
    """
    differs = np.zeros(array.shape[1:], bool)
    for channel in array:
        corners = channel[np.ix_(*((0, -1) for _ in range(3)))]
        background = corners[0, 0, 0]
        if (corners != background).any():
            return whole_box(array.shape)
        differs |= channel != background
    return nonzero_box(differs) or whole_box(array.shape)


def nonzero_box(mask: np.ndarray) -> Box | None:
    """The smallest box that holds every True of `mask` (X, Y, Z); None where there is none."""
    ends = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not hit.size:
            return None
        ends.append((int(hit[0]), int(hit[-1]) + 1))
    x, y, z = ends
    return x, y, z
