"""The numbers of metrics.json as tables of ready text, and the labelled-only run beside the semi-supervised one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from semivox.evaluation.statistics import compare_paired, summarise

DASH = "–"
"""Stands where a number is not defined."""

MINUS = "\N{MINUS SIGN}"

Verdict = Literal["better", "undecided", "worse"]

Scores = dict[str, float]
"""Case → score."""

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
    """One class (or `mean`, or a domain): a cell per metric."""

    name: str
    cells: tuple[Cell, ...]
    empty_predictions: int


@dataclass(frozen=True)
class Difference:
    """One score of both runs over the cases that both have, and this run's minus the labelled-only one's."""

    name: str
    unit: str
    baseline: str
    run: str
    difference: str
    interval: str
    n: int
    verdict: Verdict
    """worse: the labelled-only run is ahead, by however little. better: this run is, and the interval excludes zero."""
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
    """One test case: its mean Dice in both runs and, per class, Dice, HD95 and what was empty (or nothing)."""

    case: str
    domain: str
    mean: str
    baseline: str
    classes: tuple[tuple[str, str, str], ...]


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
    names = [name for name in summary if name != "mean"]
    if "mean" in summary and len(names) > 1:
        names.append("mean")
    rows = []
    for name in names:
        cells = tuple(_cell(summary[name].get(metric.key), metric) for metric in METRICS)
        rows.append(Row(name, cells, summary[name].get("empty_predictions", 0)))
    return rows


def domain_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """For each domain a row per class, then the mean over its classes; none where there is one domain."""
    domains = list(dict.fromkeys(case["domain"] for case in metrics["cases"]))
    if len(domains) < 2:
        return []
    rows = []
    for domain in domains:
        cases = [case for case in metrics["cases"] if case["domain"] == domain]
        names = list(dict.fromkeys(name for case in cases for name in case["scores"]))
        single = len(names) == 1
        for only in (None,) if single else (*names, None):
            title = domain if single else f"{domain}, {only or 'mean'}"
            rows.append(_domain_row(title, cases, only))
    return rows


def _domain_row(title: str, cases: Sequence[Mapping[str, Any]], only: str | None) -> Row:
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


def comparison(metrics: Mapping[str, Any], baseline: Mapping[str, Any]) -> Comparison | None:
    """The labelled-only run beside this one, over the cases scored in both; None where there is no such case."""
    mean = "mean over classes"
    names = class_names(metrics)
    wanted = [(DICE, mean), *((DICE, name) for name in names if len(names) > 1), (HD95, mean)]
    rows = []
    for metric, name in wanted:
        only = None if name is mean else name
        run, other = (mean_scores(side["cases"], metric.key, only) for side in (metrics, baseline))
        patients = _patients(metrics["cases"])
        rows.append(_difference(f"{metric.title}, {name}", metric, run, other, patients, metrics["unit"]))
    dice = [score for side in (metrics, baseline) for score in mean_scores(side["cases"], DICE.key).values()]
    return Comparison(tuple(row for row in rows if row.n), max(dice) < UNTRAINED) if rows[0].n else None


def case_rows(metrics: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> list[CaseRow]:
    """A row per scored case, from the worst mean Dice to the best."""
    means = mean_scores(metrics["cases"], DICE.key)
    others = mean_scores(baseline["cases"], DICE.key) if baseline else {}
    rows = []
    for case in sorted(metrics["cases"], key=lambda case: (means.get(case["case"], -1.0), case["case"])):
        classes = []
        for name in class_names(metrics):
            score = case["scores"].get(name, {})
            empty = EMPTY.get(score.get("empty"), "")
            classes.append((DICE.text(score.get("dice")), HD95.text(score.get("hd95")), empty))
        mean, other = (DICE.text(scores.get(case["case"])) for scores in (means, others))
        rows.append(CaseRow(case["case"], case["domain"], mean, other, tuple(classes)))
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
