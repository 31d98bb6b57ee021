"""Dice over the number of labelled scans: a fitted power law with a floor, and what more labels would be worth by it.

The error falls as 1 − Dice = c + a · n^(−b), as errors of networks fall with more data: by a power, to what no data
mend (Hestness et al., arXiv:1712.00409, 2017). With three numbers of labels the curve goes through all of them: what is
not known of its form shows in the interval, for every draw has a curve of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from semivox.evaluation.statistics import CONFIDENCE, draws, group_sums

LEAST_NUMBERS = 3
"""Through two numbers of labels every curve goes."""

LEAST_PATIENTS = 2
"""Of one patient every draw is the same, and an interval without width."""

RESAMPLES = 1000
MORE = 10
"""So many further labelled scans are valued."""

EXPONENTS = np.geomspace(0.03, 3, 25)
"""Where the search for b begins; no learning curve is flatter or steeper than its ends can show."""


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
    floor: float
    """c: the error that no number of labels mends, between 0 and 1."""
    factor: float
    """a: what labels mend beside it; negative where Dice falls as labels are added."""
    exponent: float
    """b."""
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

    groups: the patient of each case. Raises ValueError for fewer than three different numbers of labels, fewer than two
    patients, of whom nothing could be drawn, and a run without any value.
    """
    numbers = np.asarray(labelled, dtype=float)
    different = np.unique(numbers)
    if len(different) < LEAST_NUMBERS:
        raise ValueError(f"a curve needs {LEAST_NUMBERS} numbers of labelled scans, not {len(different)}")
    sums, counts = group_sums(dice.T, groups)  # (patient, run)
    if len(sums) < LEAST_PATIENTS or not counts.sum(axis=0).all():
        raise ValueError(f"a curve needs {LEAST_PATIENTS} patients, and every run a score")
    means = sums.sum(axis=0) / counts.sum(axis=0)
    best = _fit(numbers, means)
    grid = np.geomspace(different[0], different[-1], 60)

    places = [np.flatnonzero(numbers == number) for number in different]
    rng = np.random.default_rng(seed)
    laws = []
    for weights in draws(len(sums), resamples, seed):
        drawn = np.concatenate([rng.choice(own, len(own)) for own in places])
        total = weights @ counts[:, drawn]
        if total.all():
            laws.append(_fit(numbers[drawn], (weights @ sums[:, drawn]) / total))
    tail = 50 * (1 - CONFIDENCE)
    curves = np.array([law.dice(grid) for law in laws])
    low, high = np.percentile(curves, [tail, 100 - tail], axis=0)
    gains = []
    for number in different:
        ends = np.percentile([law.gain(number) for law in laws], [tail, 100 - tail])
        low_gain, high_gain = map(float, ends)
        is_measured = bool(number + MORE <= different[-1])
        gains.append(Gain(int(number), best.gain(number), low_gain, high_gain, is_measured))
    of_numbers = np.array([means[own].mean() for own in places])
    return LabelCurve(
        labelled=tuple(int(number) for number in different),
        dice=tuple(tuple(means[own].tolist()) for own in places),
        floor=best.floor,
        factor=best.factor,
        exponent=best.exponent,
        off=float(np.sqrt(np.mean((of_numbers - best.dice(different)) ** 2))),
        grid=tuple(grid.tolist()),
        fitted=tuple(best.dice(grid).tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        gains=tuple(gains),
    )


@dataclass(frozen=True)
class _Law:
    floor: float
    factor: float
    exponent: float

    def dice(self, numbers: np.ndarray) -> np.ndarray:
        return 1 - self.floor - self.factor * numbers**-self.exponent

    def gain(self, number: float) -> float:
        before, after = self.dice(np.array([number, number + MORE]))
        return float(after - before)


def _fit(numbers: np.ndarray, dice: np.ndarray) -> _Law:
    """Least squares on Dice: for an exponent, floor and factor are a straight line's; the exponent is searched for."""

    def law(exponent: float) -> _Law:
        powers, error = numbers**-exponent, 1 - dice
        apart = powers - powers.mean()
        factor = float(apart @ error / (apart @ apart))
        floor = float(error.mean() - factor * powers.mean())
        if not 0 <= floor <= 1:
            floor = float(np.clip(floor, 0, 1))
            factor = float(powers @ (error - floor) / (powers @ powers))
        return _Law(floor, factor, exponent)

    def squares(exponent: float) -> float:
        return float(((law(exponent).dice(numbers) - dice) ** 2).sum())

    nearest = int(np.argmin([squares(exponent) for exponent in EXPONENTS]))
    around = EXPONENTS[max(nearest - 1, 0)], EXPONENTS[min(nearest + 1, len(EXPONENTS) - 1)]
    return law(float(minimize_scalar(squares, bounds=around, method="bounded").x))
