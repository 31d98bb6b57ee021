"""Lists the methods, explains one of them with its settings, or tests one.

A test tries all that every method must do on a tiny phantom, in less than a minute; exit code 1 where a check fails.
"""

import argparse
from collections.abc import Sequence

from semivox.cli import add_settings
from semivox.errors import SettingError

EXAMPLE = """
  semivox methods
  semivox methods mean_teacher
  semivox methods path/to/file.py:Class
  semivox methods test path/to/file.py:Class
  semivox methods test mean_teacher --network sam2
  semivox methods test mean_teacher -s consistency_weight=1 teacher_mode=eval
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [-h] [NAME | test NAME [--network NAME] [-s KEY=VALUE ...]]"
    parser.add_argument("name", nargs="?", metavar="NAME", help="a method's name, or path/to/file.py:Class")
    parser.add_argument("tested", nargs="?", metavar="test NAME", help="try this method")
    parser.add_argument("--network", metavar="NAME", help="try it with this network, in its smallest form")
    add_settings(parser, "settings with which it is tried, where they differ from its defaults")


def run(arguments: argparse.Namespace) -> int:
    if arguments.name == "test":
        return test(arguments.tested, arguments.settings or (), arguments.network)
    if arguments.tested is not None:
        raise SettingError(f"methods {arguments.name} {arguments.tested}: give one name, or `test` and a name")
    if arguments.settings:
        raise SettingError(f"-s {arguments.settings[0]}: settings are for a test; give `test` before the method's name")
    if arguments.network:
        raise SettingError("--network is for a test; give `test` before the method's name")
    from semivox.reporting.catalogue import describe_method, list_methods

    print(describe_method(arguments.name) if arguments.name else list_methods())
    return 0


def test(name: str | None, assignments: Sequence[str], network: str | None) -> int:
    """One line a check, as it ends; 1 where one fails."""
    if name is None:
        raise SettingError(
            "which method? give a name or path/to/file.py:Class, e.g. `semivox methods test mean_teacher`"
        )
    from semivox.testing import run_checks
    from semivox.training.config import parse_assignments

    settings, others = parse_assignments(assignments)
    if others:
        raise SettingError(f"-s {next(iter(others))}: the phantom's runs are fixed; give settings of the method alone")
    failed = count = 0
    for outcome in run_checks(name, settings, network):
        print(outcome, flush=True)
        count += 1
        failed += outcome.fault is not None
    print(f"{name}: {failed} of {count} checks failed" if failed else f"{name}: all {count} checks passed")
    return 1 if failed else 0
