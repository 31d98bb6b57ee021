"""Lists the networks, or explains one of them with its settings."""

import argparse

EXAMPLE = """
  semivox networks
  semivox networks vnet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a network's name")


def run(arguments: argparse.Namespace) -> None:
    from semivox.reporting.catalogue import describe_network, list_networks

    print(describe_network(arguments.name) if arguments.name else list_networks())
