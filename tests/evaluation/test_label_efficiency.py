import math

import numpy as np
import pytest

from semivox.evaluation.label_efficiency import label_curve


def made(numbers, factor=0.5, exponent=0.4, floor=0.1, cases=12, noise=0.0, seed=0):
    """Dice (run, case) on the law; cases differ, and all of them alike at each number of labels."""
    rng = np.random.default_rng(seed)
    hard = rng.uniform(-0.05, 0.05, cases)
    dice = 1 - floor - factor * np.array(numbers, float)[:, None] ** -exponent
    return dice + (hard - hard.mean()) + rng.normal(0, noise, (len(numbers), 1))


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_the_law_that_made_the_scores_is_found_again(floor):
    numbers = [2, 4, 8, 16, 32]
    curve = label_curve(numbers, made(numbers, floor=floor), resamples=50)
    assert (curve.floor, curve.factor, curve.exponent) == pytest.approx((floor, 0.5, 0.4), abs=1e-3)
    assert curve.off == pytest.approx(0, abs=1e-5)
    assert curve.fitted[0] == pytest.approx(1 - floor - 0.5 * 2**-0.4, abs=1e-5)
    assert (curve.grid[0], curve.grid[-1]) == (pytest.approx(2), pytest.approx(32))


def test_ten_more_labels_worked_value():
    """1 − Dice = 0.1 + 0.8 / √n: from 6 to 16 scans 0.8 · (1/√6 − 1/4) = 0.1266."""
    curve = label_curve([1, 4, 6, 16], made([1, 4, 6, 16], factor=0.8, exponent=0.5), resamples=50)
    gains = {gain.labelled: gain for gain in curve.gains}
    assert gains[6].dice == pytest.approx(0.8 * (1 / math.sqrt(6) - 1 / 4), abs=1e-4)
    assert [gains[number].is_measured for number in (1, 4, 6, 16)] == [True, True, True, False]


def test_least_squares_equals_a_search_over_a_grid():
    rng = np.random.default_rng(5)
    numbers = np.repeat([1, 3, 9, 40], 2).astype(float)
    dice = made(numbers) + rng.normal(0, 0.03, (8, 1))
    curve = label_curve(numbers, dice, resamples=50)
    error = 1 - dice.mean(axis=1)
    found = float(((error - curve.floor - curve.factor * numbers**-curve.exponent) ** 2).sum())
    floor, factor, exponent = np.meshgrid(
        np.linspace(0, 0.3, 61), np.linspace(0.2, 0.8, 61), np.linspace(0.05, 3, 60), indexing="ij"
    )
    squares = sum((e - floor - factor * n**-exponent) ** 2 for e, n in zip(error, numbers, strict=True))
    assert found <= squares.min() <= found * 1.05


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    numbers = np.repeat([2, 6, 20], 4)
    truth = 0.5 * (6**-0.4 - 16**-0.4)  # what the law below gains from 6 to 16
    hits = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        dice = 1 - 0.5 * numbers[:, None] ** -0.4 + rng.normal(0, 0.02, (12, 1)) + rng.normal(0, 0.02, (12, 15))
        gain = label_curve(numbers, dice, resamples=100, seed=seed).gains[1]
        hits += gain.low <= truth <= gain.high
    assert hits >= 18


def width(numbers, dice, groups=None):
    gain = label_curve(numbers, dice, groups, resamples=200).gains[0]
    return gain.high - gain.low


def test_the_spread_over_seeds_is_in_the_interval():
    """All cases are alike, so that only runs can differ."""
    numbers = np.repeat([2, 6, 20], 3)
    alike = np.repeat(1 - 0.1 - 0.5 * numbers[:, None] ** -0.4, 5, axis=1)
    noise = np.random.default_rng(0).normal(0, 0.03, (9, 1))
    assert width(numbers, alike) == pytest.approx(0, abs=1e-6)
    assert width(numbers, alike + noise) > 0.02
    assert width(numbers[::3], (alike + noise)[::3]) == pytest.approx(0, abs=1e-6)  # of one run there is no spread


def test_the_spread_over_patients_is_in_the_interval():
    numbers = np.repeat([2, 6, 20], 3)
    calm = made(numbers)
    rng = np.random.default_rng(2)
    steeper = calm + rng.normal(0, 0.1, 12) / numbers[:, None]  # patients that gain more from labels than others
    assert width(numbers, steeper) > 1.5 * width(numbers, calm)
    slices = np.repeat(steeper, 3, axis=1), np.repeat(np.arange(12), 3)
    assert width(numbers, *slices) == pytest.approx(width(numbers, steeper), rel=0.2)


def test_what_is_not_defined_is_left_out():
    numbers = [2, 4, 8]
    dice = made(numbers)
    holed = np.hstack([dice, np.full((3, 1), math.nan)])
    assert label_curve(numbers, holed, resamples=50).dice == label_curve(numbers, dice, resamples=50).dice


def test_fewer_than_three_numbers_are_refused():
    with pytest.raises(ValueError, match="needs 3 numbers of labelled scans, not 2"):
        label_curve([4, 4, 8], made([4, 4, 8]))


def test_one_patient_and_a_run_without_a_score_are_refused():
    with pytest.raises(ValueError, match="needs 2 patients"):
        label_curve([2, 4, 8], made([2, 4, 8]), ["p"] * made([2, 4, 8]).shape[1])
    with pytest.raises(ValueError, match="every run a score"):
        label_curve([2, 4, 8], np.array([[0.5, 0.6], [0.6, 0.7], [math.nan, math.nan]]))


@pytest.mark.parametrize(
    "dice", [np.full((3, 5), 1.0), np.full((3, 5), 0.0), np.array([[0.9] * 2, [0.7] * 2, [0.5] * 2])]
)
def test_perfect_hopeless_and_falling_scores_have_a_curve_too(dice):
    curve = label_curve([1, 5, 30], dice, resamples=50)
    assert np.isfinite([curve.off, *curve.fitted, *curve.low, *curve.high]).all()
    assert curve.fitted[0] >= curve.fitted[-1] - 1e-6
