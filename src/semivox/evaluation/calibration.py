"""Whether a probability means what it says (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017)."""

import math
from dataclasses import dataclass

import numpy as np

from semivox.data.labels import IGNORE
from semivox.errors import DataError


@dataclass(frozen=True, eq=False)
class Reliability:
    """Per bin of equal width over [0, 1]: voxels, their mean confidence and the share of them that is right.

    The last two are NaN in an empty bin. Reliabilities of several cases add up: `first + second`.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_error(self) -> float:
        """Expected calibration error, `Σ n_b / n · |accuracy_b - confidence_b|`; NaN of no voxel."""
        if not self.count.sum():
            return math.nan
        return float(np.nansum(self.count * np.abs(self.accuracy - self.confidence)) / self.count.sum())

    def __add__(self, other: "Reliability") -> "Reliability":
        if self.count.size != other.count.size:
            raise DataError(f"reliabilities have {self.count.size} and {other.count.size} bins; use one number of bins")
        pairs = [(self.confidence, other.confidence), (self.accuracy, other.accuracy)]
        sums = [np.nan_to_num(a) * self.count + np.nan_to_num(b) * other.count for a, b in pairs]
        return _reliability(self.count + other.count, *sums)


def reliability(probabilities: np.ndarray, reference: np.ndarray, bins: int = 15) -> Reliability:
    """Reliability of the most likely class.

    `probabilities` (K, *space) sum to 1 over K; `reference` (*space) holds class indices. Voxels with `IGNORE` are left
    out.
    """
    if probabilities.shape[1:] != reference.shape:
        raise DataError(
            f"probabilities have shape {probabilities.shape}, reference {reference.shape}; space must be equal"
        )
    known = reference != IGNORE
    confidence = probabilities.max(axis=0)[known].astype(np.float64)
    right = probabilities.argmax(axis=0)[known] == reference[known]
    # Bins are open below and closed above, as in the paper; 0 falls into the first.
    index = np.clip(np.ceil(confidence * bins).astype(np.intp) - 1, 0, bins - 1)
    return _reliability(*(np.bincount(index, weights, minlength=bins) for weights in (None, confidence, right)))


def _reliability(count: np.ndarray, confidence_sum: np.ndarray, right_sum: np.ndarray) -> Reliability:
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin is the NaN that is meant
        return Reliability(count, confidence_sum / count, right_sum / count)
