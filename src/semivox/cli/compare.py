"""Several runs in one table: mean, spread over seeds, paired tests over the cases that they share.

Runs that differ in their seed only are one row. Each row is compared with the first run named.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from semivox.cli.tables import in_terminal

if TYPE_CHECKING:
    from semivox.experiments.compare import Comparison

SHOWN = ("dice", "hd95")
"""Columns of the first table; the file of --out has every metric."""

EXAMPLE = """
  semivox compare runs/supervised8 runs/mt8
  semivox compare runs/supervised8-seed* runs/mt8-seed* --out comparison.json
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run that was scored")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every number here, as JSON")


def run(arguments: Namespace) -> None:
    from semivox.experiments.compare import compare, write_comparison
    from semivox.experiments.results import published, remarks

    comparison = compare(arguments.runs)
    console = Console(highlight=False)
    console.print(_groups(comparison))
    classes = [name for name in comparison.groups[0].scores if name != "mean"]
    if len(classes) > 1:
        console.print(_classes(comparison, classes))
    if comparison.pairs:
        console.print(_pairs(comparison, classes))
    figures = published(comparison)
    if figures is not None:
        console.print(in_terminal(figures))
    for remark in remarks(comparison):
        console.print(remark, markup=False)
    if arguments.out:
        write_comparison(comparison, arguments.out)
        console.print(f"Every number: {arguments.out}", markup=False, soft_wrap=True)


def _groups(comparison: "Comparison") -> Table:
    from semivox.experiments.results import over_seeds, steps, with_unit
    from semivox.reporting.tables import METRICS

    metrics = [metric for metric in METRICS if metric.key in SHOWN]
    table = Table(title="Mean over classes and cases: mean ± deviation over seeds, 95 % interval", box=SIMPLE_HEAD)
    for title in (
        "method",
        "seeds",
        "steps",
        *(with_unit(m, comparison.unit) for m in metrics),
        "missed",
    ):
        table.add_column(title, justify="left" if title == "method" else "right")
    for group in comparison.groups:
        cells = []
        for metric in metrics:
            spread = group.scores["mean"][metric.key]
            interval = f"{metric.text(spread.low)} to {metric.text(spread.high)}"
            cells.append(f"{over_seeds(group, metric)}\n{interval}")
        table.add_row(Text(group.name), str(len(group.runs)), steps(group), *cells, str(group.empty_predictions))
    return table


def _classes(comparison: "Comparison", classes: list[str]) -> Table:
    from semivox.experiments.results import over_seeds
    from semivox.reporting.tables import DICE

    table = Table(title="Dice per class", box=SIMPLE_HEAD)
    table.add_column("method")
    for name in classes:
        table.add_column(Text(name), justify="right")
    for group in comparison.groups:
        table.add_row(Text(group.name), *(over_seeds(group, DICE, name) for name in classes))
    return table


def _pairs(comparison: "Comparison", classes: list[str]) -> Table:
    from semivox.experiments.results import with_unit
    from semivox.reporting.tables import DICE, HD95

    first = comparison.groups[0].name
    table = Table(title=Text(f"Against {first}, over the same cases"), box=SIMPLE_HEAD)
    for title in ("method", "score", "difference", "95 % interval", "Wilcoxon p", "cases"):
        table.add_column(title, justify="left" if title in ("method", "score") else "right")
    rows = [(DICE, "mean"), *((DICE, name) for name in classes if len(classes) > 1), (HD95, "mean")]
    for pair in comparison.pairs:
        for metric, name in rows:
            paired = pair.scores[name][metric.key]
            score = f"{with_unit(metric, comparison.unit)}, {name}"
            interval = f"{metric.text(paired.low, signed=True)} to {metric.text(paired.high, signed=True)}"
            difference = metric.text(paired.difference, signed=True)
            table.add_row(Text(pair.second), Text(score), difference, interval, f"{paired.p_value:.3g}", str(paired.n))
    return table
