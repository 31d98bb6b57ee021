"""NIfTI files (.nii, .nii.gz), by nibabel.

The affine is the sform where its code is above zero, else the qform, else the header's voxel sizes. Values are scaled
by scl_slope and scl_inter, in float32; without scaling they keep the file's type.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from semivox.atomic import atomic_path
from semivox.data.fault import Fault, FaultError
from semivox.data.volume import Grid, Volume

ENDINGS = (".nii.gz", ".nii")

COPY = "copy it again from its source, or remove the case"
UNSCALED = "store it again without scaling, in a type that holds its values"


def read(path: Path) -> Volume:
    """The scan (1, X, Y, Z). Axes of length one after the third are dropped, absent ones added.

    Raises FaultError: not there, empty, truncated, no NIfTI, more than three axes, no plain numbers.
    """
    with _opened(path) as (image, stream):
        shape = _shape(path, image)
        _check_header(path, image)
        array = _scaled(path, image) if _is_scaled(image) else np.asarray(image.dataobj.get_unscaled())
        _read_to_end(stream)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return Volume(array.reshape(1, *shape, order="F"), Grid(shape, image.affine))


def header_faults(path: Path) -> list[Fault]:
    """What is doubtful about the header of a file that can be read."""
    with _opened(path) as (image, _):
        header = image.header
        faults = []
        shape = _shape(path, image)
        sform, sform_code = image.get_sform(coded=True)
        try:
            qform, qform_code = image.get_qform(coded=True)
        except HeaderDataError:
            faults.append(Fault("", path, "qform holds no rotation", "set it to the sform", is_error=False))
            qform, qform_code = None, 0
        if sform_code > 0 and qform_code > 0:
            difference = Grid(shape, sform).difference(Grid(shape, qform))
            if difference:
                what = f"qform and sform disagree (qform: {difference}); the sform is used here, other tools may differ"
                mend = "find out which is right and store it as both"
                faults.append(Fault("", path, what, mend, is_error=False))
        if sform_code <= 0 and qform_code <= 0:
            assumed = Grid(shape, image.affine).orientation
            what = f"says nothing about orientation (qform and sform code 0); {assumed} is assumed"
            faults.append(Fault("", path, what, "store the true affine with code 1", is_error=False))
        unit = header.get_xyzt_units()[0]
        if unit not in ("mm", "unknown"):
            what = f"declares its voxel size in {unit}; it is read as mm"
            faults.append(Fault("", path, what, "store the affine in mm", is_error=False))
        if _is_scaled(image):
            faults += _scaling_faults(path, image)
    return faults


def write(path: Path, array: np.ndarray, grid: Grid) -> None:
    """Writes (X, Y, Z), atomically, with the grid's affine and a header that says nothing else."""
    image = nib.Nifti1Image(array, grid.affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(grid.affine, code=1)
    if _is_rigid(grid.affine):
        image.set_qform(grid.affine, code=1)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The image (values not yet read) and its stream; what goes wrong inside the block becomes a FaultError."""
    try:
        with open(path, "rb") as file:
            start = file.read(348)
        packed = start[:2] == b"\x1f\x8b"
        if path.name.lower().endswith(".gz") and not packed and b"n+1\0" in start:
            raise FaultError(Fault("", path, "is a NIfTI file that is not compressed", "rename it to end in .nii"))
        with gzip.open(path) if packed else open(path, "rb") as stream:
            size = stream.read(4)
            stream.seek(0)
            large = 540 in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
            with LoggingOutputSuppressor():  # nibabel prints what it then raises
                image = (nib.Nifti2Image if large else nib.Nifti1Image).from_stream(stream)
            yield image, stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FaultError(Fault("", path, f"is truncated or damaged ({error})", COPY)) from None
    except (ImageFileError, HeaderDataError, WrapStructError) as error:
        raise FaultError(
            Fault("", path, f"is not a valid NIfTI file ({error})", "convert it to NIfTI, or remove it")
        ) from None
    except (OSError, ValueError) as error:
        raise FaultError(Fault("", path, f"cannot be read ({' '.join(str(error).split())})", COPY)) from None
    except MemoryError:
        raise FaultError(Fault("", path, "declares more voxels than memory can hold", COPY)) from None


def _read_to_end(stream: BinaryIO | gzip.GzipFile) -> None:
    """Only at its end does gzip compare the checksum."""
    while stream.read(1 << 20):
        pass


def _shape(path: Path, image: Any) -> tuple[int, int, int]:
    shape = tuple(int(n) for n in image.shape)
    if len(shape) > 3 and max(shape[3:]) > 1:
        what = f"has {len(shape)} axes ({' × '.join(map(str, shape))}) where three are due"
        raise FaultError(
            Fault("", path, what, "store each volume in a file of its own; channels as CASE_0000, CASE_0001")
        )
    if 0 in shape:
        raise FaultError(Fault("", path, f"has no voxels (shape {' × '.join(map(str, shape))})", COPY))
    x, y, z = (*shape, 1, 1, 1)[:3]
    return x, y, z


def _check_header(path: Path, image: Any) -> None:
    affine = image.affine
    if not (np.isfinite(affine).all() and np.linalg.matrix_rank(affine[:3, :3]) == 3):
        what = "has an affine in which an axis has no length or two axes coincide"
        raise FaultError(Fault("", path, what, "store the true spacing and orientation of the scan"))
    kind = image.get_data_dtype()
    if kind.kind not in "iuf":
        what = "holds colours" if kind.fields else f"holds numbers of type {kind}"
        raise FaultError(Fault("", path, what, "store plain numbers, one file per channel"))


def _is_scaled(image: Any) -> bool:
    return (image.dataobj.slope, image.dataobj.inter) != (1.0, 0.0)


def _scaled(path: Path, image: Any) -> np.ndarray:
    """The values as float32. Raises FaultError where float32 cannot hold what the scaling makes of them."""
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.asarray(image.dataobj, dtype=np.float32)
    if not np.isfinite(array).all():
        raw = np.asarray(image.dataobj.get_unscaled())
        if np.isfinite(raw).all():
            raise FaultError(Fault("", path, f"{_scaling(image, raw)[0]}, which overflows float32", UNSCALED))
    return array


def _scaling_faults(path: Path, image: Any) -> list[Fault]:
    """Scaling that leaves the range of the file's whole numbers: right when read here, but not by every tool."""
    raw = np.asarray(image.dataobj.get_unscaled())
    if raw.dtype.kind not in "iu":
        return []
    how, low, high = _scaling(image, raw)
    limits = np.iinfo(raw.dtype)
    if limits.min <= low and high <= limits.max:
        return []
    what = f"{how}, outside {raw.dtype}: integers overflow in tools that keep the file's type"
    return [Fault("", path, what, UNSCALED, is_error=False)]


def _scaling(image: Any, raw: np.ndarray) -> tuple[str, float, float]:
    """What the scaling does to the file's numbers, in words, and the range that it takes them to."""
    slope, inter = image.dataobj.slope, image.dataobj.inter
    low, high = sorted(float(end) * slope + inter for end in (raw.min(), raw.max()))
    return f"scl_slope {slope:g} and scl_inter {inter:g} take its values to {low:g} .. {high:g}", low, high


def _is_rigid(affine: np.ndarray) -> bool:
    """Whether the axes are at right angles: a qform can hold nothing else."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-6))
