"""Intensities of one channel, normalised as the plan says."""

import numpy as np

from semivox.errors import DataError, SettingError
from semivox.preparation.settings import Normalisation

DEVIATION_FLOOR = 1e-8
"""Below this the deviation of a constant image is noise of rounding."""


def normalise(values: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """`values` (X, Y, Z) of any type as a new C-contiguous float32 array; zscore's statistics are of all of `values`.

    Raises DataError on NaN or infinite voxels, SettingError where the plan lacks a number that its kind needs.
    """
    array = np.array(values, np.float32, order="C")
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise DataError("image has NaN or infinite voxels; replace them, for instance by the background value")
    if normalisation.kind == "zscore":
        array -= np.float32(array.mean(dtype=np.float64))
        array /= np.float32(max(root_mean_square(array), DEVIATION_FLOOR))
    elif normalisation.kind == "minmax":
        low = array.min()
        array -= low
        array /= max(array.max(), np.float32(DEVIATION_FLOOR))
    elif normalisation.kind == "ct":
        low, high, mean, deviation = (given(normalisation, name) for name in ("low", "high", "mean", "deviation"))
        np.clip(array, low, high, out=array)
        array -= np.float32(mean)
        array /= np.float32(max(deviation, DEVIATION_FLOOR))
    elif normalisation.kind == "range":
        low, high = given(normalisation, "low"), given(normalisation, "high")
        np.clip(array, low, high, out=array)
        array -= np.float32(low)
        array /= np.float32(max(high - low, DEVIATION_FLOOR))
    return array


def root_mean_square(array: np.ndarray) -> float:
    """Summed plane by plane, so that float32 products of a whole scan lose nothing and no copy is made."""
    return float(np.sqrt(sum(float(np.vdot(plane, plane)) for plane in array) / array.size))


def given(normalisation: Normalisation, name: str) -> float:
    """A number that the kind of normalisation needs."""
    value = getattr(normalisation, name)
    if value is None:
        raise SettingError(f"preparation.normalisation: kind '{normalisation.kind}' needs `{name}`; add it to the plan")
    return float(value)
