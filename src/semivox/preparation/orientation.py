"""Axis order: every prepared array has X to the patient's Right, Y to Anterior, Z to Superior (RAS), as near as whole
axes allow.

Only axes are permuted and flipped; voxels are never interpolated, so an oblique scan stays oblique by the same angle.
"""

import numpy as np
from nibabel.orientations import io_orientation

from semivox.errors import DataError

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


def reorient(array: np.ndarray, axes: Axes, flips: Flips) -> np.ndarray:
    """The last three axes of `array` permuted, then flipped: a view."""
    leading = array.ndim - 3
    view = array.transpose(*range(leading), *(leading + axis for axis in axes))
    x, y, z = (slice(None, None, -1 if flip else 1) for flip in flips)
    return view[..., x, y, z]
