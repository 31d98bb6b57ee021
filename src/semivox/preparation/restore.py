"""Back from the prepared grid to the scan's own: the inverse of `prepare`.

What was cropped away is background. Where the spacings agree nothing is interpolated and every voxel returns exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from semivox.errors import DataError
from semivox.preparation.placement import Placement
from semivox.preparation.resampling import BAND, Band, axes_to_resample, bands, multiply, resample_classes


def restore_probabilities(probabilities: np.ndarray, placement: Placement) -> np.ndarray:
    """The most probable class, uint8 (X, Y, Z) on the scan's own grid, of probabilities or logits (K, X, Y, Z).

    Probabilities (any float type, float16 too; also a memory map) are interpolated linearly and then compared, ties to
    the lower class. It goes slab by slab: beside the probabilities and the result it needs some hundred MB, whatever
    the scan's size and K. Raises DataError where the shape is not the prepared one.
    """
    result = np.zeros(placement.source_shape, np.uint8)
    _decide(probabilities, placement, result)
    return result


def restore_with_confidence(probabilities: np.ndarray, placement: Placement) -> tuple[np.ndarray, np.ndarray]:
    """What `restore_probabilities` gives, and the probability of that class, float32 (X, Y, Z).

    What was cropped away is background with probability 1. Raises as `restore_probabilities` does.
    """
    result = np.zeros(placement.source_shape, np.uint8)
    confidence = np.ones(placement.source_shape, np.float32)
    _decide(probabilities, placement, result, confidence)
    return result, confidence


def _decide(
    probabilities: np.ndarray, placement: Placement, result: np.ndarray, confidence: np.ndarray | None = None
) -> None:
    """Writes the most probable class into `result`, and its probability into `confidence`, both (X, Y, Z)."""
    check_shape(probabilities, placement)
    region = placement.region(result)
    for rows, slab in slabs(placement):
        classes = region[rows]
        best = slab(probabilities[0])
        for index in range(1, len(probabilities)):
            values = slab(probabilities[index])
            np.copyto(classes, index, where=values > best)
            np.maximum(best, values, out=best)
        if confidence is not None:
            placement.region(confidence)[rows] = best


def restore_labels(classes: np.ndarray, placement: Placement, order: Literal[0, 1] = 1) -> np.ndarray:
    """Class indices uint8 (X, Y, Z) of the prepared grid on the scan's own grid, background where it was cropped.

    `order` 1: interpolation of each class's mask, its steps rounded off where the scan is finer, then the largest;
    0: the nearest voxel.
    Raises DataError where the shape is not the prepared one.
    """
    check_shape(classes, placement)
    result = np.zeros(placement.source_shape, np.uint8)
    placement.region(result)[...] = resample_classes(classes, placement.cropped_shape, order, smooth=True)
    return result


def restore_map(values: np.ndarray, placement: Placement, outside: float = 0.0) -> np.ndarray:
    """A map of numbers (X, Y, Z) of the prepared grid, such as the uncertainty, as float32 on the scan's own grid.

    Interpolated linearly; `outside` where the scan was cropped.
    Raises DataError where the shape is not the prepared one.
    """
    check_shape(values, placement)
    result = np.full(placement.source_shape, outside, np.float32)
    region = placement.region(result)
    for rows, slab in slabs(placement):
        region[rows] = slab(values)
    return result


def check_shape(array: np.ndarray, placement: Placement) -> None:
    """Raises DataError where (..., X, Y, Z) is not the prepared shape."""
    if array.shape[-3:] != placement.shape:
        raise DataError(f"shape is {array.shape[-3:]}, the prepared scan's is {placement.shape}; they must agree")


@dataclass(frozen=True)
class Slab:
    """Some X slices of the cropped scan: cuts what they need out of a prepared map and interpolates it."""

    columns: slice
    """The X slices of the prepared map that they depend on."""
    parts: dict[int, tuple[Band, ...]]
    """Axis → interpolation matrix, in the order in which they are applied."""

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(X, Y, Z) of the prepared grid → float32 (slices, Y, Z) at the scan's own spacing, a new array."""
        slab = np.array(values[self.columns], np.float32, order="C")
        for axis, parts in self.parts.items():
            slab = multiply(slab, axis, parts)
        return slab


def slabs(placement: Placement) -> Iterator[tuple[slice, Slab]]:
    """Slabs of at most `BAND` slices, each with its place along X in the cropped scan."""
    prepared, cropped = placement.shape, placement.cropped_shape
    axes = axes_to_resample(prepared, cropped)
    parts = {axis: bands(prepared[axis], cropped[axis], 1) for axis in axes}
    if 0 in parts:
        for rows, columns, weights in parts[0]:
            own = Band(slice(0, rows.stop - rows.start), slice(0, columns.stop - columns.start), weights)
            yield rows, Slab(columns, {**parts, 0: (own,)})
    else:
        for start in range(0, cropped[0], BAND):
            rows = slice(start, min(start + BAND, cropped[0]))
            yield rows, Slab(rows, parts)
