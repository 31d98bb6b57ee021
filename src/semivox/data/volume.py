"""Scans in memory: an array and where its voxels lie in the patient.

Axis order is (channel, X, Y, Z). The affine maps voxel indices to millimetres in RAS+ (x to the patient's Right,
y to Anterior, z to Superior), as nibabel gives it. A 2-D picture is a volume with one slice: X is the column (to the
right), Y the row (downwards), and its affine is the identity.
"""

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import aff2axcodes


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie: `shape` (X, Y, Z) and `affine` (4, 4), voxel index → mm in RAS+."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Length in mm of one voxel step along X, Y, Z."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(x), float(y), float(z)

    @property
    def orientation(self) -> str:
        """Where the three axes point, nearest letters: "RAS", "LPS", ..."""
        return "".join(letter or "?" for letter in aff2axcodes(self.affine))

    def distance_mm(self, other: "Grid") -> float:
        """How far apart the furthest corner of this grid's box lies when placed by the affine of `other`."""
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij")).reshape(3, -1)
        corners = np.vstack([corners, np.ones(corners.shape[1])])
        return float(np.abs((self.affine - other.affine) @ corners)[:3].max())

    def matches(self, other: "Grid", tolerance_mm: float = 1e-2) -> bool:
        """Same shape, and no corner of the grid further apart than `tolerance_mm`."""
        return self.shape == other.shape and self.distance_mm(other) <= tolerance_mm

    def difference(self, other: "Grid") -> str | None:
        """In words what sets `other` apart from this grid, None where they agree to a twentieth of a voxel.

        Headers store their numbers in several rounded ways; what is below a twentieth of a voxel is such rounding.
        """
        if self.shape != other.shape:
            return f"shape {_numbers(other.shape)} instead of {_numbers(self.shape)}"
        tolerance_mm = 0.05 * min(self.spacing_mm)
        if self.matches(other, tolerance_mm):
            return None
        if self.orientation != other.orientation:
            return f"orientation {other.orientation} instead of {self.orientation}"
        steps = zip(self.shape, self.spacing_mm, other.spacing_mm, strict=True)
        if any(abs(mine - theirs) * max(n - 1, 1) > tolerance_mm for n, mine, theirs in steps):
            return f"spacing {_numbers(other.spacing_mm)} mm instead of {_numbers(self.spacing_mm)} mm"
        return f"affine that puts it {self.distance_mm(other):.3g} mm away"


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan on its own grid: `array` (channel, X, Y, Z), or (X, Y, Z) for a label map."""

    array: np.ndarray
    grid: Grid
    is_picture: bool = False
    """True for a 2-D picture: one slice, no millimetres."""


def _numbers(values: tuple[float, ...]) -> str:
    return " × ".join(f"{value:.6g}" for value in values)
