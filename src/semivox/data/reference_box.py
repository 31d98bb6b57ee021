"""Boxes around the reference of a scan, as published protocols cut their scans."""

from collections.abc import Sequence

import numpy as np
from nibabel.affines import from_matvec

from semivox.data.download import Arrays, Found, read_files
from semivox.data.fault import Fault, FaultError
from semivox.data.volume import Grid

MARGIN_MM, LEAST_MM = 25, 96
"""What CoraNet's preparation, and that of those who followed it, leaves around the reference on each side, and the
shortest side; it counts voxels after resampling to 1 mm."""

NOTE = """Every scan was cut to the box of its reference label with a margin of 25 mm, each side at least 96 mm where
the scan allows, as published: figures suppose somebody who finds the structure first. Scans without a label were left
out.
"""


def extent(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box that holds all of `mask` (X, Y, Z); None where it is empty."""
    box = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not hit.size:
            return None
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)


def widened(box: Sequence[slice], grid: Grid, margin_mm: float = MARGIN_MM, least_mm: float = LEAST_MM) -> list[slice]:
    """The box with `margin_mm` more on each side, within the grid; a side shorter than `least_mm` grows to both sides
    alike, or where it meets the border to the other one."""
    wide = []
    for side, length, spacing_mm in zip(box, grid.shape, grid.spacing_mm, strict=True):
        margin = round(margin_mm / spacing_mm)
        start, stop = max(side.start - margin, 0), min(side.stop + margin, length)
        size = max(stop - start, min(round(least_mm / spacing_mm), length))
        start = min(max(start - (size - (stop - start)) // 2, 0), length - size)
        wide.append(slice(start, start + size))
    return wide


def cut_out(arrays: Arrays, box: Sequence[slice]) -> Arrays:
    """Image and label within `box`, which stay where they are in the patient."""
    affine = arrays.grid.affine @ from_matvec(np.eye(3), [side.start for side in box])
    x, y, z = (side.stop - side.start for side in box)
    place = tuple(box)
    label = None if arrays.label is None else arrays.label[place]
    return Arrays(arrays.image[place], label, Grid((x, y, z), affine))


def read_cut(case: Found) -> Arrays:
    """The files of a case, cut around its label as `NOTE` says."""
    return cut_around_label(case, read_files(case))


def cut_around_label(case: Found, arrays: Arrays) -> Arrays:
    """What was read of a case, cut around its label as `NOTE` says. Raises FaultError where the label is empty."""
    assert arrays.label is not None
    box = extent(arrays.label != 0)
    if box is None:
        raise FaultError(Fault(case.id, case.label, "label is empty", "copy it again from its source"))
    return cut_out(arrays, widened(box, arrays.grid))
