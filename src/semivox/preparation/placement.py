"""The record of how a scan became a prepared array, and so of the way back."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from semivox.data.volume import Grid
from semivox.errors import DataError
from semivox.preparation.cropping import Box
from semivox.preparation.orientation import Axes, Flips, prepared_axes, reorient
from semivox.preparation.settings import Preparation

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
Affine = tuple[tuple[float, ...], ...]

SAME_SPACING = 1e-3
"""Spacings that agree within this share count as equal: such an axis is not resampled."""


@dataclass(frozen=True)
class Placement:
    """From a scan's grid to the prepared array: reorient (`axes`, `flips`), cut `box`, resample to `shape`.

    All fields are plain numbers, so that two placements compare and JSON keeps them exactly.
    """

    source_shape: Shape
    """The scan's own X, Y, Z, as in its file."""
    source_affine: Affine
    """The scan's own affine (4 x 4), voxel index → mm in RAS+."""
    axes: Axes
    """`axes[i]` is the scan's axis that becomes axis i."""
    flips: Flips
    """`flips[i]`: axis i is reversed after that."""
    box: Box
    """What was kept, in voxels of the reoriented scan."""
    shape: Shape
    """X, Y, Z of the prepared array."""
    spacing_mm: Spacing
    """Voxel size of the prepared array; exact, where the plan's target is rounded to whole voxels."""

    @property
    def source_grid(self) -> Grid:
        """The scan's own grid."""
        return Grid(self.source_shape, np.array(self.source_affine))

    @property
    def cropped_shape(self) -> Shape:
        """X, Y, Z of the box, at the scan's own spacing."""
        x, y, z = (stop - start for start, stop in self.box)
        return x, y, z

    def region(self, array: np.ndarray) -> np.ndarray:
        """The box of an array (..., X, Y, Z) on the scan's grid, in RAS order, before any resampling.

        It is a view: reading it is the way to the prepared array, writing into it the way back.
        Raises DataError where the array has another shape than the scan.
        """
        if array.shape[-3:] != self.source_shape:
            raise DataError(f"shape is {array.shape[-3:]}, the image's is {self.source_shape}; they must agree")
        oriented = reorient(array, self.axes, self.flips)
        x, y, z = (slice(start, stop) for start, stop in self.box)
        return oriented[..., x, y, z]

    def to_json(self) -> str:
        """One line of JSON; `from_json` gives back an equal placement."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Placement":
        """Reads what `to_json` wrote."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Placement":
        """From the fields as JSON gives them. Raises TypeError where they are not those of a placement."""
        return cls(**{name: as_tuple(value) for name, value in fields.items()})


def as_tuple(value: Any) -> Any:
    """Lists, which is what JSON makes of tuples, back to tuples."""
    return tuple(as_tuple(item) for item in value) if isinstance(value, list) else value


def place(grid: Grid, axes: Axes, flips: Flips, box: Box, preparation: Preparation) -> Placement:
    """The placement of a scan of which `box` (in RAS order) is kept."""
    spacing = reoriented_spacing(grid, axes)
    cropped = tuple(stop - start for start, stop in box)
    shape = target_shape(cropped, spacing, preparation)
    x, y, z = (step * before / after for step, before, after in zip(spacing, cropped, shape, strict=True))
    affine = tuple(tuple(float(number) for number in row) for row in grid.affine)
    return Placement(grid.shape, affine, axes, flips, box, shape, (x, y, z))


def reoriented_spacing(grid: Grid, axes: Axes) -> Spacing:
    """The scan's spacing in mm in RAS order."""
    spacing = grid.spacing_mm
    return spacing[axes[0]], spacing[axes[1]], spacing[axes[2]]


def target_shape(shape: Iterable[int], spacing_mm: Iterable[float], preparation: Preparation) -> Shape:
    """X, Y, Z after resampling an array of `shape` voxels of `spacing_mm`, both in RAS order.

    An axis of one voxel holds nothing to interpolate and stays, as does the slice axis of a picture with it.
    """
    keep = (None, None, None)
    spacings = (preparation.spacing_mm if preparation.resample == "spacing" else None) or keep
    sizes = (preparation.size if preparation.resample == "size" else None) or keep
    x, y, z = (target_length(*axis) for axis in zip(shape, spacing_mm, spacings, sizes, strict=True))
    return x, y, z


def target_length(length: int, spacing_mm: float, target_mm: float | None, size: int | None) -> int:
    """Voxels of one axis after resampling, at least one."""
    if length == 1:
        return 1
    if size is not None:
        return size
    if target_mm is None or abs(spacing_mm - target_mm) <= SAME_SPACING * target_mm:
        return length
    return max(1, round(length * spacing_mm / target_mm))


def largest_shape(grid: Grid, preparation: Preparation) -> Shape:
    """X, Y, Z of the prepared scan if nothing were cropped; needs no voxel of it."""
    axes, _ = prepared_axes(grid.affine, preparation.slices_last)
    x, y, z = (grid.shape[axis] for axis in axes)
    return target_shape((x, y, z), reoriented_spacing(grid, axes), preparation)
