"""A comparison as tables of ready text: ours, per class, and the papers' figures, for the terminal and for Markdown."""

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from semivox.experiments.compare import MEAN, Comparison, Group, Pair
from semivox.reporting.tables import DASH, DICE, HD95, METRICS, Metric

if TYPE_CHECKING:
    from semivox.experiments.protocol import Figure

BY_KEY = {metric.key: metric for metric in METRICS}


@dataclass(frozen=True)
class TextTable:
    """A title, a header and rows of text, all as long as the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As a GitHub table below its title; ends in a line break."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        text = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
        return f"**{self.title}**\n\n{text}\n"


def result_tables(comparison: Comparison) -> list[TextTable]:
    """All that there is to show; tables without anything in them are left out."""
    tables = [overview(comparison), classes(comparison), published(comparison)]
    return [table for table in tables if table is not None]


def overview(comparison: Comparison) -> TextTable:
    """A row per group: mean ± deviation over seeds, and the paired difference to the first group."""
    first = comparison.groups[0].name
    pairs = {pair.second: pair for pair in comparison.pairs}
    header = ["method", "seeds", "steps", "Dice", f"HD95 ({comparison.unit})"]
    header += [f"Dice against {first} (95 % interval)", "Wilcoxon p", "empty", "minutes"]
    has_figures = any(figures(group) for group in comparison.groups)
    rows = []
    for group in comparison.groups:
        row = [group.name, ", ".join(map(str, group.seeds)), steps(group)]
        row += [over_seeds(group, metric) for metric in (DICE, HD95)]
        row += difference(pairs.get(group.name))
        row += [str(group.empty_predictions), f"{median(group.minutes):.1f}"]
        if has_figures:
            dices = [as_published(DICE, figure.dice) for figure in figures(group) if figure.dice is not None]
            row.append(" / ".join(dices) or DASH)
        rows.append(tuple(row))
    header += ["published Dice"] if has_figures else []
    title = "Mean over classes and cases, ± deviation over seeds; empty: structures of which nothing was predicted"
    return TextTable(title, tuple(header), tuple(rows))


def classes(comparison: Comparison) -> TextTable | None:
    """Dice and HD95 of every class; None where there is one."""
    names = [name for name in comparison.groups[0].scores if name != MEAN]
    if len(names) < 2:
        return None
    wanted = [(metric, name) for metric in (DICE, HD95) for name in names]
    header = ("method", *(f"{with_unit(metric, comparison.unit)}, {name}" for metric, name in wanted))
    rows = ((group.name, *(over_seeds(group, metric, name) for metric, name in wanted)) for group in comparison.groups)
    return TextTable("Per class", header, tuple(rows))


def published(comparison: Comparison) -> TextTable | None:
    """The papers' figures for the groups that have some, in their own rows; None where there are none."""
    keys = ("dice", "jaccard", "hd95", "asd")
    rows = [
        (
            group.name,
            *(as_published(BY_KEY[key], getattr(figure, key), group.published.distances) for key in keys),
            "last" if figure.selection == "last" else f"best on {figure.selection}",
            figure.mark,
            "; ".join(text for text in (figure.source, figure.note) if text),
        )
        for group in comparison.groups
        if group.published is not None
        for figure in group.published.figures
    ]
    if not rows:
        return None
    header = ("method", *(BY_KEY[key].title for key in keys), "step", "mark", "source")
    return TextTable("Published figures", header, tuple(rows))


def steps(group: Group) -> str:
    """How many steps its runs took."""
    few, many = min(group.iterations), max(group.iterations)
    return str(few) if few == many else f"{few} to {many}"


def over_seeds(group: Group, metric: Metric, name: str = MEAN) -> str:
    """Mean ± deviation over seeds."""
    spread = group.scores[name][metric.key]
    return metric.text(spread.mean) + (f" ± {metric.text(spread.over_runs)}" if len(group.runs) > 1 else "")


def difference(pair: Pair | None) -> tuple[str, str]:
    """The paired difference of Dice with its interval, and its p-value."""
    if pair is None:
        return "", ""
    paired = pair.scores[MEAN]["dice"]
    text = DICE.text(paired.difference, signed=True)
    interval = f"{DICE.text(paired.low, signed=True)} to {DICE.text(paired.high, signed=True)}"
    return f"{text} ({interval})", f"{paired.p_value:.3f}"


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
