"""A comparison as tables of ready text: ours, class by class, the tests, the ranks, and the papers' figures."""

from math import isnan
from statistics import median
from typing import TYPE_CHECKING

from semivox.evaluation.label_efficiency import MORE
from semivox.evaluation.ranking import LEAST_GROUPS
from semivox.evaluation.statistics import Paired
from semivox.experiments.compare import MEAN, Comparison, Group, Scores
from semivox.experiments.families import Family, families
from semivox.reporting.tables import DASH, DICE, HD95, METRICS, Metric
from semivox.reporting.text_table import TextTable

if TYPE_CHECKING:
    from semivox.experiments.protocol import Figure

BY_KEY = {metric.key: metric for metric in METRICS}

SELECTIONS = {"last": "last", "validation": "best on validation", "test": "best on test (as published)"}
"""How a step was chosen, in words."""


def result_tables(comparison: Comparison) -> list[TextTable]:
    """All that there is to show; tables without anything in them are left out."""
    tables = [
        *(overview(comparison), by_selection(comparison), differences(comparison), ranks(comparison)),
        *(*classes(comparison), differences(comparison, "classes")),
        *(*domains(comparison), differences(comparison, "domains")),
        *(*tasks(comparison), differences(comparison, "tasks")),
        *(more_labels(comparison), published(comparison)),
    ]
    return [table for table in tables if table is not None]


def remarks(comparison: Comparison) -> list[str]:
    """What a reader should know of it beside the tables; rows say themselves how many labels they had."""
    told = list(comparison.notes)
    chosen = [group.name for group in comparison.groups if group.selection == "test"]
    if chosen:
        told.append(f"the step was chosen on the scored cases themselves, which flatters: {'; '.join(chosen)}")
    for pair in comparison.pairs:
        if not pair.scores[MEAN]["dice"].n:
            told.append(f"{pair.second} and {pair.first} have no scored case in common, and are not compared")
        settings = [name for name in pair.settings if not name.startswith("data.labelled")]
        if settings:
            told.append(f"{pair.second} and {pair.first} differ in more than the method: {', '.join(settings)}")
    patients = [pair.scores[MEAN]["dice"].groups for pair in comparison.pairs]
    few = [number for number in patients if 1 < number < LEAST_GROUPS]
    if few:
        told.append(
            f"{min(few)} patients are compared, fewer than {LEAST_GROUPS}: intervals are too narrow, the bootstrap's p"
            " is too small, and Wilcoxon's cannot come below 0.05 whatever the scores"
        )
    single = [name for name, curve in (comparison.curves or {}).items() if any(len(runs) < 2 for runs in curve.dice)]
    if single:
        told.append(
            f"labels that were run with one seed: no spread over seeds is in the interval of {', '.join(single)}"
        )
    return told


def overview(comparison: Comparison) -> TextTable:
    """A row per group: mean ± deviation over seeds, beside what papers report."""
    scored = [with_unit(metric, comparison.unit) for metric in (DICE, HD95)]
    header = ["method", "selection", "seeds", "steps", "minutes", *scored, "empty"]
    rows = [
        [
            *(group.name, SELECTIONS[group.selection], ", ".join(map(str, group.seeds)), steps(group)),
            f"{median(group.minutes):.1f}",
            *(f"{over_seeds(group, metric)}{over_cases(group, metric)}" for metric in (DICE, HD95)),
            str(group.empty_predictions),
        ]
        for group in comparison.groups
    ]
    if any(figures(group) for group in comparison.groups):
        header.append("published Dice")
        for row, group in zip(rows, comparison.groups, strict=True):
            dices = [as_published(DICE, figure.dice) for figure in figures(group) if figure.dice is not None]
            row.append(" / ".join(dices) or DASH)
    if any(any(group.commits) for group in comparison.groups):
        header.append("commit")
        for row, group in zip(rows, comparison.groups, strict=True):
            row.append(", ".join(dict.fromkeys(commit or DASH for commit in group.commits)))
    title = (
        "Mean over classes and cases ± deviation over seeds (95 % interval over patients); selection: which step's"
        " model is scored; empty: structures of which nothing was predicted"
    )
    return TextTable(title, tuple(header), tuple(map(tuple, rows)), words=("selection", "commit"))


def by_selection(comparison: Comparison) -> TextTable | None:
    """Dice in a column for each way to choose the step; None where every group has the last one."""
    if all(group.selection == "last" for group in comparison.groups):
        return None
    rows: dict[str, dict[str, list[str]]] = {}
    for group in comparison.groups:
        cells = rows.setdefault(group.configuration, {selection: [] for selection in SELECTIONS})
        cells[group.selection].append(over_seeds(group, DICE))
    return TextTable(
        "Dice by how the step was chosen",
        ("method", *SELECTIONS.values()),
        tuple((name, *(" / ".join(cell) or DASH for cell in cells.values())) for name, cells in rows.items()),
    )


def differences(comparison: Comparison, over: str = "cases") -> TextTable | None:
    """The paired tests over all cases, or over "classes", "domains" or "tasks"; None where nothing could be tested."""
    family = next((family for family in families(comparison) if family.over == over), None)
    if family is None or not family.number:
        return None
    parts = {"cases": (), "classes": ("class",), "domains": ("domain",), "tasks": ("task",)}[over]
    rivals = {test.first for test in family.tests}
    against = ("against",) if len(rivals) > 1 else ()
    header = ("method", *against, *parts, "score", "difference", "Wilcoxon p", "bootstrap p", "cases")
    rows = []
    for test in family.tests:
        metric, paired = BY_KEY[test.metric], test.paired
        rows.append(
            (
                *(test.second, *((test.first,) if against else ())),
                *((test.part or test.name,) if parts else ()),
                with_unit(metric, comparison.unit),
                metric.text(paired.difference, signed=True) + interval(metric, paired.low, paired.high, signed=True),
                *(probability(test.p_value), probability(test.bootstrap_p_value), number_of_cases(paired)),
            )
        )
    return TextTable(_title_of_tests(family, rivals), header, tuple(rows), words=("against", *parts, "score"))


def _title_of_tests(family: Family, rivals: set[str]) -> str:
    whom = f"Against {next(iter(rivals))}" if len(rivals) == 1 else "Every two methods"
    where = {"cases": "over the same cases", "classes": "class by class", "domains": "domain by domain"}
    number = f"the {family.number} tests" if family.number > 1 else "one test"
    told = f"95 % interval; p corrected for {number} of this table (Holm)"
    return f"{whom}, {where.get(family.over, 'task by task')}; {told}"


def ranks(comparison: Comparison) -> TextTable | None:
    """Mean ranks, best first, with a letter for each clique; None where there is no ranking."""
    ranking = comparison.ranking
    if ranking is None:
        return None
    order = sorted(range(len(comparison.groups)), key=lambda place: ranking.mean_ranks[place])
    rows = [
        (
            comparison.groups[place].name,
            f"{ranking.mean_ranks[place]:.2f}",
            "".join(letter(number) for number, clique in enumerate(ranking.cliques) if place in clique) or DASH,
        )
        for place in order
    ]
    title = (
        f"Mean rank in Dice over {ranking.groups} patients, 1 is best; Friedman's p {probability(ranking.p_value)};"
        " those that share a letter are not told apart (Wilcoxon's test of every two, corrected by Holm)"
    )
    return TextTable(title, ("method", "mean rank", "alike"), tuple(rows), words=("alike",))


def letter(number: int) -> str:
    """The name of a clique: a to z, then a1, b1 and so on."""
    round_, place = divmod(number, 26)
    return f"{chr(ord('a') + place)}{round_ or ''}"


def classes(comparison: Comparison) -> list[TextTable]:
    """Dice and HD95 of every class; nothing where there is one."""
    names = [name for name in comparison.groups[0].scores if name != MEAN]
    if len(names) < 2:
        return []
    return [
        TextTable(
            f"{with_unit(metric, comparison.unit)} per class",
            ("method", *names),
            tuple((group.name, *(over_seeds(group, metric, name) for name in names)) for group in comparison.groups),
        )
        for metric in (DICE, HD95)
    ]


def domains(comparison: Comparison) -> list[TextTable]:
    """Dice and HD95 of every domain, the mean over its classes; nothing where all cases are of one."""
    return _parts(comparison, [group.domains for group in comparison.groups], "domain")


def tasks(comparison: Comparison) -> list[TextTable]:
    """Dice and HD95 of every task, the mean over its classes; nothing where all cases are of one."""
    return _parts(comparison, [group.tasks for group in comparison.groups], "task")


def _parts(comparison: Comparison, parts: list[dict[str, Scores]], kind: str) -> list[TextTable]:
    names = dict.fromkeys(name for own in parts for name in own)
    if not names:
        return []
    return [
        TextTable(
            f"{with_unit(metric, comparison.unit)} per {kind}",
            ("method", *names),
            tuple(
                (group.name, *(_mean_and_deviation(own[name], metric) if name in own else DASH for name in names))
                for group, own in zip(comparison.groups, parts, strict=True)
            ),
        )
        for metric in (DICE, HD95)
    ]


def more_labels(comparison: Comparison) -> TextTable | None:
    """What ten more labelled scans would be worth at each number that was run; None without a fitted curve."""
    rows = [
        (
            name,
            str(gain.labelled),
            " / ".join(f"{dice:.3f}" for dice in runs),
            DICE.text(gain.dice, signed=True) + interval(DICE, gain.low, gain.high, signed=True),
            "measured range" if gain.is_measured else "continued curve",
            f"{curve.floor:.3f}, {curve.factor:.3f}, {curve.exponent:.2f}",
        )
        for name, curve in (comparison.curves or {}).items()
        for gain, runs in zip(curve.gains, curve.dice, strict=True)
    ]
    if not rows:
        return None
    header = ("method", "labelled scans", "Dice of runs", f"{MORE} more", "within", "c, a, b")
    title = (
        f"What {MORE} more labelled scans would be worth in Dice, by the fitted curve 1 − Dice = c + a · n^−b;"
        " intervals draw patients and runs"
    )
    return TextTable(title, header, tuple(rows), words=("within",))


def published(comparison: Comparison) -> TextTable | None:
    """The papers' figures for the groups that have some, in their own rows; None where there are none."""
    keys = ("dice", "jaccard", "hd95", "asd")
    rows = [
        (
            group.name,
            *(as_published(BY_KEY[key], getattr(figure, key), group.published.distances) for key in keys),
            SELECTIONS.get(figure.selection)
            or (figure.selection if figure.selection == "unknown" else f"best on {figure.selection}"),
            figure.mark,
            "; ".join(text for text in (figure.source, figure.note) if text),
        )
        for group in comparison.groups
        if group.published is not None
        for figure in group.published.figures
    ]
    if not rows:
        return None
    header = ("method", *(BY_KEY[key].title for key in keys), "selection", "mark", "source")
    return TextTable("Published figures", header, tuple(rows), words=("selection", "mark", "source"))


def steps(group: Group) -> str:
    """How many steps its runs took."""
    few, many = min(group.iterations), max(group.iterations)
    return str(few) if few == many else f"{few} to {many}"


def over_seeds(group: Group, metric: Metric, name: str = MEAN) -> str:
    """Mean ± deviation over seeds, where there are several in which it is defined."""
    return _mean_and_deviation(group.scores, metric, name)


def over_cases(group: Group, metric: Metric) -> str:
    """The interval of the mean over classes and cases."""
    spread = group.scores[MEAN][metric.key]
    return interval(metric, spread.low, spread.high)


def _mean_and_deviation(scores: Scores, metric: Metric, name: str = MEAN) -> str:
    spread = scores[name][metric.key]
    deviation = metric.text(spread.over_runs)
    return metric.text(spread.mean) + ("" if deviation == DASH else f" ± {deviation}")


def interval(metric: Metric, low: float, high: float, signed: bool = False) -> str:
    """Both ends, as they stand behind a mean; nothing where there is no interval."""
    return "" if isnan(low) else f" ({metric.text(low, signed)} to {metric.text(high, signed)})"


def probability(p_value: float) -> str:
    """A p-value; a dash where nothing was tested."""
    if isnan(p_value):
        return DASH
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def number_of_cases(paired: Paired) -> str:
    """The cases, and the patients where they are fewer."""
    return str(paired.n) if paired.n == paired.groups else f"{paired.n} of {paired.groups} patients"


def with_unit(metric: Metric, length_unit: str) -> str:
    """A metric's title with its unit, where it has one."""
    unit = metric.unit(length_unit)
    return f"{metric.title} ({unit})" if unit else metric.title


def figures(group: Group) -> "tuple[Figure, ...]":
    """What papers report for a group."""
    return group.published.figures if group.published is not None else ()


def as_published(metric: Metric, value: float | None, unit: str = "") -> str:
    """A published number, shares in % and distances in `unit`, as ours are written."""
    if value is None:
        return DASH
    return f"{metric.text(value)} {unit}" if metric.is_length else metric.text(value / 100)
