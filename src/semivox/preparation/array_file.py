"""One array in one file of which any part can be read without the rest: plain .npy, or .b2nd compressed by blosc2."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from semivox.atomic import atomic_path

Compression = Literal["none", "blosc2"]

ENDINGS: dict[Compression, str] = {"none": ".npy", "blosc2": ".b2nd"}

BLOCK = 32
"""Edge in voxels of what blosc2 unpacks at once: a patch meets few blocks, a block still packs well."""


def save_array(path: Path, array: np.ndarray) -> int:
    """Writes `array` (..., X, Y, Z) in one step, in the format of the path's ending; returns the bytes it takes."""
    with atomic_path(path) as temporary:
        if path.suffix == ENDINGS["blosc2"]:
            _save_compressed(temporary, array)
        else:
            np.save(temporary, array, allow_pickle=False)
        return temporary.stat().st_size


def open_array(path: Path) -> Any:
    """The array in a file, read only where it is indexed: a NumPy memory map, or a blosc2 array.

    Raises OSError, ValueError or RuntimeError where the file is missing or not whole.
    """
    if path.suffix == ENDINGS["blosc2"]:
        import blosc2

        return blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _save_compressed(path: Path, array: np.ndarray) -> None:
    import blosc2

    leading = (1,) * (array.ndim - 3)
    blosc2.asarray(
        np.ascontiguousarray(array),
        urlpath=str(path),
        chunks=leading + tuple(min(4 * BLOCK, length) for length in array.shape[-3:]),
        blocks=leading + tuple(min(BLOCK, length) for length in array.shape[-3:]),
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": 3, "filters": [blosc2.Filter.BITSHUFFLE], "nthreads": 1},
    )
