"""A comparison as one HTML file: its tables, the critical-difference picture, and Dice over labels."""

from dataclasses import dataclass

from semivox.evaluation.label_efficiency import MORE, Gain, LabelCurve
from semivox.experiments.compare import Comparison
from semivox.experiments.results import (
    by_selection,
    classes,
    differences,
    domains,
    interval,
    more_labels,
    overview,
    probability,
    published,
    ranks,
    remarks,
    tasks,
)
from semivox.reporting.curves import Chart, label_chart
from semivox.reporting.page import render
from semivox.reporting.ranks import RankPicture, rank_picture
from semivox.reporting.tables import DICE
from semivox.reporting.text_table import TextTable


@dataclass(frozen=True)
class Section:
    """A part of the page: pictures, then words, then tables."""

    title: str
    tables: tuple[TextTable, ...] = ()
    text: str = ""
    ranks: RankPicture | None = None
    chart: Chart | None = None


def comparison_page(comparison: Comparison) -> str:
    """Self-contained HTML; light or dark as the reader's system is."""
    groups = comparison.groups
    sections = [
        _section("Scores", overview(comparison), by_selection(comparison)),
        _section("Differences", differences(comparison)),
        _ranks(comparison),
        _labels(comparison),
        _section("Published figures", published(comparison)),
        _section("Classes", *classes(comparison), differences(comparison, "classes")),
        _section("Domains", *domains(comparison), differences(comparison, "domains")),
        _section("Tasks", *tasks(comparison), differences(comparison, "tasks")),
    ]
    runs = [run for group in groups for run in group.runs]
    return render(
        "comparison.html.j2",
        {
            "title": f"{groups[0].name} and {len(groups) - 1} more" if len(groups) > 1 else groups[0].name,
            "summary": f"{len(runs)} runs in {len(groups)} rows: those that differ in their seed only are one. A row is"
            " scored on the cases that all of its runs have; differences are over the cases that both rows have.",
            "sections": [section for section in sections if section is not None],
            "remarks": [*remarks(comparison), *comparison.refused],
            "runs": runs,
            "colours": {},
        },
    )


def _section(title: str, *tables: TextTable | None) -> Section | None:
    there = tuple(table for table in tables if table is not None)
    return Section(title, there) if there else None


def _ranks(comparison: Comparison) -> Section | None:
    ranking, table = comparison.ranking, ranks(comparison)
    if ranking is None or table is None:
        return None
    text = (
        f"Critical-difference picture: mean ranks in Dice over {ranking.groups} patients, the best on the left."
        f" Friedman's test: χ² {ranking.statistic:.1f}, p {probability(ranking.p_value)}. A bar joins neighbours of"
        " which no two are told apart by Wilcoxon's signed-rank test, corrected by Holm over every two of the picture;"
        " where Friedman's test finds nothing, all are joined. What is joined may differ by less than these cases show."
    )
    return Section("Ranks", (table,), text, rank_picture([group.name for group in comparison.groups], ranking))


def _labels(comparison: Comparison) -> Section | None:
    table, curves = more_labels(comparison), comparison.curves
    if table is None or not curves:
        return None
    text = " ".join(_worth(name, curve) for name, curve in curves.items())
    return Section("Labels", (table,), text, chart=label_chart(curves))


def _worth(name: str, curve: LabelCurve) -> str:
    """What more labels would bring beyond the least number that was run, and beyond the most."""
    first, last = curve.gains[0], curve.gains[-1]
    return (
        f"{name}: {MORE} more labelled scans than {first.labelled} would change the Dice by {_with_interval(first)};"
        f" {MORE} more than {last.labelled}, where the curve is only continued, by {_with_interval(last)}."
    )


def _with_interval(gain: Gain) -> str:
    sure = "" if gain.low > 0 or gain.high < 0 else ", not told from nothing"
    return DICE.text(gain.dice, signed=True) + interval(DICE, gain.low, gain.high, signed=True) + sure
