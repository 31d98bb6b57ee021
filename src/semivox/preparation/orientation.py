"""Axis order: every prepared array has X to the patient's Right, Y to Anterior, Z to Superior (RAS), as near as whole
axes allow; or, for a network that sees slices, Z across the scan's own slices.

Only axes are permuted and flipped; voxels are never interpolated, so an oblique scan stays oblique by the same angle.
"""

from collections.abc import Sequence

import numpy as np
from nibabel.orientations import io_orientation

from semivox.errors import DataError

THICK = 1.5
"""An axis whose spacing is this many times the next largest is the one across which slices lie."""

Axes = tuple[int, int, int]
Flips = tuple[bool, bool, bool]


def ras_axes(affine: np.ndarray) -> tuple[Axes, Flips]:
    """How to bring an array with this affine (4, 4) nearest to RAS: `axes[i]` is the array's axis that becomes axis i,
    `flips[i]` whether it is reversed then.

    Raises DataError where the affine does not give three directions.
    """
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise DataError("the affine does not give three directions; write the file anew with a sound affine")
    target, direction = io_orientation(affine).T
    axes = np.argsort(target)
    x, y, z = (int(axis) for axis in axes)
    flip_x, flip_y, flip_z = (bool(direction[axis] < 0) for axis in axes)
    return (x, y, z), (flip_x, flip_y, flip_z)


def slice_axis(spacing_mm: Sequence[float], last: int = 2) -> int:
    """The axis across which slices lie: that along which voxels are thick; else the one that is the `last` in files."""
    _, middle, largest = sorted(spacing_mm)
    return list(spacing_mm).index(largest) if largest >= THICK * middle else last


def prepared_axes(affine: np.ndarray, slices_last: bool) -> tuple[Axes, Flips]:
    """`ras_axes`, or with `slices_last` the array's slices across Z. X and Y are then the anatomical axes nearest
    to the slice's own, in their order and direction, so that slices look alike however their plane was turned.

    Raises DataError as `ras_axes`.
    """
    axes, flips = ras_axes(affine)
    if not slices_last:
        return axes, flips
    across = axes.index(slice_axis(np.linalg.norm(affine[:3, :3], axis=0).tolist()))
    x, y, z = (*(axis for axis in range(3) if axis != across), across)
    return (axes[x], axes[y], axes[z]), (flips[x], flips[y], flips[z])


def reorient(array: np.ndarray, axes: Axes, flips: Flips) -> np.ndarray:
    """The last three axes of `array` permuted, then flipped: a view."""
    leading = array.ndim - 3
    view = array.transpose(*range(leading), *(leading + axis for axis in axes))
    x, y, z = (slice(None, None, -1 if flip else 1) for flip in flips)
    return view[..., x, y, z]
