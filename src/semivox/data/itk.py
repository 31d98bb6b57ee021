"""NRRD and MetaImage files (.nrrd, .mha, .mhd), by SimpleITK.

ITK counts millimetres to the patient's Left and Posterior (LPS), Semivox to Right and Anterior (RAS): the first two
rows of the affine change sign.
"""

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from semivox.atomic import atomic_path
from semivox.data.fault import Fault, FaultError
from semivox.data.volume import Grid, Volume

ENDINGS = (".nrrd", ".mha", ".mhd")

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

sitk.ProcessObject.SetGlobalWarningDisplay(False)


def read(path: Path) -> Volume:
    """The scan (1, X, Y, Z). Raises FaultError: truncated, more than three axes, several values per voxel."""
    image = _image(path)
    if image.GetNumberOfComponentsPerPixel() > 1:
        what = f"has {image.GetNumberOfComponentsPerPixel()} values per voxel where one is due"
        raise FaultError(Fault("", path, what, "store each channel in a file of its own: CASE_0000, CASE_0001"))
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    if image.GetDimension() > 3:
        what = f"has {image.GetDimension()} axes ({' × '.join(map(str, image.GetSize()))}) where three are due"
        raise FaultError(
            Fault("", path, what, "store each volume in a file of its own; channels as CASE_0000, CASE_0001")
        )
    array = sitk.GetArrayFromImage(image).T
    if array.dtype.kind not in "iuf":
        raise FaultError(Fault("", path, f"holds numbers of type {array.dtype}", "store plain numbers"))
    x, y, z = (*array.shape, 1)[:3]
    return Volume(array.reshape(1, x, y, z), Grid((x, y, z), _affine(image)))


def read_array(path: Path) -> np.ndarray:
    """The values alone, in ITK's axis order: (rows, columns, bands) for a colour picture. Raises FaultError."""
    return sitk.GetArrayFromImage(_image(path))


def write(path: Path, array: np.ndarray, grid: Grid) -> None:
    """Writes (X, Y, Z), atomically, with the grid's geometry and no other header field."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    affine = LPS_TO_RAS @ grid.affine
    spacing = np.array(grid.spacing_mm)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    with atomic_path(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:
            raise OSError(str(error).strip().splitlines()[-1]) from None


def _image(path: Path) -> sitk.Image:
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise FaultError(
            Fault("", path, f"cannot be read ({reason})", "copy it again from its source, or remove the case")
        ) from None


def _affine(image: sitk.Image) -> np.ndarray:
    """(4, 4), voxel index → mm in RAS+; a 2-D image lies in the plane z = 0."""
    dimension = image.GetDimension()
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)
    affine[:dimension, :dimension] = direction * np.array(image.GetSpacing())
    affine[:dimension, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine
