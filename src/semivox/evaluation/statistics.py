"""How sure a mean over cases is, and whether two sets of scores of the same cases differ.

Where several cases come from one patient (`groups`) the bootstrap draws patients, for their scans are not independent.
Every draw comes from a seed: the same scores give the same intervals.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Mean of the `n` defined values, their standard deviation (n - 1), and the bootstrap interval of the mean.

    NaN where there is nothing to compute it from: the mean of no value, deviation and interval of fewer than two.
    """

    mean: float
    deviation: float
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Difference of two sets of scores, first minus second, over the `n` cases where both are defined."""

    n: int
    difference: float
    low: float
    high: float
    """Bootstrap interval of the mean difference."""
    p_value: float
    """Of the two-sided Wilcoxon signed-rank test; 1 where no case differs."""


def bootstrap_interval(
    values: np.ndarray,
    groups: Sequence[str] | None = None,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval (low, high) of the mean over cases of each column of `values` (case, column).

    NaN is an undefined value: drawn with its case, left out of the mean. The cases are drawn once for all columns.
    NaN is returned for a column with values in fewer than two groups. A one-dimensional `values` gives two scalars.
    """
    columns = values[:, None] if values.ndim == 1 else values
    _, group = np.unique(np.arange(len(values)) if groups is None else np.asarray(groups), return_inverse=True)
    number = int(group.max()) + 1 if len(values) else 0
    defined = ~np.isnan(columns)
    sums, counts = np.zeros((number, columns.shape[1])), np.zeros((number, columns.shape[1]))
    np.add.at(sums, group, np.where(defined, columns, 0))
    np.add.at(counts, group, defined)

    low, high = np.full(columns.shape[1], np.nan), np.full(columns.shape[1], np.nan)
    sure = (counts > 0).sum(axis=0) >= 2
    if sure.any():
        drawn = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=resamples)
        with np.errstate(invalid="ignore"):  # a draw without any defined value has no mean
            means = (drawn @ sums[:, sure]) / (drawn @ counts[:, sure])
        tail = 50 * (1 - confidence)
        low[sure], high[sure] = np.nanpercentile(means, [tail, 100 - tail], axis=0)
    return (low[0], high[0]) if values.ndim == 1 else (low, high)


def mean_of_defined(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over one axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is meant
        return np.where(defined, values, 0).sum(axis=axis) / defined.sum(axis=axis)


def summarise(values: np.ndarray, groups: Sequence[str] | None = None, *, seed: int = 0) -> list[Summary]:
    """One `Summary` per column of `values` (case, column); NaN is an undefined value."""
    lows, highs = bootstrap_interval(values, groups, seed=seed)
    summaries = []
    for column, low, high in zip(values.T, lows, highs, strict=True):
        known = column[~np.isnan(column)]
        mean = float(known.mean()) if known.size else math.nan
        deviation = float(known.std(ddof=1)) if known.size > 1 else math.nan
        summaries.append(Summary(mean, deviation, known.size, float(low), float(high)))
    return summaries


def compare_paired(
    first: np.ndarray, second: np.ndarray, groups: Sequence[str] | None = None, *, seed: int = 0
) -> Paired:
    """Compares two scores (case,) of the same cases in the same order; cases where one is NaN are left out."""
    both = ~np.isnan(first) & ~np.isnan(second)
    difference = first[both] - second[both]
    if not difference.size:
        return Paired(0, math.nan, math.nan, math.nan, math.nan)
    kept = None if groups is None else [group for group, keep in zip(groups, both, strict=True) if keep]
    low, high = bootstrap_interval(difference, kept, seed=seed)
    p_value = float(wilcoxon(difference).pvalue) if difference.any() else 1.0
    return Paired(difference.size, float(difference.mean()), float(low), float(high), p_value)
