"""Phantom data → labelled-only and mean-teacher training → evaluation → one HTML report, in minutes on a laptop."""

import argparse
from pathlib import Path

from semivox.cli import count

EXAMPLE = """
  semivox demo
  semivox demo --out /tmp/demo --iterations 50
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="folder (default: demo)")
    parser.add_argument("--iterations", type=count, metavar="N", help="steps of each training")


def run(arguments: argparse.Namespace) -> None:
    from semivox.experiments.demo import ITERATIONS, demo

    run = demo(arguments.out, arguments.iterations or ITERATIONS)
    print(f"open {run / 'report.html'}")
