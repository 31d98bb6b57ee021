"""The command line: finds the command's file, parses, calls one function.

Only the file of the command that was asked for is imported, so that `semivox --help` is immediate.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from semivox import __version__
from semivox.errors import SemivoxError, unknown

COMMANDS = {
    "demo": "phantom data → train → evaluate → report, in minutes on a laptop",
    "init": "loose files → a data set in the nnU-Net v2 raw layout",
    "inspect": "every fault in the data with its mend, and the fingerprint",
    "train": "train a model; predict, score and report its test cases",
    "predict": "segment scans with a trained model",
    "evaluate": "score predictions against labels",
    "report": "one HTML file about a run, that opens offline",
    "compare": "several runs in one table, with paired tests",
    "benchmark": "a protocol's grid of methods and seeds, resumable, with its table",
    "methods": "the methods, or one of them with its settings",
    "networks": "the networks, or one of them with its settings",
    "convert": "other formats → the layout",
    "pseudo-label": "the unlabelled scans' predictions as a training set for nnU-Net v2",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 1 where a tested method fails, 2 for a user's mistake, 130 after
    Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(f"semivox {__version__}")
        return 0
    name, *rest = arguments
    try:
        if name not in COMMANDS:
            raise unknown("command", name, COMMANDS)
        command = importlib.import_module(f"semivox.cli.{name.replace('-', '_')}")
        parser = Parser(
            prog=f"semivox {name}",
            description=command.__doc__,
            epilog=f"examples:\n{command.EXAMPLE.rstrip()}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(parser)
        return command.run(parser.parse_intermixed_args(rest)) or 0
    except SemivoxError as error:
        print(f"semivox: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("semivox: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def count(text: str) -> int:
    """An argument that must be 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


class Parser(argparse.ArgumentParser):
    """argparse with a one-line error that names the nearest option."""

    def error(self, message: str) -> None:  # type: ignore[override]
        wrong = message.removeprefix("unrecognized arguments: ")
        if wrong != message:
            known = [option for action in self._actions for option in action.option_strings]
            raise unknown("argument", wrong.split()[0], known)
        raise SemivoxError(f"{message}; see `{self.prog} --help`")


def add_settings(parser: argparse.ArgumentParser, what: str) -> None:
    """Declares `-s KEY=VALUE ...`, which may be given more than once."""
    parser.add_argument(*("-s", "--set"), dest="settings", action="extend", nargs="+", metavar="KEY=VALUE", help=what)


def overview() -> str:
    """What `semivox --help` prints."""
    lines = [
        "usage: semivox COMMAND ...",
        "",
        "Trains medical image segmentation models from a handful of labelled scans and many unlabelled ones.",
        "",
        *(f"  {name:<12} {summary}" for name, summary in COMMANDS.items()),
        "",
        "`semivox COMMAND --help` explains a command and gives an example. New here? Try `semivox demo`.",
    ]
    return "\n".join(lines)
