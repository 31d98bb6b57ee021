"""How much disk a store will take, from the headers of its scans."""

from collections.abc import Iterable
from math import prod
from pathlib import Path

import numpy as np

from semivox.data.volume import Grid
from semivox.preparation.placement import largest_shape
from semivox.preparation.settings import Preparation

IMAGE_BYTES = np.dtype(np.float32).itemsize
LABEL_BYTES = np.dtype(np.uint8).itemsize
ITK_TO_RAS = np.diag([-1.0, -1.0, 1.0])
"""ITK's axes point to the patient's Left, Posterior and Superior."""


def store_size(grids: Iterable[Grid], channels: int, preparation: Preparation) -> int:
    """Bytes of the store of these scans, labels included, at most: what cropping and compression save is not known
    before the voxels are read."""
    voxel_bytes = channels * IMAGE_BYTES + LABEL_BYTES
    return sum(prod(largest_shape(grid, preparation)) * voxel_bytes for grid in grids)


def header_grid(file: Path) -> Grid | None:
    """The grid that an image file's header tells, without reading a voxel; None where it tells none (DICOM series)."""
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    axes = min(reader.GetDimension(), 3)
    steps = np.eye(3)
    steps[:axes, :axes] = np.reshape(reader.GetDirection(), (reader.GetDimension(), -1))[:axes, :axes]
    affine = np.eye(4)
    affine[:3, :3] = ITK_TO_RAS @ steps @ np.diag([*reader.GetSpacing(), 1.0][:3])
    x, y, z = (*reader.GetSize(), 1)[:3]
    return Grid((x, y, z), affine)
