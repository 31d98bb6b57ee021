"""Measures of overlap between two masks, as MedPy defines them."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from semivox.data.labels import IGNORE

Empty = Literal["prediction", "reference", "both"] | None


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of two masks A (prediction) and B (reference), and what follows from them."""

    prediction: int
    reference: int
    intersection: int

    @classmethod
    def of(cls, prediction: np.ndarray, reference: np.ndarray) -> "Overlap":
        """Counts two boolean masks of one shape."""
        return cls(
            int(np.count_nonzero(prediction)),
            int(np.count_nonzero(reference)),
            int(np.count_nonzero(prediction & reference)),
        )

    @property
    def empty(self) -> Empty:
        """Which of the masks has no voxel; None where both have some."""
        if not self.prediction:
            return "prediction" if self.reference else "both"
        return None if self.reference else "reference"

    @property
    def dice(self) -> float:
        """`2|A∩B| / (|A| + |B|)`; 1 where both are empty, as MedPy has it since 0.5."""
        total = self.prediction + self.reference
        return 2 * self.intersection / total if total else 1.0

    @property
    def jaccard(self) -> float:
        """`|A∩B| / |A∪B|`; 1 where both are empty."""
        union = self.prediction + self.reference - self.intersection
        return self.intersection / union if union else 1.0

    @property
    def volume_error(self) -> float:
        """`(|A| - |B|) / |B|`, above 0 where the prediction is too large (MedPy's ravd); NaN where B is empty."""
        return (self.prediction - self.reference) / self.reference if self.reference else math.nan


def mean_dice(prediction: np.ndarray, reference: np.ndarray, classes: int) -> float:
    """Mean hard Dice over the foreground classes present in either map; NaN where there is none."""
    known = reference != IGNORE
    inside = (prediction.astype(np.int64) * classes + reference)[known]
    table = np.bincount(inside, minlength=classes * classes).reshape(classes, classes)
    sizes = table.sum(0) + table.sum(1)
    present = sizes[1:] > 0
    return float((2 * np.diag(table)[1:][present] / sizes[1:][present]).mean()) if present.any() else float("nan")
