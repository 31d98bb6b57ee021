"""The paired tests of a comparison, table by table: p-values are corrected for all tests of a table (Holm)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan

from semivox.evaluation.statistics import Paired, holm
from semivox.experiments.compare import MEAN, Comparison, Differences, Pair

TESTED = ("dice", "hd95")
"""Metrics of the mean over classes that are tested; single classes are tested by Dice."""


@dataclass(frozen=True)
class PairedTest:
    """One difference, `second` minus `first`, and its p-values corrected for the others of its family."""

    first: str
    second: str
    part: str
    """Domain or task; empty for all cases."""
    name: str
    """Class, or "mean"."""
    metric: str
    paired: Paired
    """With the p-values as of a single test."""
    p_value: float = float("nan")
    """Wilcoxon's, corrected."""
    bootstrap_p_value: float = float("nan")
    """The bootstrap's, corrected."""


@dataclass(frozen=True)
class Family:
    """The tests of one table."""

    over: str
    """What its rows are of beside pairs and metrics: "cases" (all of them), "classes", "domains" or "tasks"."""
    tests: tuple[PairedTest, ...]

    @property
    def number(self) -> int:
        """How many of them are tests: others have no case in common."""
        return sum(not isnan(test.p_value) for test in self.tests)


def families(comparison: Comparison) -> tuple[Family, ...]:
    """Those in which there is anything to test."""
    pairs = comparison.pairs
    classes = [name for name in (pairs[0].scores if pairs else ()) if name != MEAN]
    found = {
        "cases": [_test(pair, "", pair.scores, MEAN, metric) for pair in pairs for metric in TESTED],
        "classes": [
            _test(pair, "", pair.scores, name, "dice") for pair in pairs for name in classes if len(classes) > 1
        ],
        "domains": [test for pair in pairs for test in _of_parts(pair, pair.domains)],
        "tasks": [test for pair in pairs for test in _of_parts(pair, pair.tasks)],
    }
    return tuple(Family(over, _corrected(tests)) for over, tests in found.items() if tests)


def _of_parts(pair: Pair, parts: dict[str, Differences]) -> list[PairedTest]:
    return [_test(pair, part, scores, MEAN, metric) for part, scores in parts.items() for metric in TESTED]


def _test(pair: Pair, part: str, scores: Differences, name: str, metric: str) -> PairedTest:
    return PairedTest(pair.first, pair.second, part, name, metric, scores[name][metric])


def _corrected(tests: Sequence[PairedTest]) -> tuple[PairedTest, ...]:
    """Each kind of p-value for itself: both are of the same hypotheses."""
    signed_rank = holm([test.paired.p_value for test in tests])
    bootstrap = holm([test.paired.bootstrap_p_value for test in tests])
    return tuple(
        replace(test, p_value=one, bootstrap_p_value=other)
        for test, one, other in zip(tests, signed_rank, bootstrap, strict=True)
    )
