import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from semivox.evaluation.statistics import bootstrap_interval, compare_paired, holm, mean_of_defined, summarise


def slow_interval(values, groups, draws, seed):
    """Percentile interval of the mean, one draw of whole groups after the other."""
    rng = np.random.default_rng(seed)
    names = sorted(set(groups))
    means = []
    for _ in range(draws):
        drawn = [v for g in rng.choice(names, len(names)) for v, own in zip(values, groups, strict=True) if own == g]
        means.append(np.nanmean(drawn))
    return np.percentile(means, [2.5, 97.5])


def test_interval_equals_drawing_cases_one_by_one():
    values = np.random.default_rng(0).normal(0.8, 0.1, 20)
    expected = slow_interval(values, list(range(20)), 4000, seed=1)
    assert bootstrap_interval(values) == pytest.approx(expected, abs=0.005)


def test_groups_are_drawn_whole():
    rng = np.random.default_rng(2)
    patients = [f"p{i // 3}" for i in range(30)]
    values = np.repeat(rng.normal(0.8, 0.1, 10), 3) + rng.normal(0, 0.005, 30)
    values[4] = math.nan
    grouped, alone = bootstrap_interval(values, patients), bootstrap_interval(values)
    assert grouped == pytest.approx(slow_interval(values, patients, 4000, seed=1), abs=0.006)
    assert grouped[1] - grouped[0] > 1.4 * (alone[1] - alone[0])


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.normal(size=40), resamples=500, seed=seed)
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_same_seed_same_interval_and_another_seed_another():
    values = np.random.default_rng(4).random(15)
    assert bootstrap_interval(values, seed=7) == bootstrap_interval(values, seed=7)
    assert bootstrap_interval(values, seed=7) != bootstrap_interval(values, seed=8)


def test_columns_are_those_of_single_calls():
    values = np.random.default_rng(5).random((12, 3))
    values[2, 1] = math.nan
    low, high = bootstrap_interval(values)
    for column in range(3):
        assert bootstrap_interval(values[:, column]) == pytest.approx((low[column], high[column]))


def test_summary_is_of_the_defined_values_only():
    (summary,) = summarise(np.array([[0.5], [math.nan], [0.7], [0.9]]))
    assert (summary.mean, summary.deviation, summary.n) == (pytest.approx(0.7), pytest.approx(0.2), 3)
    assert 0.5 <= summary.low < 0.7 < summary.high <= 0.9


def test_what_cannot_be_computed_is_nan():
    none, one = summarise(np.array([[math.nan, 0.5], [math.nan, math.nan]]))
    assert none.n == 0
    assert all(math.isnan(value) for value in (none.mean, none.deviation, none.low, none.high))
    assert (one.mean, one.n) == (0.5, 1)
    assert all(math.isnan(value) for value in (one.deviation, one.low, one.high))
    assert math.isnan(bootstrap_interval(np.empty(0))[0])


def test_two_scans_of_one_patient_give_no_interval():
    assert math.isnan(bootstrap_interval(np.array([0.5, 0.9]), ["p", "p"])[0])


def test_paired_difference_and_wilcoxon_worked_value():
    second = np.zeros(6)
    first = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    paired = compare_paired(first, second)
    assert (paired.n, paired.difference) == (6, pytest.approx(0.35))
    assert paired.p_value == pytest.approx(2 / 2**6)  # all six differences have one sign, exact two-sided
    assert 0.1 <= paired.low < 0.35 < paired.high <= 0.6


def test_pairs_with_an_undefined_value_are_left_out():
    first, second = np.array([1.0, math.nan, 3.0, 4.0]), np.array([0.5, 1.0, math.nan, 3.0])
    paired = compare_paired(first, second, ["a", "b", "c", "d"])
    assert (paired.n, paired.difference) == (2, 0.75)


def test_equal_scores_do_not_differ():
    paired = compare_paired(np.ones(5), np.ones(5))
    assert (paired.difference, paired.low, paired.high, paired.p_value) == (0, 0, 0, 1)


def test_patients_without_a_difference_leave_an_exact_test_of_the_others():
    """Five of one sign cannot come below 2 / 2^5, however many patients stand beside them in whom nothing differs."""
    differences = np.zeros(20)
    differences[:5] = 0.1
    assert compare_paired(differences, np.zeros(20)).p_value == pytest.approx(2 / 2**5)
    differences[:7] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -0.05]
    assert compare_paired(differences, np.zeros(20)).p_value == pytest.approx(4 / 2**7)


def test_means_that_only_rounding_tells_apart_are_equal():
    seeds = np.random.default_rng(5).uniform(0.5, 0.9, (3, 200))
    first, second = mean_of_defined(seeds, axis=0), mean_of_defined(seeds[::-1], axis=0)
    assert (first != second).any()  # the same numbers, added up the other way round
    paired = compare_paired(first, second)
    assert (paired.p_value, paired.bootstrap_p_value) == (1, 1)
    # Differences of 0.1 in either direction tie; as they are, 0.3 - 0.2 is less than 0.2 - 0.1.
    ends = np.array([[0.2, 0.1], [0.3, 0.2], [0.3, 0.4], [0.5, 0.4], [0.7, 0.6], [0.9, 0.8], [1.0, 0.9]])
    assert compare_paired(*ends.T).p_value == pytest.approx(2 * (1 + 7) / 2**7)


def test_nothing_in_common_gives_nan():
    paired = compare_paired(np.array([math.nan]), np.array([1.0]))
    assert paired.n == 0
    assert math.isnan(paired.p_value)


def test_cases_of_one_patient_count_once_in_the_signed_rank_test():
    """Ten equal slices of one patient are one piece of evidence, not ten."""
    rng = np.random.default_rng(6)
    difference = rng.normal(0.3, 1, 8)
    patients = np.repeat([f"p{number}" for number in range(8)], 10)
    alone = compare_paired(difference, np.zeros(8))
    many = compare_paired(np.repeat(difference, 10), np.zeros(80), patients)
    assert (many.n, many.groups, alone.groups) == (80, 8, 8)
    assert many.p_value == pytest.approx(alone.p_value)
    assert many.p_value == pytest.approx(wilcoxon(difference).pvalue)


def test_bootstrap_p_equals_drawing_patients_one_by_one():
    rng = np.random.default_rng(7)
    patients = [f"p{i // 2}" for i in range(24)]
    difference = rng.normal(0.1, 0.3, 24)
    names = sorted(set(patients))
    below = 0
    for _ in range(4000):
        drawn = rng.choice(names, len(names))
        below += np.mean([difference[i] for name in drawn for i in range(24) if patients[i] == name]) <= 0
    expected = 2 * min(below, 4000 - below) / 4000
    assert 0.02 < expected < 0.9
    assert compare_paired(difference, np.zeros(24), patients).bootstrap_p_value == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("seed", range(20))
def test_bootstrap_p_and_interval_say_the_same(seed):
    difference = np.random.default_rng(seed).normal(0.4, 1, 25)
    paired = compare_paired(difference, np.zeros(25))
    assert (paired.bootstrap_p_value < 0.05) == (paired.low > 0 or paired.high < 0)


def test_the_smallest_bootstrap_p_is_of_the_number_of_draws_and_none_is_of_one_patient():
    assert compare_paired(np.ones(5), np.zeros(5)).bootstrap_p_value == pytest.approx(2 / 10_001)
    assert math.isnan(compare_paired(np.ones(3), np.zeros(3), ["p"] * 3).bootstrap_p_value)


def slow_holm(p_values):
    """Step by step: the smallest p times the number of hypotheses left, never below the one before."""
    left = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, before = [0.0] * len(p_values), 0.0
    while left:
        before = max(before, min(1.0, p_values[left[0]] * len(left)))
        corrected[left.pop(0)] = before
    return corrected


def test_holm_worked_value():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_equals_its_steps(p_values):
    assert holm(p_values) == pytest.approx(slow_holm(p_values))


def test_holm_leaves_what_is_no_test_out_of_the_family():
    first, none, second = holm([0.02, math.nan, 0.04])
    assert (first, second) == (pytest.approx(0.04), pytest.approx(0.04))
    assert math.isnan(none)
