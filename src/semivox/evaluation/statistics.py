"""How sure a mean over cases is, and whether two sets of scores of the same cases differ.

Where several cases come from one patient (`groups`) their scans are not independent: the bootstrap draws patients, and
the signed-rank test takes each patient's mean difference. Every draw comes from a seed: the same scores give the same
intervals.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import wilcoxon

RESAMPLES = 10_000
CONFIDENCE = 0.95

DECIMALS = 12
"""Of scores and their means where it matters whether two are equal: the next ones are the order of summation's."""


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
    groups: int
    """Patients that these cases are of: the independent differences."""
    difference: float
    low: float
    high: float
    """Bootstrap interval of the mean difference."""
    p_value: float
    """Of the two-sided Wilcoxon signed-rank test over patients; 1 where none differs."""
    bootstrap_p_value: float
    """Of the two-sided paired bootstrap: 0.05 where the 95 % interval just touches zero; NaN where there is none."""


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
    low, high = _percentiles(_drawn_means(columns, groups, resamples, seed), confidence)
    return (low[0], high[0]) if values.ndim == 1 else (low, high)


def _percentiles(means: np.ndarray, confidence: float) -> np.ndarray:
    """The two ends (2, column) that hold the middle share of the drawn `means` (resample, column)."""
    ends = np.full((2, means.shape[1]), np.nan)
    sure = np.isfinite(means).any(axis=0)
    if sure.any():
        tail = 50 * (1 - confidence)
        ends[:, sure] = np.nanpercentile(means[:, sure], [tail, 100 - tail], axis=0)
    return ends


def _drawn_means(values: np.ndarray, groups: Sequence[str] | None, resamples: int, seed: int) -> np.ndarray:
    """Means over cases (resample, column) of `values` (case, column), whose groups are drawn with replacement.

    NaN in a draw without any defined value, and in a column with values in fewer than two groups.
    """
    sums, counts = group_sums(values, groups)
    if not len(sums):
        return np.full((resamples, values.shape[1]), np.nan)
    drawn = draws(len(sums), resamples, seed)
    with np.errstate(invalid="ignore"):  # a draw without any defined value has no mean
        return np.where((counts > 0).sum(axis=0) >= 2, (drawn @ sums) / (drawn @ counts), np.nan)


def group_sums(values: np.ndarray, groups: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums and numbers of the defined values (group, column) of `values` (case, column), groups in sorted order."""
    _, group = np.unique(np.arange(len(values)) if groups is None else np.asarray(groups), return_inverse=True)
    number = int(group.max()) + 1 if len(values) else 0
    defined = ~np.isnan(values)
    sums, counts = np.zeros((number, values.shape[1])), np.zeros((number, values.shape[1]))
    np.add.at(sums, group, np.where(defined, values, 0))
    np.add.at(counts, group, defined)
    return sums, counts


@lru_cache(maxsize=2)  # tables ask for the same draws again and again
def draws(number: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of `number` groups is drawn (resample, group), read-only."""
    drawn = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=resamples).astype(float)
    drawn.flags.writeable = False
    return drawn


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
        return Paired(0, 0, math.nan, math.nan, math.nan, math.nan, math.nan)
    kept = None if groups is None else [group for group, keep in zip(groups, both, strict=True) if keep]
    means = _drawn_means(difference[:, None], kept, RESAMPLES, seed)
    ((low,), (high,)) = _percentiles(means, CONFIDENCE)
    sums, counts = group_sums(difference[:, None], kept)
    of_groups = (sums / counts)[:, 0]
    return Paired(
        n=difference.size,
        groups=of_groups.size,
        difference=float(difference.mean()),
        low=float(low),
        high=float(high),
        p_value=signed_rank_p(of_groups),
        bootstrap_p_value=_bootstrap_p(means[:, 0]),
    )


def signed_rank_p(differences: np.ndarray) -> float:
    """p of the two-sided Wilcoxon signed-rank test of independent differences; 1 where all are zero.

    Zeros are left out first: they say nothing of the sign, and with them SciPy would take its approximation where the
    few that are left have an exact p.
    """
    rounded = np.round(differences, DECIMALS)
    known = rounded[rounded != 0]
    return float(wilcoxon(known).pvalue) if known.size else 1.0


def _bootstrap_p(means: np.ndarray) -> float:
    """Twice the smaller share of drawn mean differences on one side of zero, the observed one counted with it."""
    if np.isnan(means).any():
        return math.nan
    rounded = np.round(means, DECIMALS)
    side = min(int((rounded <= 0).sum()), int((rounded >= 0).sum()))
    return min(2 * (side + 1) / (means.size + 1), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of one family of tests, corrected for their number (Holm, Scand. J. Statist. 1979).

    Whoever calls those up to 0.05 significant errs in one of the family or more with at most that probability. NaN is
    no test and stays.
    """
    values = np.asarray(p_values, dtype=float)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known])]
    corrected = np.full(values.shape, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1)
    return corrected.tolist()
