"""How several methods rank over the same patients, and which of them cannot be told apart.

Friedman's test asks whether ranks differ at all; then every pair is tested with Wilcoxon's signed-rank test, corrected
by Holm over all pairs. Nemenyi's single critical difference (Demšar, JMLR 2006) is not used: by it, whether two methods
differ depends on which others are in the picture (Benavoli et al., JMLR 2016).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import friedmanchisquare, rankdata

from semivox.evaluation.statistics import DECIMALS, group_sums, holm, signed_rank_p

SIGNIFICANT = 0.05

LEAST_GROUPS = 6
"""With fewer patients no signed-rank test can come below 0.05, whatever the scores."""

LEAST_METHODS = 3


@dataclass(frozen=True)
class Ranking:
    """Methods by their mean rank over `groups` patients; 1 is the best. All tuples are in the order of the scores'
    columns, and `cliques` hold their indices."""

    mean_ranks: tuple[float, ...]
    groups: int
    statistic: float
    p_value: float
    """Of Friedman's test; 1 where all methods are alike in all patients."""
    cliques: tuple[tuple[int, ...], ...]
    """Neighbours in rank of which no two differ significantly, best first, each as large as can be; none of one."""


def rank_methods(scores: np.ndarray, groups: Sequence[str] | None = None) -> Ranking | None:
    """Ranks methods by `scores` (case, method), where more is better; a patient's score is the mean over its `groups`.

    Cases in which a score is NaN are left out. None for fewer than three methods, or fewer patients than a test needs.
    """
    known = ~np.isnan(scores).any(axis=1)
    kept = None if groups is None else [group for group, keep in zip(groups, known, strict=True) if keep]
    sums, counts = group_sums(scores[known], kept)
    if scores.shape[1] < LEAST_METHODS or len(sums) < LEAST_GROUPS:
        return None
    means = np.round(sums / counts, DECIMALS)
    ranks = rankdata(-means, axis=1).mean(axis=0)
    alike = bool((means == means[:, :1]).all())
    statistic, p_value = (0.0, 1.0) if alike else map(float, friedmanchisquare(*means.T))
    order = np.argsort(ranks, kind="stable")
    different = _different(means) if p_value <= SIGNIFICANT else set()
    return Ranking(tuple(ranks.tolist()), len(means), statistic, p_value, _cliques(order.tolist(), different))


def _different(means: np.ndarray) -> set[frozenset[int]]:
    """The pairs of columns of `means` (patient, method) that the corrected tests tell apart."""
    pairs = list(combinations(range(means.shape[1]), 2))
    corrected = holm([signed_rank_p(means[:, one] - means[:, other]) for one, other in pairs])
    return {frozenset(pair) for pair, p_value in zip(pairs, corrected, strict=True) if p_value <= SIGNIFICANT}


def _cliques(order: Sequence[int], different: set[frozenset[int]]) -> tuple[tuple[int, ...], ...]:
    """The longest stretches of `order` without a pair that differs; none that lies within another, none of one."""
    found: list[tuple[int, ...]] = []
    reached = 0
    for begin in range(len(order)):
        end = begin + 1
        while end < len(order) and not any(frozenset((one, order[end])) in different for one in order[begin:end]):
            end += 1
        if end - begin > 1 and end > reached:
            found.append(tuple(order[begin:end]))
            reached = end
    return tuple(found)
