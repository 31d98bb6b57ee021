"""Several runs side by side: mean and spread over seeds and cases, paired tests over the cases they share, ranks, and
Dice over the number of labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from semivox.errors import SettingError
from semivox.evaluation.label_efficiency import LEAST_NUMBERS, LEAST_PATIENTS, LabelCurve, label_curve
from semivox.evaluation.ranking import LEAST_GROUPS, LEAST_METHODS, Ranking, rank_methods
from semivox.evaluation.scores import METRICS
from semivox.evaluation.statistics import Paired, bootstrap_interval, compare_paired, mean_of_defined
from semivox.experiments.run_groups import LABELLED, SELECTION, RunGroup, group_runs, titles

if TYPE_CHECKING:
    from semivox.experiments.protocol import Protocol, Published

MEAN = "mean"
"""Stands for the mean over classes, as in metrics.json."""

Selection = Literal["last", "validation", "test"]


@dataclass(frozen=True)
class Spread:
    """A score of a group. Deviations are of n - 1, NaN of a single value."""

    mean: float
    """Over the runs of each run's mean over cases."""
    over_runs: float
    """Standard deviation of the runs' means."""
    over_cases: float
    """Standard deviation of the cases' means over runs."""
    low: float
    high: float
    """95 % bootstrap interval of the mean; draws patients."""
    n: int
    """Cases in which it is defined in at least one run."""


Scores = dict[str, dict[str, Spread]]
"""Class or "mean" → metric → its spread."""

Differences = dict[str, dict[str, Paired]]
"""Class or "mean" → metric → difference."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only."""

    name: str
    configuration: str
    """Its name but for how the step was chosen: the same in groups that differ in nothing else."""
    method: str
    labelled: int | dict[str, int] | None
    """How many groups kept their label, None for all."""
    selection: Selection
    """On what the step was chosen whose weights are scored; test: on the scored cases themselves."""
    runs: tuple[Path, ...]
    seeds: tuple[int, ...]
    iterations: tuple[int, ...]
    minutes: tuple[float, ...]
    """Of training."""
    commits: tuple[str | None, ...]
    """Of Semivox, where the runs came from a checkout of it."""
    scores: Scores
    domains: dict[str, Scores]
    """Domain → the scores of its cases; empty where all cases are of one, or each domain is a task."""
    tasks: dict[str, Scores]
    """Task → the scores of its cases; empty where all cases are of one."""
    empty_predictions: int
    """Structures of which nothing was predicted, over all runs."""
    protocol: str | None
    """The one that the runs came from."""
    published: "Published | None"
    """What papers report for this method and number of labels, where the protocol has it."""


@dataclass(frozen=True)
class Pair:
    """The group `second` against `first`: differences are second minus first, over the cases that both have."""

    first: str
    second: str
    scores: Differences
    domains: dict[str, Differences]
    """Domain → the differences in its cases; empty where all cases are of one, or each domain is a task."""
    tasks: dict[str, Differences]
    """Task → the differences in its cases; empty where all cases are of one."""
    settings: tuple[str, ...]
    """Dotted names of the settings, other than the method's own, that differ."""


@dataclass(frozen=True)
class Comparison:
    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]
    """Every later group against the first, or against all before it."""
    unit: str
    """Of distances, "mm" or "voxel"."""
    notes: tuple[str, ...] = ()
    """What a reader should know of how it was made."""
    ranking: Ranking | None = None
    """Of the groups, by mean Dice over classes; None for fewer than three, or too few patients."""
    curves: dict[str, LabelCurve] | None = None
    """Method → mean Dice over its number of labelled scans, where it was run with three numbers or more."""
    refused: tuple[str, ...] = ()
    """Why there is no ranking or curve where one may be looked for."""


def compare(runs: Sequence[Path], *, all_pairs: bool = False) -> Comparison:
    """Reads config.yaml and metrics.json of each run folder, groups runs that differ in their seed only, in the order
    in which they are named, and compares each group with the first, or with `all_pairs` every two.

    Classes are those that all runs scored. A paired score is, per case, the mean over seeds, and over the classes that
    are defined on both sides. p-values are as of a single test: `families` corrects those of a table.

    Raises RunError: not a run, not scored yet, given twice, other units or no class in common.
    """
    groups, classes, unit = group_runs([Path(run) for run in runs])
    protocols, notes = _protocols(groups)
    configurations = titles([dict(group.without(SELECTION)) for group in groups])
    pairs = combinations(groups, 2) if all_pairs else ((groups[0], other) for other in groups[1:])
    refused: list[str] = []
    ranking = _ranking(groups, refused)
    curves = _curves(groups, refused)
    return Comparison(
        tuple(
            _summarise(group, configuration, classes, protocols)
            for group, configuration in zip(groups, configurations, strict=True)
        ),
        tuple(_pair(first, second, classes) for first, second in pairs),
        unit,
        tuple(notes),
        ranking,
        curves,
        tuple(refused),
    )


def _protocols(groups: list[RunGroup]) -> tuple["dict[str, Protocol]", list[str]]:
    """The protocols that the runs came from, by their names in the configs; and which of them are gone."""
    found: dict[str, Protocol] = {}
    notes: list[str] = []
    for name in dict.fromkeys(record.config.get("protocol") for group in groups for record in group.records):
        if name is not None:
            from semivox.experiments.protocol import read_protocol  # with torch and all methods

            try:
                found[name] = read_protocol(name)
            except SettingError as error:
                notes.append(f"no published figures: {error}")
    return found, notes


def _spreads(group: RunGroup, classes: list[str]) -> Scores:
    scores = {}
    for name, values in _by_class(group.values, classes).items():  # (run, case, metric)
        run_means, case_means = mean_of_defined(values, axis=1), mean_of_defined(values, axis=0)
        low, high = bootstrap_interval(case_means, group.patients)
        scores[name] = {
            metric: Spread(
                mean=float(mean_of_defined(run_means[:, column], axis=0)),
                over_runs=_deviation(run_means[:, column]),
                over_cases=_deviation(case_means[:, column]),
                low=float(low[column]),
                high=float(high[column]),
                n=int((~np.isnan(case_means[:, column])).sum()),
            )
            for column, metric in enumerate(METRICS)
        }
    return scores


def _summarise(group: RunGroup, configuration: str, classes: list[str], protocols: "dict[str, Protocol]") -> Group:
    records = group.records
    empty = [
        score["empty"] == "prediction"
        for record in records
        for entry in (record.metrics or {})["cases"]
        for name, score in entry["scores"].items()
        if name in classes and entry["case"] in group.cases
    ]
    trainings = [record.config.get("training", {}) for record in records]
    protocol = group.protocol
    return Group(
        name=group.title,
        configuration=configuration,
        method=group.method,
        labelled=group.labelled,
        selection=trainings[0].get("selection", "last"),
        runs=tuple(record.folder for record in records),
        seeds=tuple(record.config.get("seed", 0) for record in records),
        iterations=tuple(training.get("iterations", 0) for training in trainings),
        minutes=tuple(record.log.minutes for record in records),
        commits=tuple(record.environment.get("versions", {}).get("commit") for record in records),
        scores=_spreads(group, classes),
        domains={name: _spreads(part, classes) for name, part in group.domains.items()},
        tasks={name: _spreads(part, classes) for name, part in group.tasks.items()},
        empty_predictions=sum(empty),
        protocol=protocol,
        published=protocols[protocol].figures(group.method, group.labelled) if protocol in protocols else None,
    )


def _pair(first: RunGroup, second: RunGroup, classes: list[str]) -> Pair:
    return Pair(
        first=first.title,
        second=second.title,
        scores=_paired(first, second, classes),
        domains=_paired_parts(first.domains, second.domains, classes),
        tasks=_paired_parts(first.tasks, second.tasks, classes),
        settings=_differing(first.settings, second.settings),
    )


def _paired_parts(
    first: dict[str, RunGroup], second: dict[str, RunGroup], classes: list[str]
) -> dict[str, Differences]:
    return {name: _paired(part, second[name], classes) for name, part in first.items() if name in second}


def _paired(first: RunGroup, second: RunGroup, classes: list[str]) -> Differences:
    sides = _side_by_side([first, second])  # (group, case, class, metric)
    a, b = (_by_class(side[None], classes) for side in sides)
    patients = first.of(_shared([first, second])).patients
    return {
        name: {
            metric: compare_paired(b[name][0, :, column], a[name][0, :, column], patients)
            for column, metric in enumerate(METRICS)
        }
        for name in a
    }


def _shared(groups: Sequence[RunGroup]) -> list[str]:
    """The cases that all groups have."""
    return [case for case in groups[0].cases if all(case in group.cases for group in groups[1:])]


def _side_by_side(groups: Sequence[RunGroup]) -> np.ndarray:
    """Means over runs (group, case, class, metric) over the shared cases, NaN in all where one group has none."""
    cases = _shared(groups)
    values = np.stack([mean_of_defined(group.of(cases).values, axis=0) for group in groups])
    return np.where(np.isnan(values).any(axis=0), np.nan, values)


def _by_class(values: np.ndarray, classes: list[str]) -> dict[str, np.ndarray]:
    """(run, case, class, metric) → class → (run, case, metric), and the mean over classes."""
    return {name: values[:, :, index] for index, name in enumerate(classes)} | {MEAN: mean_of_defined(values, axis=2)}


def _ranking(groups: list[RunGroup], refused: list[str]) -> Ranking | None:
    """Ranks by mean Dice over classes; says in `refused` where there are groups enough but not patients."""
    if len(groups) < LEAST_METHODS:
        return None
    dice = mean_of_defined(_side_by_side(groups)[..., METRICS.index("dice")], axis=2)  # (group, case)
    ranking = rank_methods(dice.T, groups[0].of(_shared(groups)).patients)
    if ranking is None:
        refused.append(f"no ranking: all runs share fewer than {LEAST_GROUPS} patients, too few for any rank test")
    return ranking


def _curves(groups: list[RunGroup], refused: list[str]) -> dict[str, LabelCurve]:
    """The curve of each method whose groups differ in labels alone; says in `refused` where there are too few."""
    methods: dict[tuple[tuple[str, str], ...], list[RunGroup]] = {}
    for group in groups:
        methods.setdefault(group.without(LABELLED), []).append(group)
    curves = {}
    names = titles([dict(settings) for settings in methods])
    for name, own in zip(names, methods.values(), strict=True):
        known = [group for group in own if all("labelled_cases" in record.facts for record in group.records)]
        labelled = [record.facts["labelled_cases"] for group in known for record in group.records]
        if len(set(labelled)) < LEAST_NUMBERS:
            gone = "" if len(known) == len(own) else " (where a model folder is gone, its number is not known)"
            if len(own) > 1:
                refused.append(
                    f"no curve over labels for {name}: {len(set(labelled))} numbers of labelled scans{gone}, and"
                    f" through fewer than {LEAST_NUMBERS} any curve goes"
                )
            continue
        cases = _shared(known)
        parts = [group.of(cases) for group in known]
        dice = np.concatenate([mean_of_defined(part.values[..., METRICS.index("dice")], axis=2) for part in parts])
        if len(set(parts[0].patients)) < LEAST_PATIENTS or np.isnan(dice).all(axis=1).any():
            refused.append(
                f"no curve over labels for {name}: its runs share fewer than {LEAST_PATIENTS} scored patients"
            )
            continue
        curves[name] = label_curve(labelled, dice, parts[0].patients)
    return curves


def _deviation(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if known.size > 1 else float("nan")


def _differing(first: dict[str, str], second: dict[str, str]) -> tuple[str, ...]:
    keys = dict.fromkeys([*first, *second])
    return tuple(key for key in keys if not key.startswith("method.") and first.get(key) != second.get(key))
