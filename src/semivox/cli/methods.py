"""Lists the methods, explains one of them with its settings, or tests one.

A test tries all that every method must do on a tiny phantom, in less than a minute; exit code 1 where a check fails.
"""

import argparse

from semivox.errors import SettingError

EXAMPLE = """
  semivox methods
  semivox methods mean_teacher
  semivox methods path/to/file.py:Class
  semivox methods test path/to/file.py:Class
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a method's name, or path/to/file.py:Class")
    parser.add_argument("tested", nargs="?", metavar="NAME", help="after `test`: the method to try")


def run(arguments: argparse.Namespace) -> int:
    if arguments.name == "test":
        return test(arguments.tested)
    if arguments.tested is not None:
        raise SettingError(f"methods {arguments.name} {arguments.tested}: give one name, or `test` and a name")
    from semivox.reporting.catalogue import describe_method, list_methods

    print(describe_method(arguments.name) if arguments.name else list_methods())
    return 0


def test(name: str | None) -> int:
    """One line a check, as it ends; 1 where one fails."""
    if name is None:
        raise SettingError(
            "which method? give a name or path/to/file.py:Class, e.g. `semivox methods test mean_teacher`"
        )
    from semivox.testing import run_checks

    failed = count = 0
    for outcome in run_checks(name):
        print(outcome, flush=True)
        count += 1
        failed += outcome.fault is not None
    print(f"{name}: {failed} of {count} checks failed" if failed else f"{name}: all {count} checks passed")
    return 1 if failed else 0
