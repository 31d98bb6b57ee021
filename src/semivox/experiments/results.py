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
    tables = [
        *(overview(comparison), differences(comparison), *classes(comparison), *domains(comparison)),
        *(differences_of_domains(comparison), published(comparison)),
    ]
    return [table for table in tables if table is not None]


def remarks(comparison: Comparison) -> list[str]:
    """What a reader should know of it beside the tables; rows say themselves how many labels they had."""
    told = list(comparison.notes)
    for pair in comparison.pairs:
        settings = [name for name in pair.settings if not name.startswith("data.labelled")]
        if settings:
            told.append(f"{pair.second} and {pair.first} differ in more than the method: {', '.join(settings)}")
    return told


def overview(comparison: Comparison) -> TextTable:
    """A row per group: mean ± deviation over seeds, beside what papers report."""
    header = ["method", "seeds", "steps", "minutes", "Dice", with_unit(HD95, comparison.unit), "empty"]
    rows = [
        [
            *(group.name, ", ".join(map(str, group.seeds)), steps(group), f"{median(group.minutes):.1f}"),
            *(over_seeds(group, metric) for metric in (DICE, HD95)),
            str(group.empty_predictions),
        ]
        for group in comparison.groups
    ]
    if any(figures(group) for group in comparison.groups):
        header.append("published Dice")
        for row, group in zip(rows, comparison.groups, strict=True):
            dices = [as_published(DICE, figure.dice) for figure in figures(group) if figure.dice is not None]
            row.append(" / ".join(dices) or DASH)
    title = "Mean over classes and cases ± deviation over seeds; empty: structures of which nothing was predicted"
    return TextTable(title, tuple(header), tuple(map(tuple, rows)))


def differences(comparison: Comparison) -> TextTable | None:
    """A row per group after the first, which it is compared with; None where there is no other."""
    if not comparison.pairs:
        return None
    header = ("method", *(f"{with_unit(metric, comparison.unit)}, p" for metric in (DICE, HD95)), "cases")
    rows = []
    for pair in comparison.pairs:
        cells = [difference(pair, metric) for metric in (DICE, HD95)]
        rows.append((pair.second, *cells, str(pair.scores[MEAN]["dice"].n)))
    title = f"Against {comparison.groups[0].name}, over the same cases: difference, 95 % interval, p of Wilcoxon's test"
    return TextTable(title, header, tuple(rows))


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
    names = dict.fromkeys(domain for group in comparison.groups for domain in group.domains)
    if not names:
        return []
    return [
        TextTable(
            f"{with_unit(metric, comparison.unit)} per domain",
            ("method", *names),
            tuple(
                (
                    group.name,
                    *(over_seeds(group, metric, domain=name) if name in group.domains else DASH for name in names),
                )
                for group in comparison.groups
            ),
        )
        for metric in (DICE, HD95)
    ]


def differences_of_domains(comparison: Comparison) -> TextTable | None:
    """A row per domain of every group after the first; None where there is one group or one domain."""
    rows = [
        (
            pair.second,
            domain,
            *(difference(pair, metric, domain) for metric in (DICE, HD95)),
            str(scores[MEAN]["dice"].n),
        )
        for pair in comparison.pairs
        for domain, scores in pair.domains.items()
    ]
    if not rows:
        return None
    header = ("method", "domain", *(f"{with_unit(metric, comparison.unit)}, p" for metric in (DICE, HD95)), "cases")
    return TextTable(f"Against {comparison.groups[0].name}, domain by domain", header, tuple(rows))


def published(comparison: Comparison) -> TextTable | None:
    """The papers' figures for the groups that have some, in their own rows; None where there are none."""
    keys = ("dice", "jaccard", "hd95", "asd")
    rows = [
        (
            group.name,
            *(as_published(BY_KEY[key], getattr(figure, key), group.published.distances) for key in keys),
            figure.selection if figure.selection in ("last", "unknown") else f"best on {figure.selection}",
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


def over_seeds(group: Group, metric: Metric, name: str = MEAN, domain: str | None = None) -> str:
    """Mean ± deviation over seeds, where there are several in which it is defined; of one domain's cases, or of all."""
    spread = (group.scores if domain is None else group.domains[domain])[name][metric.key]
    deviation = metric.text(spread.over_runs)
    return metric.text(spread.mean) + ("" if deviation == DASH else f" ± {deviation}")


def difference(pair: Pair, metric: Metric, domain: str | None = None) -> str:
    """The paired difference of a metric, its interval, and the p-value; of one domain's cases, or of all."""
    paired = (pair.scores if domain is None else pair.domains[domain])[MEAN][metric.key]
    numbers = (metric.text(value, signed=True) for value in (paired.difference, paired.low, paired.high))
    return "{} ({} to {}), {}".format(*numbers, f"{paired.p_value:.3f}" if paired.n else DASH)


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
