"""Lists the methods, or explains one of them with its settings."""

import argparse

EXAMPLE = """
  semivox methods
  semivox methods mean_teacher
  semivox methods path/to/file.py:Class
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a method's name, or path/to/file.py:Class")


def run(arguments: argparse.Namespace) -> None:
    from semivox.reporting.catalogue import describe_method, list_methods

    print(describe_method(arguments.name) if arguments.name else list_methods())
