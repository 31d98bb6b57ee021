"""Several runs in one table: mean, spread over seeds, paired tests over the cases that they share, ranks, labels.

Runs that differ in their seed only are one row. Each row is compared with the first run named, or every two.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from rich.console import Console

from semivox.cli.tables import print_table

EXAMPLE = """
  semivox compare runs/supervised8 runs/mt8
  semivox compare runs/supervised8-seed* runs/mt8-seed* --all-pairs --out comparison.html --out comparison.csv
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run that was scored")
    parser.add_argument("--all-pairs", action="store_true", help="test every two rows, not each against the first")
    parser.add_argument(
        "--out",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="write it to FILE, as its ending says: .html (with pictures), .csv (a row per class and metric), .tex"
        " (booktabs), .json (every number); may be given more than once",
    )


def run(arguments: Namespace) -> None:
    from semivox.experiments.compare import compare
    from semivox.experiments.comparison_files import check_ending, write_comparison
    from semivox.experiments.results import remarks, result_tables

    for path in arguments.out:
        check_ending(path)
    comparison = compare(arguments.runs, all_pairs=arguments.all_pairs)
    console = Console(highlight=False)
    for table in result_tables(comparison):
        print_table(console, table)
    for remark in (*remarks(comparison), *comparison.refused):
        console.print(remark, markup=False)
    for path in arguments.out:
        write_comparison(comparison, path)
        console.print(f"written: {path}", markup=False, soft_wrap=True)
