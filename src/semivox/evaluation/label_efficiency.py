"""Dice over the number of labelled scans: a fitted power law, and what more labels would be worth by it.

The error falls as 1 − Dice = a · n^(−b), as errors of networks fall with more data (Hestness et al., arXiv:1712.00409,
2017). The curve has no floor: a few numbers of labels could not tell one, and without it the curve ends at a Dice of 1,
so that far beyond the measured numbers it promises too much.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit

from semivox.evaluation.statistics import CONFIDENCE, draws, group_sums

LEAST_NUMBERS = 3
"""Through two numbers of labels every curve goes."""

RESAMPLES = 1000
MORE = 10
"""So many further labelled scans are valued."""

LEAST_ERROR = 1e-3
"""A Dice of 1 has no logarithm of its error to begin a fit with."""


@dataclass(frozen=True)
class Gain:
    """What `MORE` labelled scans beyond `labelled` change the Dice by, by the curve, with a bootstrap interval."""

    labelled: int
    dice: float
    low: float
    high: float
    is_measured: bool
    """Whether a number of labels at least as large was measured; else the curve is continued."""


@dataclass(frozen=True)
class LabelCurve:
    """The fitted curve of one method. All that is uncertain draws patients, and at each number of labels its runs."""

    labelled: tuple[int, ...]
    """Numbers of labelled scans, ascending."""
    dice: tuple[tuple[float, ...], ...]
    """At each of them, the mean over cases of each run."""
    factor: float
    """a: the error with one labelled scan."""
    exponent: float
    """b: negative where Dice falls as labels are added."""
    off: float
    """Root mean square distance of the numbers' means from the curve."""
    grid: tuple[float, ...]
    """Numbers of labelled scans at which the curve is given."""
    fitted: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    gains: tuple[Gain, ...]
    """One for each of `labelled`."""


def label_curve(
    labelled: Sequence[int],
    dice: np.ndarray,
    groups: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> LabelCurve:
    """Fits `dice` (run, case) of runs with so many `labelled` scans each; NaN is undefined and left out.

    groups: the patient of each case. Raises ValueError for fewer than three different numbers of labels.
    """
    numbers = np.asarray(labelled, dtype=float)
    different = np.unique(numbers)
    if len(different) < LEAST_NUMBERS:
        raise ValueError(f"a curve needs {LEAST_NUMBERS} numbers of labelled scans, not {len(different)}")
    sums, counts = group_sums(dice.T, groups)  # (patient, run)
    means = sums.sum(axis=0) / counts.sum(axis=0)
    best = _fit(numbers, means)
    grid = np.geomspace(different[0], different[-1], 60)

    places = [np.flatnonzero(numbers == number) for number in different]
    rng = np.random.default_rng(seed)
    parameters = []
    for weights in draws(len(sums), resamples, seed):
        drawn = np.concatenate([rng.choice(own, len(own)) for own in places])
        total = weights @ counts[:, drawn]
        if total.all():
            parameters.append(_fit(numbers[drawn], (weights @ sums[:, drawn]) / total, best))
    tail = 50 * (1 - CONFIDENCE)
    curves = np.array([_dice(grid, *own) for own in parameters])
    low, high = np.percentile(curves, [tail, 100 - tail], axis=0)
    gains = []
    for number in different:
        ends = np.percentile([_gain(number, *own) for own in parameters], [tail, 100 - tail])
        low_gain, high_gain = map(float, ends)
        is_measured = bool(number + MORE <= different[-1])
        gains.append(Gain(int(number), _gain(number, *best), low_gain, high_gain, is_measured))
    of_numbers = np.array([means[own].mean() for own in places])
    return LabelCurve(
        labelled=tuple(int(number) for number in different),
        dice=tuple(tuple(means[own].tolist()) for own in places),
        factor=float(np.exp(best[0])),
        exponent=float(best[1]),
        off=float(np.sqrt(np.mean((of_numbers - _dice(different, *best)) ** 2))),
        grid=tuple(grid.tolist()),
        fitted=tuple(_dice(grid, *best).tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        gains=tuple(gains),
    )


def _dice(numbers: np.ndarray, log_factor: float, exponent: float) -> np.ndarray:
    return 1 - np.exp(log_factor - exponent * np.log(numbers))


def _gain(number: float, log_factor: float, exponent: float) -> float:
    before, after = _dice(np.array([number, number + MORE]), log_factor, exponent)
    return float(after - before)


def _fit(numbers: np.ndarray, dice: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """(log a, b) by least squares on Dice, from `start` or the straight line through the logarithms."""
    if start is None:
        slope, start_log = np.polyfit(np.log(numbers), np.log(np.maximum(1 - dice, LEAST_ERROR)), 1)
        start = np.array([start_log, -slope])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # of the covariance, which is not used
        return curve_fit(_dice, numbers, dice, start)[0]
