import numpy as np
import pytest
from scipy.stats import friedmanchisquare, wilcoxon

from semivox.evaluation.ranking import rank_methods


def slow_ranks(scores):
    """Mean rank of each method: one more than the methods that are better, and half of those that are as good."""
    ranks = [[sum(b > a for b in row) + (sum(b == a for b in row) + 1) / 2 for a in row] for row in scores]
    return [sum(column) / len(scores) for column in zip(*ranks, strict=True)]


@pytest.fixture
def scores():
    """(case, method): two good methods that are alike, and a poor one."""
    rng = np.random.default_rng(0)
    good = rng.uniform(0.7, 0.9, 20)
    return np.stack([good, good - rng.uniform(0.2, 0.3, 20), good + rng.normal(0, 0.02, 20)], axis=1)


def test_ranks_and_friedman_equal_the_slow_way_and_scipy(scores):
    ranking = rank_methods(scores)
    assert ranking.mean_ranks == pytest.approx(slow_ranks(scores.tolist()))
    expected = friedmanchisquare(*scores.T)
    assert (ranking.statistic, ranking.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    assert ranking.groups == 20


def test_friedman_worked_value():
    """Ranks 1, 2, 3 in all of six patients: 12 / (6·3·4) · (6² + 12² + 18²) − 3·6·4 = 12, the greatest there is."""
    ranking = rank_methods(np.tile([0.9, 0.8, 0.7], (6, 1)) + np.arange(6)[:, None] / 100)
    assert ranking.mean_ranks == (1, 2, 3)
    assert ranking.statistic == pytest.approx(12)


def test_a_clique_holds_what_the_corrected_tests_do_not_tell_apart(scores):
    assert wilcoxon(scores[:, 0] - scores[:, 2]).pvalue > 0.05
    assert [set(clique) for clique in rank_methods(scores).cliques] == [{0, 2}]


def test_cliques_may_overlap_and_none_lies_within_another():
    """Steps that single pairs hide in noise add up: neighbours are alike, those two steps apart are not."""
    rng = np.random.default_rng(0)
    scores = 0.5 + 0.1 * rng.random((15, 1)) + rng.normal(0, 0.03, (15, 3)) + np.array([0.04, 0.02, 0])
    ranking = rank_methods(scores)
    different = [
        pair for pair in [(0, 1), (0, 2), (1, 2)] if wilcoxon(scores[:, pair[0]] - scores[:, pair[1]]).pvalue < 0.05 / 3
    ]
    assert different == [(0, 2)]
    assert [set(clique) for clique in ranking.cliques] == [{0, 1}, {1, 2}]


def test_where_friedman_sees_nothing_no_pair_is_told_apart():
    scores = np.random.default_rng(46).random((10, 3))
    assert wilcoxon(scores[:, 0] - scores[:, 2]).pvalue < 0.05 / 3  # it would be, tested without Friedman first
    ranking = rank_methods(scores)
    assert ranking.p_value > 0.05
    assert [set(clique) for clique in ranking.cliques] == [{0, 1, 2}]


def test_methods_that_are_all_alike_share_the_middle_rank():
    ranking = rank_methods(np.full((7, 3), 0.8))
    assert (ranking.mean_ranks, ranking.p_value) == ((2, 2, 2), 1)
    assert ranking.cliques == ((0, 1, 2),)


def test_methods_that_only_rounding_tells_apart_are_alike():
    scores = np.repeat([[0.1 + 0.2, 0.3, 0.3]], 8, axis=0)
    assert rank_methods(scores) == rank_methods(np.full((8, 3), 0.3))


def test_patients_are_ranked_by_the_mean_of_their_cases(scores):
    halves = np.repeat(scores, 2, axis=0) + np.tile([[0.01], [-0.01]], (20, 1))
    patients = np.repeat([f"p{number:02}" for number in range(20)], 2)
    assert rank_methods(halves, patients) == rank_methods(scores)


def test_a_case_that_one_method_has_not_is_left_out(scores):
    missing = np.vstack([scores, [[0.1, np.nan, 0.9]]])
    assert rank_methods(missing) == rank_methods(scores)


def test_two_methods_or_five_patients_are_too_few(scores):
    assert rank_methods(scores[:, :2]) is None
    assert rank_methods(scores[:5]) is None
    assert rank_methods(scores, ["p1", "p2"] * 10) is None
