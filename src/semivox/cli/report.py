"""Writes one HTML file about a run: result, labelled-only comparison, pictures, curves, plan. It opens offline."""

import argparse
from pathlib import Path

EXAMPLE = """
  semivox report runs/mt8
  semivox predict runs/mt8 data/la/imagesTr --out runs/mt8/predictions_unlabelled
  semivox report runs/mt8 --pseudo-label-dice
  semivox report runs/joint --beside runs/la_alone runs/acdc_alone
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder that `semivox train` wrote")
    parser.add_argument(
        "--pseudo-label-dice",
        action="store_true",
        help="score RUN/predictions_unlabelled against labels hidden from training, which are opened for this only",
    )

    parser.add_argument(
        "--beside",
        nargs="+",
        default=[],
        type=Path,
        metavar="OTHER",
        help="set these runs beside it, scan by scan, such as a model for each of its tasks",
    )


def run(arguments: argparse.Namespace) -> int:
    from semivox.reporting.report import write_report

    print(write_report(arguments.run, arguments.pseudo_label_dice, arguments.beside))
    return 0
