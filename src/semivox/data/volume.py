"""Scans in memory: an array and where its voxels lie in the patient.

Axis order is (channel, X, Y, Z). The affine maps voxel indices to millimetres in RAS+ (x to the patient's Right,
y to Anterior, z to Superior), as nibabel gives it. A 2-D picture is a volume with one slice: X is the column (to the
right), Y the row (downwards), and its affine is the identity.
"""

from dataclasses import dataclass

import numpy as np


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

    def matches(self, other: "Grid", tolerance_mm: float = 1e-2) -> bool:
        """Same shape, and no corner of the grid further apart than `tolerance_mm`."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij")).reshape(3, -1)
        corners = np.vstack([corners, np.ones(corners.shape[1])])
        return bool(np.abs((self.affine - other.affine) @ corners)[:3].max() <= tolerance_mm)


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan on its own grid: `array` (channel, X, Y, Z), or (X, Y, Z) for a label map."""

    array: np.ndarray
    grid: Grid
    is_picture: bool = False
    """True for a 2-D picture: one slice, no millimetres."""
