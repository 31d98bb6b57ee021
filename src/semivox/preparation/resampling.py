"""Interpolation on a grid of another size, as one matrix product per axis.

The grids share their outer voxel edges: size n → m scales the spacing by n / m. Values are those of
`scipy.ndimage.zoom(..., mode="nearest", grid_mode=True)`, and so of skimage's `resize` with mode "edge", which nnU-Net
uses: spline interpolation is linear in the values and separable over the axes, so the matrix of an axis is what scipy
makes of the unit vectors. BLAS applies it many times faster than scipy evaluates the spline.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.ndimage import find_objects, zoom

Shape = tuple[int, int, int]

NEGLIGIBLE = 1e-8
"""Weights below this, relative to a row's sum of one, vanish in float32. A cubic spline's fall to it in 14 voxels."""

TIE = 1e-6
"""Shares of classes nearer than this are equal: rounding must not decide a tie."""

CLEARLY_FINER = 1.1
"""From this many voxels for one a mask's steps show."""

BAND = 32
"""Rows per band: few enough that a band needs few columns, enough for BLAS to run at full speed."""


class Band(NamedTuple):
    """Rows of an interpolation matrix and the only columns in which they are not negligible."""

    rows: slice
    columns: slice
    weights: np.ndarray


@lru_cache(maxsize=256)
def matrix(source: int, target: int, order: int, prefilter: bool = True) -> np.ndarray:
    """The (target, source) float32 matrix that interpolates `source` samples to `target`; order 0, 1 or 3.

    Without `prefilter` a cubic B-spline smooths by about half a voxel instead of passing through the samples.
    """
    columns = [
        zoom(unit, target / source, order=order, mode="nearest", grid_mode=True, prefilter=prefilter)
        for unit in np.eye(source)
    ]
    weights = np.stack(columns, axis=1).astype(np.float32)
    weights[np.abs(weights) < NEGLIGIBLE] = 0
    weights.setflags(write=False)
    return weights


def split(weights: np.ndarray) -> tuple[Band, ...]:
    """Cuts a matrix into bands of rows; what lies outside a band's columns is zero."""
    bands = []
    for start in range(0, len(weights), BAND):
        rows = slice(start, min(start + BAND, len(weights)))
        used = np.flatnonzero(weights[rows].any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 0)
        bands.append(Band(rows, columns, np.ascontiguousarray(weights[rows, columns])))
    return tuple(bands)


@lru_cache(maxsize=256)
def bands(source: int, target: int, order: int) -> tuple[Band, ...]:
    """`matrix(source, target, order)` in bands."""
    return split(matrix(source, target, order))


@lru_cache(maxsize=256)
def nearest(source: int, target: int) -> np.ndarray:
    """For each of `target` samples the index of the nearest of `source`: order 0 as a list."""
    return matrix(source, target, 0).argmax(axis=1)


def multiply(array: np.ndarray, axis: int, parts: tuple[Band, ...]) -> np.ndarray:
    """Interpolates one axis of a C-contiguous float32 array (X, Y, Z)."""
    x, y, z = array.shape
    size = parts[-1].rows.stop if parts else 0
    if axis == 0:
        result = np.empty((size, y, z), np.float32)
        flat_source, flat_result = array.reshape(x, y * z), result.reshape(size, y * z)
        for rows, columns, weights in parts:
            np.matmul(weights, flat_source[columns], out=flat_result[rows])
    elif axis == 1:
        result = np.empty((x, size, z), np.float32)
        for rows, columns, weights in parts:
            np.matmul(weights, array[:, columns], out=result[:, rows])
    else:
        result = np.empty((x, y, size), np.float32)
        flat_source, flat_result = array.reshape(x * y, z), result.reshape(x * y, size)
        for rows, columns, weights in parts:
            np.matmul(flat_source[:, columns], weights.T, out=flat_result[:, rows])
    return result


def axes_to_resample(source: tuple[int, ...], target: Shape) -> list[int]:
    """The axes whose size changes, those that shrink most first: so what lies between stays small."""
    return sorted(
        (axis for axis in range(3) if source[axis] != target[axis]), key=lambda axis: target[axis] / source[axis]
    )


def resample(array: np.ndarray, shape: Shape, order: int, coarse_axis: int | None = None) -> np.ndarray:
    """A float32 array (X, Y, Z) on the grid of `shape` voxels over the same extent.

    `order` 0 (nearest), 1 (linear) or 3 (cubic spline; may overshoot the range of the values); `coarse_axis` is
    interpolated with order 0. Axes of equal size are left as they are: where all agree, `array` itself comes back.
    """
    for axis in axes_to_resample(array.shape, shape):
        if order == 0 or axis == coarse_axis:
            array = array.take(nearest(array.shape[axis], shape[axis]), axis=axis)
        else:
            array = multiply(np.ascontiguousarray(array), axis, bands(array.shape[axis], shape[axis], order))
    return array


def resample_classes(
    classes: np.ndarray, shape: Shape, order: int, coarse_axis: int | None = None, smooth: bool = False
) -> np.ndarray:
    """A uint8 map (X, Y, Z) of class indices on the grid of `shape` voxels over the same extent.

    `order` 1 interpolates the mask of each class linearly (with order 0 along `coarse_axis`) and takes the class of the
    largest share, ties to the lower index; 0 takes the nearest voxel. `IGNORE` is a class like any other.

    `smooth` rounds the steps of a coarse mask off along axes that become clearly finer: of a smooth organ's surface
    that leaves more than linear interpolation does, of structures one voxel thin a little less.
    """
    axes = axes_to_resample(classes.shape, shape)
    if order == 0:
        for axis in axes:
            classes = classes.take(nearest(classes.shape[axis], shape[axis]), axis=axis)
        return classes
    if not axes:
        return classes
    weights = {
        axis: mask_matrix(classes.shape[axis], shape[axis], nearest=axis == coarse_axis, smooth=smooth) for axis in axes
    }
    result = np.zeros(shape, np.uint8)
    best = np.zeros(shape, np.float32)
    background = np.ones(shape, np.float32)
    for index, box in enumerate(find_objects(classes), start=1):
        if box is None:
            continue
        region, share = resample_mask(classes[box] == index, box, weights)
        background[region] -= share
        larger = share > best[region] + TIE
        best[region][larger] = share[larger]
        result[region][larger] = index
    result[background >= best - TIE] = 0
    return result


def mask_matrix(source: int, target: int, *, nearest: bool, smooth: bool) -> np.ndarray:
    """The matrix that carries a mask along one axis; its rows sum to one and none of its weights is negative."""
    if nearest:
        return matrix(source, target, 0)
    if smooth and target > CLEARLY_FINER * source:
        return matrix(source, target, 3, prefilter=False)
    return matrix(source, target, 1)


def resample_mask(
    mask: np.ndarray, box: tuple[slice, ...], weights: dict[int, np.ndarray]
) -> tuple[tuple[slice, ...], np.ndarray]:
    """Carries a mask that is True in `box` only, of which `mask` is the content, along the axes of `weights`.

    Only where the result can differ from zero: returns that region of the target and the float32 values there.
    """
    values = np.ascontiguousarray(mask, np.float32)
    region = list(box)
    for axis, whole in weights.items():
        columns = whole[:, box[axis]]
        rows = np.flatnonzero(columns.any(axis=1))
        region[axis] = slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0)
        values = multiply(values, axis, split(columns[region[axis]]))
    return tuple(region), values
