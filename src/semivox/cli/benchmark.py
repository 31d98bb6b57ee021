"""Runs a protocol's grid: every named method, and labelled-only with few and with all labels, over several seeds.

Give the same command again to go on: what is finished is kept, what was interrupted continues where it stood. Ends with
exit code 1 where a run failed; the others are run all the same.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from semivox.cli import add_settings, count
from semivox.cli.tables import print_table
from semivox.cli.train import parse_labelled
from semivox.duration import seconds
from semivox.errors import SettingError
from semivox.experiments.shipped import protocol_names

EXAMPLE = """
  semivox benchmark hippocampus_cpu --data data --method mean_teacher cps --seeds 3
  semivox benchmark acdc_cpu --method mean_teacher --development --budget 2h -s mean_teacher.consistency_weight=1
  semivox benchmark acdc_sss_cpu --data data --method unimatch_v2 sss --ablations
  semivox benchmark la --data data --method ua_mt bcp --engine slurm --engine-option partition=gpu time=8h
  semivox benchmark my_protocol.yaml --method path/to/file.py:Class --out runs/mine
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.argument_default = argparse.SUPPRESS
    add = parser.add_argument
    add("protocol", metavar="PROTOCOL", help=f"{', '.join(protocol_names())}, or a YAML file")
    add("--method", dest="methods", nargs="+", metavar="NAME", help="see `semivox methods`, or path/to/file.py:Class")
    add("--seeds", type=count, metavar="N", help="runs of each row, with seeds 0 to N-1 (default: 3)")
    add("--data", type=Path, metavar="ROOT", help="the folder that holds the data sets (default: $SEMIVOX_DATA)")
    add("--out", type=Path, metavar="DIR", help="folder of the runs (default: runs/PROTOCOL-LABELLED)")
    add("--labelled", action="append", metavar="N | DOMAIN=N", help="how few labels (default: as the protocol says)")
    add("--engine", metavar="NAME", help="what runs the cells: local, slurm or ray (default: local)")
    add(
        "--engine-option",
        dest="engine_options",
        nargs="+",
        metavar="NAME=VALUE",
        help="e.g. partition=gpu time=4h gpus=1",
    )
    add(
        "--jobs",
        type=count,
        metavar="N",
        help="runs at once; local ones share the cores (default: 2; of a cluster, all)",
    )
    add("--budget", dest="budget_s", type=duration, metavar="T", help="stop after this time, e.g. 10m or 1h30m")
    add("--device", help="auto, cpu, cuda or mps (default: auto)")
    add("--precision", help="auto, 32, bf16 or fp16 (default: as the protocol says)")
    add("--development", action="store_true", help="leave the test cases alone: score development cases instead")
    add("--ablations", action="store_true", help="also run the methods without parts of theirs, as the protocol says")
    add_settings(parser, "METHOD.name=value for one method, or any field of config.yaml for all")


def run(arguments: argparse.Namespace) -> int:
    """Runs, prints the table and what is left to do."""
    from semivox.experiments.benchmark import GO_ON, benchmark, make_grid
    from semivox.experiments.results import remarks, result_tables
    from semivox.training.stopping import Interrupted

    given = vars(arguments)
    labelled = parse_labelled(given.pop("labelled", None))
    if labelled == "all":
        raise SettingError("--labelled all: labelled-only with all labels is run anyway; give how few the others have")
    limits = {name: given.pop(name) for name in ("engine", "engine_options", "jobs", "budget_s") if name in given}
    grid = make_grid(given.pop("protocol"), given.pop("methods", ()), labelled=labelled, **given)
    try:
        outcome = benchmark(grid, **limits)
    except Interrupted as stop:
        print(f"semivox: {stop}", file=sys.stderr)
        return 130
    console = Console(highlight=False)
    if outcome.comparison is not None:
        for table in result_tables(outcome.comparison):
            print_table(console, table)
        for remark in remarks(outcome.comparison):
            console.print(remark, markup=False)
        console.print(f"{outcome.out / 'results.md'}, results.json", markup=False, soft_wrap=True)
    for cell, fault in outcome.failed.items():
        print(f"semivox: {cell.title}: {fault}", file=sys.stderr)
    if outcome.elsewhere:
        print(f"semivox: another process works on {len(outcome.elsewhere)} cells; {GO_ON}", file=sys.stderr)
    if outcome.left:
        print(f"semivox: the time is up with {len(outcome.left)} cells left; {GO_ON}", file=sys.stderr)
    return 1 if outcome.failed else 0


def duration(text: str) -> float:
    """Seconds of a time, as argparse wants it."""
    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
