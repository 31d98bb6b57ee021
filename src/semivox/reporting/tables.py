"""The numbers of metrics.json as tables of ready text, and the labelled-only run beside the semi-supervised one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from semivox.data.case import DEFAULT
from semivox.evaluation.statistics import compare_paired, summarise

DASH = "–"
"""Stands where a number is not defined."""

MINUS = "\N{MINUS SIGN}"

Verdict = Literal["better", "undecided", "worse"]

Scores = dict[str, float]
"""Case → score."""

Others = Sequence[tuple[str, Mapping[str, Any]]]
"""(title, content of metrics.json) of other runs on the same cases."""

MEAN = "mean"
"""Names the row of the mean over classes, as in metrics.json."""

OVER_TASKS = "Mean over tasks"

UNTRAINED = 0.5
"""Where no case of either run reaches this mean Dice, both have hardly learnt their task."""

EMPTY = {"prediction": "nothing predicted", "reference": "nothing to find", "both": "absent in both"}
"""What `empty` of metrics.json says of a case, in words."""


@dataclass(frozen=True)
class Metric:
    """A metric's key in metrics.json and how it is shown. `sign` is 1 where more is better, -1 where less is."""

    key: str
    title: str
    sign: int
    digits: int
    is_length: bool = False
    is_percent: bool = False

    def unit(self, length_unit: str) -> str:
        """What stands behind its title: `length_unit` for distances, % for shares, nothing for Dice and its like."""
        return length_unit if self.is_length else "%" if self.is_percent else ""

    def text(self, value: float | None, signed: bool = False) -> str:
        """A value of this metric, or a dash; with its sign where it is a difference."""
        if value is None or not np.isfinite(value):
            return DASH
        scaled = round(value * (100 if self.is_percent else 1), self.digits)
        plus = "+" if scaled > 0 and (signed or self.is_percent) else ""
        # Adding zero turns -0.0 into 0.0.
        return f"{plus}{scaled + 0.0:.{self.digits}f}".replace("-", MINUS)


DICE = Metric("dice", "Dice", 1, 3)
HD95 = Metric("hd95", "HD95", -1, 2, is_length=True)
METRICS = (
    DICE,
    Metric("jaccard", "Jaccard", 1, 3),
    HD95,
    Metric("asd", "ASD", -1, 2, is_length=True),
    Metric("assd", "ASSD", -1, 2, is_length=True),
    Metric("surface_dice", "Surface Dice", 1, 3),
    Metric("volume_error", "Volume error", -1, 1, is_percent=True),
)


@dataclass(frozen=True)
class Cell:
    """One statistic as text: mean, spread (standard deviation), 95 % interval of the mean, number of cases."""

    mean: str
    spread: str
    interval: str
    n: int


@dataclass(frozen=True)
class Row:
    """One class (or `mean`, or a domain, or a task): a cell per metric."""

    name: str
    cells: tuple[Cell, ...]
    empty_predictions: int


@dataclass(frozen=True)
class Difference:
    """One score of both runs over the cases that both have, and this run's minus the other's."""

    name: str
    unit: str
    other: str
    run: str
    difference: str
    interval: str
    n: int
    verdict: Verdict
    """worse: the other run is ahead, by however little. better: this run is, and the interval excludes zero."""
    includes_zero: bool


@dataclass(frozen=True)
class Comparison:
    """All differences, that of the mean Dice first. Nothing follows from those of models that are `untrained`."""

    rows: tuple[Difference, ...]
    untrained: bool

    @property
    def verdict(self) -> Verdict:
        return "undecided" if self.untrained else self.headline.verdict

    @property
    def headline(self) -> Difference:
        return self.rows[0]


@dataclass(frozen=True)
class CaseRow:
    """One test case: its mean Dice here and in other runs; per class Dice, HD95 and what was empty (or nothing)."""

    case: str
    domain: str
    mean: str
    others: tuple[str, ...]
    classes: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class TaskResult:
    """The test cases of one task of several: a row per class and their mean, and the cases themselves."""

    task: str
    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    others: tuple[str, ...]
    """Titles of the other runs that scored some of these cases."""
    cases: tuple[CaseRow, ...]


@dataclass(frozen=True)
class KeyFigure:
    """A number that a reader wants first, what it is, and what qualifies it."""

    title: str
    value: str
    remark: str
    verdict: Verdict = "undecided"


def key_figures(metrics: Mapping[str, Any], compared: Comparison | None) -> list[KeyFigure]:
    """Mean Dice, mean HD95, the difference to the labelled-only run, the number of cases."""
    found = []
    for metric in (DICE, HD95):
        cell = _cell(metrics["summary"]["mean"][metric.key], metric)
        unit = metric.unit(metrics["unit"])
        remark = f"95 % interval {cell.interval}" if cell.interval else "no interval: too few cases"
        empty = metrics["summary"]["mean"].get("empty_predictions", 0)
        if empty and metric.is_length:
            remark += f", {empty} empty left out"
        found.append(KeyFigure(f"Mean {metric.title}", f"{cell.mean} {unit}".strip(), remark))
    if compared is not None:
        row = compared.headline
        remark = f"95 % interval {row.interval}" if row.interval else "no interval: too few cases"
        found.append(KeyFigure("Dice against labelled only", row.difference, remark, compared.verdict))
    unscored = len(metrics["unscored"])
    remark = f"{unscored} more without a reference" if unscored else "all that were predicted"
    found.append(KeyFigure("Scored cases", str(len(metrics["cases"])), remark))
    return found


def score_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """A row per class, then the mean over classes, as metrics.json summarises them."""
    summary = metrics["summary"]
    names = [name for name in summary if name != MEAN]
    if MEAN in summary and len(names) > 1:
        names.append(MEAN)
    rows = []
    for name in names:
        cells = tuple(_cell(summary[name].get(metric.key), metric) for metric in METRICS)
        rows.append(Row(name, cells, summary[name].get("empty_predictions", 0)))
    return rows


def domain_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """For each domain a row per class, then the mean over its classes; none where there is one domain."""
    rows = []
    for domain, cases in _parts(metrics, "domain").items():
        names = class_names({"cases": cases})
        single = len(names) == 1
        for only in (None,) if single else (*names, None):
            title = domain if single else f"{domain}, {only or 'mean'}"
            rows.append(_part_row(title, cases, only))
    return rows


def tasks_are_domains(metrics: Mapping[str, Any]) -> bool:
    """Whether each task is a domain, as where every data set has its own classes."""
    return all(case["domain"] == _task(case) for case in metrics["cases"])


def task_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """A row per task, the mean over its classes, and below the mean over tasks; none where there is one task.

    That mean counts every task alike, however many test cases it has. It has no interval: there are as many values as
    tasks.
    """
    rows = [_part_row(task, cases, None) for task, cases in _parts(metrics, "task").items()]
    if not rows:
        return []
    cells = []
    for metric in METRICS:
        means = [mean_scores(cases, metric.key) for cases in _parts(metrics, "task").values()]
        defined = [float(np.mean(list(own.values()))) for own in means if own]
        cells.append(Cell(metric.text(float(np.mean(defined)) if defined else None), "", "", len(defined)))
    return [*rows, Row(OVER_TASKS, tuple(cells), sum(row.empty_predictions for row in rows))]


def task_results(metrics: Mapping[str, Any], others: Others = ()) -> list[TaskResult]:
    """What each task's test cases came to, in this run and in `others`; none where there is one task."""
    results = []
    for task, cases in _parts(metrics, "task").items():
        names = class_names({"cases": cases})
        rows = [_part_row(name, cases, name) for name in names]
        if len(names) > 1:
            rows.append(_part_row(MEAN, cases, None))
        ids = {case["case"] for case in cases}
        own = [(title, other) for title, other in others if ids.intersection(case["case"] for case in other["cases"])]
        titles = tuple(title for title, _ in own)
        results.append(TaskResult(task, tuple(names), tuple(rows), titles, tuple(case_rows({"cases": cases}, own))))
    return results


def _parts(metrics: Mapping[str, Any], by: Literal["domain", "task"]) -> dict[str, list[Mapping[str, Any]]]:
    """Domain, or task → its cases; none where all are of one."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for case in metrics["cases"]:
        found.setdefault(_task(case) if by == "task" else case["domain"], []).append(case)
    return found if len(found) > 1 else {}


def _task(case: Mapping[str, Any]) -> str:
    """The case's task; scores of before there were tasks know none."""
    return case.get("task", DEFAULT)


def _part_row(title: str, cases: Sequence[Mapping[str, Any]], only: str | None) -> Row:
    """One class of some cases, or the mean over their classes."""
    means = [mean_scores(cases, metric.key, only) for metric in METRICS]
    columns = np.array([[mean.get(case["case"], np.nan) for mean in means] for case in cases])
    summaries = summarise(columns, list(_patients(cases).values()))
    cells = tuple(_cell(asdict(one), metric) for one, metric in zip(summaries, METRICS, strict=True))
    scores = [score for case in cases for name, score in case["scores"].items() if only in (None, name)]
    return Row(title, cells, sum(score["empty"] == "prediction" for score in scores))


def class_names(metrics: Mapping[str, Any]) -> list[str]:
    """Names that were scored, in order."""
    return list(dict.fromkeys(name for case in metrics["cases"] for name in case["scores"]))


def mean_scores(cases: Sequence[Mapping[str, Any]], key: str, only: str | None = None) -> Scores:
    """Case → mean of a metric over the classes (or `only` one) where it is defined; cases without any are left out."""
    means = {}
    for case in cases:
        scores = [score.get(key) for name, score in case["scores"].items() if only in (None, name)]
        defined = [score for score in scores if score is not None]
        if defined:
            means[case["case"]] = float(np.mean(defined))
    return means


def comparison(metrics: Mapping[str, Any], other: Mapping[str, Any]) -> Comparison | None:
    """Another run beside this one, over the cases and classes scored in both; None where there is no such case."""
    metrics, other = _in_common(metrics, other), _in_common(other, metrics)
    mean = "mean over classes"
    names = class_names(metrics)
    wanted = [(DICE, mean), *((DICE, name) for name in names if len(names) > 1), (HD95, mean)]
    rows = []
    for metric, name in wanted:
        only = None if name is mean else name
        here, there = (mean_scores(side["cases"], metric.key, only) for side in (metrics, other))
        patients = _patients(metrics["cases"])
        rows.append(_difference(f"{metric.title}, {name}", metric, here, there, patients, metrics["unit"]))
    dice = [score for side in (metrics, other) for score in mean_scores(side["cases"], DICE.key).values()]
    return Comparison(tuple(row for row in rows if row.n), max(dice) < UNTRAINED) if rows[0].n else None


def _in_common(metrics: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`metrics` with the cases that `other` has too, and of each the classes that it has there."""
    theirs = {case["case"]: case["scores"] for case in other["cases"]}
    cases = [
        {**case, "scores": {name: score for name, score in case["scores"].items() if name in theirs[case["case"]]}}
        for case in metrics["cases"]
        if case["case"] in theirs
    ]
    return {**metrics, "cases": cases}


def case_rows(metrics: Mapping[str, Any], others: Others = ()) -> list[CaseRow]:
    """A row per scored case, from the worst mean Dice to the best."""
    means = mean_scores(metrics["cases"], DICE.key)
    means_of_others = [mean_scores(other["cases"], DICE.key) for _, other in others]
    rows = []
    for case in sorted(metrics["cases"], key=lambda case: (means.get(case["case"], -1.0), case["case"])):
        classes = []
        for name in class_names(metrics):
            score = case["scores"].get(name, {})
            empty = EMPTY.get(score.get("empty"), "")
            classes.append((DICE.text(score.get("dice")), HD95.text(score.get("hd95")), empty))
        mean, *other = (DICE.text(scores.get(case["case"])) for scores in (means, *means_of_others))
        rows.append(CaseRow(case["case"], case["domain"], mean, tuple(other), tuple(classes)))
    return rows


def _patients(cases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Case → patient: scans of one patient are not independent, and intervals must know."""
    return {case["case"]: case.get("group") or case["case"] for case in cases}


def _difference(
    title: str, metric: Metric, run: Scores, other: Scores, patients: Mapping[str, str], length_unit: str
) -> Difference:
    common = [case for case in run if case in other]
    here, there = np.array([run[case] for case in common]), np.array([other[case] for case in common])
    paired = compare_paired(here, there, [patients[case] for case in common])
    verdict: Verdict = "undecided"
    if paired.difference * metric.sign < 0:
        verdict = "worse"
    elif min(paired.low * metric.sign, paired.high * metric.sign) > 0:
        verdict = "better"
    return Difference(
        title,
        metric.unit(length_unit),
        metric.text(there.mean() if common else None),
        metric.text(here.mean() if common else None),
        metric.text(paired.difference, signed=True),
        _interval(paired.low, paired.high, metric, signed=True),
        paired.n,
        verdict,
        # Also where there is no interval: a single case decides nothing.
        includes_zero=not (paired.low > 0 or paired.high < 0),
    )


def _cell(statistics: Mapping[str, Any] | None, metric: Metric) -> Cell:
    if not statistics:
        return Cell(DASH, "", "", 0)
    spread = metric.text(statistics["deviation"]).removeprefix("+")
    interval = _interval(statistics["low"], statistics["high"], metric)
    return Cell(metric.text(statistics["mean"]), "" if spread == DASH else spread, interval, statistics["n"])


def _interval(low: float | None, high: float | None, metric: Metric, signed: bool = False) -> str:
    texts = metric.text(low, signed), metric.text(high, signed)
    return "" if DASH in texts else f"{texts[0]} to {texts[1]}"
