"""Distances between the surfaces of two binary masks: MedPy's definitions, by a shorter way.

The surface of a mask is the mask minus its erosion with the cross of face neighbours; what lies outside the array is
background. The directed distances d(A→B) are, for every surface voxel of A, the distance between its centre and the
centre of the nearest surface voxel of B.

MedPy makes a distance map of the whole array for each direction. But most surface voxels of a useful prediction lie
within two voxels of the other surface, and a look at those few neighbours, nearest first, finds the exact distance.
Only the voxels left over need a k-d tree, or a distance map where they are so many (a prediction of noise) that it is
cheaper.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

REACH = 2
"""Neighbours are looked at up to this many of the finest voxel steps away."""

TREE_QUERY_VOXELS = 40
"""Measured: one query of the tree costs as much as the distance map does for this many voxels."""

ROUNDING = 1e-6
"""Allowed over a tolerance, for the spacing in a file's header is rounded to single precision."""


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Directed distances, one per surface voxel, infinite where the other mask is empty."""

    to_reference: np.ndarray
    """d(prediction→reference), float64."""
    to_prediction: np.ndarray
    """d(reference→prediction), float64."""

    @property
    def defined(self) -> bool:
        """Whether both masks have a surface; where not, there is no mean and no percentile."""
        return bool(self.to_reference.size and self.to_prediction.size)

    @property
    def hd95(self) -> float:
        """The 95th percentile (linear) of both lists pooled; NaN where a mask is empty."""
        return float(np.percentile(self._pooled(), 95)) if self.defined else math.nan

    @property
    def asd(self) -> float:
        """The mean of d(prediction→reference), one direction only as in the LA papers; NaN where a mask is empty."""
        return float(self.to_reference.mean()) if self.defined else math.nan

    @property
    def assd(self) -> float:
        """The mean of both lists pooled; NaN where a mask is empty."""
        return float(self._pooled().mean()) if self.defined else math.nan

    def surface_dice(self, tolerance: float) -> float:
        """The share of both surfaces' voxels no further than `tolerance` from the other (Nikolov et al., 2021).

        0 where one mask is empty, 1 where both are.
        """
        pooled = self._pooled()
        return float(np.count_nonzero(pooled <= tolerance + ROUNDING) / pooled.size) if pooled.size else 1.0

    def _pooled(self) -> np.ndarray:
        return np.concatenate([self.to_reference, self.to_prediction])


def surface_distances(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> SurfaceDistances:
    """Distances between the surfaces of two boolean masks of one shape, of any dimension, in the unit of `spacing`.

    Time goes with the size of the arrays, the result does not: crop them to their union first.
    """
    # The margin keeps every step to a neighbour, taken on the flat array, inside it and on the right row.
    prediction = np.ascontiguousarray(np.pad(prediction, REACH))
    reference = np.ascontiguousarray(np.pad(reference, REACH))
    surface_a, surface_b = _surface(prediction), _surface(reference)
    voxels_a, voxels_b = np.flatnonzero(surface_a), np.flatnonzero(surface_b)
    return SurfaceDistances(
        _directed(voxels_a, surface_b, voxels_b, prediction.shape, spacing),
        _directed(voxels_b, surface_a, voxels_a, prediction.shape, spacing),
    )


def _surface(mask: np.ndarray) -> np.ndarray:
    """Surface of a contiguous mask whose border is background, flattened."""
    flat = mask.ravel()
    inside = flat.copy()
    for step in mask.strides:
        inside[step:] &= flat[:-step]
        inside[:-step] &= flat[step:]
    return flat ^ inside


def _directed(
    voxels: np.ndarray,
    target: np.ndarray,
    target_voxels: np.ndarray,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
) -> np.ndarray:
    """Distance of each voxel (flat index) to the nearest of `target` (flat mask) = `target_voxels` (flat indices)."""
    distances = np.full(voxels.size, np.inf)
    if not target_voxels.size:
        return distances
    left = np.arange(voxels.size)
    for step, length in _neighbours(shape, spacing):
        found = target[voxels[left] + step]
        distances[left[found]] = length
        left = left[~found]
    if left.size:
        far = voxels[left]
        if TREE_QUERY_VOXELS * left.size + target_voxels.size < target.size:
            tree = cKDTree(_points(target_voxels, shape, spacing), 64, compact_nodes=False, balanced_tree=False)
            distances[left] = tree.query(_points(far, shape, spacing))[0]
        else:
            distances[left] = distance_transform_edt(~target.reshape(shape), sampling=spacing).ravel()[far]
    return distances


def _neighbours(shape: tuple[int, ...], spacing: tuple[float, ...]) -> list[tuple[int, float]]:
    """(step on the flat array, length) to all voxels no further than `REACH` of the finest steps, nearest first."""
    steps = np.array(list(product(range(-REACH, REACH + 1), repeat=len(shape))))
    lengths = np.sqrt(((steps * np.asarray(spacing)) ** 2).sum(axis=1))
    # Any step outside this cube of offsets is longer than that, so none nearer can be missed.
    order = [i for i in np.argsort(lengths, kind="stable") if lengths[i] <= REACH * min(spacing)]
    strides = np.array([math.prod(shape[axis + 1 :]) for axis in range(len(shape))])
    return [(int(steps[i] @ strides), float(lengths[i])) for i in order]


def _points(voxels: np.ndarray, shape: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    return np.stack(np.unravel_index(voxels, shape), axis=1) * np.asarray(spacing)
