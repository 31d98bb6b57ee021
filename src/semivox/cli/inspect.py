"""Reads every file of a data set and tells all that is wrong with it, each fault with its file and its mend.

Then shows what the scans look like and which setting the cases make. Ends with exit code 2 where a fault would stop
training.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from semivox.cli import count

EXAMPLE = """
  semivox inspect data/la
  semivox inspect data/acdc data/mscmr --workers 4
  semivox inspect data/la --unlabelled more_scans
  semivox inspect data/vendors --labelled 3 --unseen D
  semivox inspect data/mnms --protocol mnms_to_a
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "datasets", nargs="+", type=Path, metavar="DATASET", help="folder in the nnU-Net v2 raw layout; several join"
    )
    parser.add_argument("--unlabelled", type=Path, metavar="DIR", help="a folder of further scans without labels")
    parser.add_argument("--labelled", action="append", metavar="N | DOMAIN=N", help="show the setting as `train` would")
    parser.add_argument("--unseen", nargs="+", default=(), metavar="DOMAIN", help="so too")
    parser.add_argument("--protocol", metavar="NAME | FILE", help="show the setting that this benchmark's lists make")
    parser.add_argument("--workers", type=count, default=1, metavar="N", help="cases read at once (default: 1)")


def run(arguments: Namespace) -> int:
    """Inspects and prints; returns 2 where there is an error."""
    from rich.console import Console

    from semivox.cli.train import parse_labelled
    from semivox.experiments.protocol import read_protocol, settled
    from semivox.progress import progress
    from semivox.reporting.inspection import inspect, inspection_table

    labelled = parse_labelled(arguments.labelled)
    protocol = None if arguments.protocol is None else read_protocol(arguments.protocol)
    labelled, lists = settled(protocol, arguments.datasets, labelled)
    with progress("reading scans") as report:
        found = inspect(
            arguments.datasets,
            arguments.unlabelled,
            arguments.workers,
            report,
            labelled=labelled,
            unseen=arguments.unseen,
            lists=lists,
        )
    Console(highlight=False).print(inspection_table(found.faults, found.fingerprint, found.dataset))
    return 2 if found.errors else 0
