"""2-D pictures (PNG, JPEG, TIFF, BMP), by Pillow: one slice, X the column, Y the row, identity affine."""

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from semivox.atomic import atomic_path
from semivox.data.fault import Fault, FaultError
from semivox.data.volume import Grid, Volume

LOSSY = (".jpg", ".jpeg")
ENDINGS = (".png", *LOSSY, ".tif", ".tiff", ".bmp")

COPY = "copy it again from its source, or remove the case"

PLAIN = ("L", "I", "F", "I;16", "I;16B", "I;16L", "RGB")
"""Modes whose array is the picture as it is. All others are brought to one of these."""
CONVERTED = {"1": "L", "LA": "L", "La": "L", "RGBA": "RGB", "RGBa": "RGB", "RGBX": "RGB", "P": "RGB", "PA": "RGB"}


def read(path: Path) -> Volume:
    """The picture (C, X, Y, 1): one channel for grey, three for colour; transparency is dropped, palettes resolved.

    Raises FaultError: not there, truncated, no picture, several pages.
    """
    array = _pixels(path, is_label=False)
    return _volume(array.reshape(*array.shape[:2], -1).transpose(2, 1, 0))


def read_label(path: Path) -> Volume:
    """The label (1, X, Y, 1): grey values, or the indices of a palette. Three bands must be equal."""
    array = _pixels(path, is_label=True)
    if array.ndim == 3:
        if not (array == array[..., :1]).all():
            what = "is a colour picture where class values are due"
            raise FaultError(Fault("", path, what, "store one grey value per class as PNG"))
        array = array[..., 0]
    return _volume(array.T[None])


def bands(path: Path) -> int:
    """Number of channels that `read` gives, from the header alone. Raises FaultError."""
    with _open(path) as picture:
        return 1 if CONVERTED.get(picture.mode, picture.mode) in PLAIN[:-1] else 3


def write(path: Path, array: np.ndarray) -> None:
    """Writes (X, Y, 1), atomically; 8- or 16-bit whole numbers, or float32 as TIFF."""
    if array.shape[2] != 1:
        what = f"a volume of {array.shape[2]} slices cannot be a picture"
        raise FaultError(Fault("", path, what, "write it as .nii.gz"))
    is_tiff = path.suffix.lower() in (".tif", ".tiff")
    if path.suffix.lower() in LOSSY:
        raise FaultError(Fault("", path, "JPEG changes the values it stores", "write it as .png"))
    if array.dtype not in (np.uint8, np.uint16) and not (is_tiff and array.dtype == np.float32):
        what = f"values {array.min()} .. {array.max()} ({array.dtype}) do not fit a picture"
        raise FaultError(Fault("", path, what, "use whole numbers of 0 .. 65535, or write it as .nii.gz"))
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(array[..., 0].T)).save(temporary)


def _open(path: Path) -> ImageFile:
    try:
        picture = Image.open(path)
    except (OSError, SyntaxError, ValueError) as error:
        raise FaultError(Fault("", path, f"is not a picture that can be read ({error})", COPY)) from None
    except Image.DecompressionBombError:
        raise FaultError(Fault("", path, "is too large for a picture", "cut it into tiles")) from None
    if getattr(picture, "n_frames", 1) > 1:
        what = f"has {picture.n_frames} pages where one is due"  # type: ignore[attr-defined]
        picture.close()
        raise FaultError(Fault("", path, what, "store a stack of slices as .nii.gz, or each page as a picture"))
    return picture


def _pixels(path: Path, is_label: bool) -> np.ndarray:
    """(rows, columns) or (rows, columns, 3)."""
    with _open(path) as picture:
        try:
            if picture.mode == "RGB" and _is_deep(picture):
                return _deep_colour(path)
            picture.load()
            if is_label and picture.mode in ("P", "1"):
                return np.asarray(picture).astype(np.uint8)
            mode = CONVERTED.get(picture.mode, picture.mode if picture.mode in PLAIN else "RGB")
            array = np.asarray(picture.convert(mode) if mode != picture.mode else picture)
        except (OSError, SyntaxError, ValueError) as error:
            raise FaultError(Fault("", path, f"is truncated or damaged ({error})", COPY)) from None
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _is_deep(picture: ImageFile) -> bool:
    return any("16" in str(tile.args) for tile in picture.tile)


def _deep_colour(path: Path) -> np.ndarray:
    """Colour of 16 bits a band, which Pillow would cut down to 8."""
    from semivox.data import itk

    return itk.read_array(path)


def _volume(array: np.ndarray) -> Volume:
    _, x, y = array.shape
    return Volume(array[..., None], Grid((x, y, 1), np.eye(4)), is_picture=True)
