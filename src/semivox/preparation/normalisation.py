"""Intensities of one channel, normalised as the plan says."""

import numpy as np

from semivox.errors import DataError, SettingError
from semivox.preparation.settings import Normalisation

DEVIATION_FLOOR = 1e-8
"""Below this the deviation of a constant image is noise of rounding."""

NEEDED = {"ct": ("low", "high", "mean", "deviation"), "range": ("low", "high")}
"""Kind → the numbers that it cannot do without."""


def normalise(values: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """`values` (X, Y, Z) of any type as a new C-contiguous float32 array; zscore's statistics are of all of `values`.

    Raises DataError on NaN or infinite voxels, SettingError where the plan lacks a number that its kind needs.
    """
    array = as_numbers(values)
    numbers = {name: given(normalisation, name) for name in NEEDED.get(normalisation.kind, ())}
    low, high = clipping(array, normalisation)
    if low is not None or high is not None:
        np.clip(array, low, high, out=array)
    if normalisation.kind == "zscore":
        array -= np.float32(array.mean(dtype=np.float64))
        array /= np.float32(max(root_mean_square(array), DEVIATION_FLOOR))
    elif normalisation.kind == "minmax":
        array -= array.min()
        array /= max(array.max(), np.float32(DEVIATION_FLOOR))
    elif normalisation.kind == "ct":
        array -= np.float32(numbers["mean"])
        array /= np.float32(max(numbers["deviation"], DEVIATION_FLOOR))
    elif normalisation.kind == "range":
        array -= np.float32(numbers["low"])
        array /= np.float32(max(numbers["high"] - numbers["low"], DEVIATION_FLOOR))
    return array


def as_numbers(values: np.ndarray) -> np.ndarray:
    """`values` of any type as a new C-contiguous float32 array. Raises DataError on NaN or infinite voxels."""
    array = np.array(values, np.float32, order="C")
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise DataError("image has NaN or infinite voxels; replace them, for instance by the background value")
    return array


def clipping(array: np.ndarray, normalisation: Normalisation) -> tuple[float | None, float | None]:
    """To what the voxels are clipped before anything else; None where an end is open."""
    low, high = normalisation.low, normalisation.high
    if normalisation.low_percentile is not None:
        low = float(np.percentile(array, normalisation.low_percentile))
    if normalisation.high_percentile is not None:
        high = float(np.percentile(array, normalisation.high_percentile))
    return low, high


def root_mean_square(array: np.ndarray) -> float:
    """Summed plane by plane, so that float32 products of a whole scan lose nothing and no copy is made."""
    return float(np.sqrt(sum(float(np.vdot(plane, plane)) for plane in array) / array.size))


def given(normalisation: Normalisation, name: str) -> float:
    """A number that the kind of normalisation needs."""
    value = getattr(normalisation, name)
    if value is None:
        raise SettingError(f"preparation.normalisation: kind '{normalisation.kind}' needs `{name}`; add it to the plan")
    return float(value)
