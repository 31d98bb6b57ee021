"""Score predictions against reference labels: Dice, Jaccard, HD95, ASD, surface Dice and volume error, per class.

Scores every prediction whose label is there and says which were left out. Classes are matched by name.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from semivox.cli import count

NARROW = ("dice", "hd95", "asd")
"""Columns of the table where the terminal has no room for all."""

WIDE = 140
"""Characters that all columns need."""

SHOWN = 5
"""Names told of those that were left out."""

ORACLE = "Oracle prompts: boxes drawn from the labels prompted the model. An upper bound, no result of its own."

EXAMPLE = """
  semivox evaluate predictions data/la/labelsTs --out metrics.json
  semivox evaluate predictions data/la/labelsTs --unit voxel --tolerance 1
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder of predicted label files")
    parser.add_argument(
        "labels", type=Path, metavar="LABELS", help="folder of reference label files, or of a data set that has them"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every score here, as JSON")
    parser.add_argument("--unit", choices=("mm", "voxel"), default="mm", help="unit of distances (default: mm)")
    parser.add_argument(
        "--tolerance", type=float, default=2.0, metavar="T", help="of the surface Dice, in that unit (default: 2)"
    )
    parser.add_argument("--workers", type=count, metavar="N", help="cases scored at once (default: one per core)")


def run(arguments: Namespace) -> None:
    """Scores, writes the file if asked for, and prints a table."""
    from semivox.evaluation.evaluate import evaluate
    from semivox.progress import progress

    with progress("scoring") as report:
        metrics = evaluate(
            arguments.predictions,
            arguments.labels,
            arguments.out,
            unit=arguments.unit,
            tolerance=arguments.tolerance,
            workers=arguments.workers,
            progress=report,
        )
    console = Console(highlight=False)
    console.print(_table(metrics, every_column=console.width >= WIDE))
    for line in _notes(metrics):
        console.print(line, markup=False)
    if arguments.out:
        console.print(f"Every score: {arguments.out}", markup=False, soft_wrap=True)


def _table(metrics: dict, every_column: bool) -> Table:
    from semivox.reporting.tables import METRICS, domain_rows, score_rows

    shown = [index for index, metric in enumerate(METRICS) if every_column or metric.key in NARROW]
    table = Table(title=f"{len(metrics['cases'])} cases: mean ± deviation, 95 % interval of the mean", box=SIMPLE_HEAD)
    table.add_column("class")
    for metric in (METRICS[index] for index in shown):
        unit = metric.unit(metrics["unit"])
        table.add_column(f"{metric.title} ({unit})" if unit else metric.title, justify="right")
    table.add_column("missed", justify="right")
    for row in [*score_rows(metrics), *domain_rows(metrics)]:
        cells = []
        for cell in (row.cells[index] for index in shown):
            spread = f" ± {cell.spread}" if cell.spread else ""
            n = f"\nn = {cell.n}" if cell.n < len(metrics["cases"]) else ""
            cells.append(f"{cell.mean}{spread}\n{cell.interval}{n}".rstrip())
        table.add_row(Text(row.name), *cells, str(row.empty_predictions))
    return table


def _notes(metrics: dict) -> list[str]:
    notes = [ORACLE] if metrics["model"].get("prompts") == "oracle" else []
    left_out = {
        "unscored": "Predictions without a label, not scored",
        "unpredicted": "Labels without a prediction, not scored",
        "unscored_classes": "Classes that the model does not know, not scored",
    }
    for key, what in left_out.items():
        names = metrics[key]
        if names:
            more = ", ..." if len(names) > SHOWN else ""
            notes.append(f"{what} ({len(names)}): {', '.join(names[:SHOWN])}{more}")
    return notes
