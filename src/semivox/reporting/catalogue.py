"""Methods and networks as text, made from their docstrings and settings, so that it cannot grow stale."""

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from semivox.methods import ADDITION_ALIASES, ADDITIONS, ALIASES, find_method, method_names, registered_name
from semivox.methods.method import Method
from semivox.networks import MONAI, NETWORKS, find_network
from semivox.reporting.settings import Field, fields


def list_methods() -> str:
    """One line a method: name, the settings it covers, what its step costs, paper."""
    rows = [("method", "settings", "cost", "paper")]
    for name in method_names():
        Kind = find_method(name)
        cost = Kind.demand(Kind.Settings()).relative_cost
        rows.append((name, ", ".join(Kind.covers), f"{cost:.1f}", Kind.paper))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    ]
    footer = (
        "cost: arithmetic of a step, labelled-only training is 1 (both streams of one size). `semivox methods NAME`"
        " explains one.\nsettings: those that a method is made for; it runs in the others too, and `train` says so."
        "\nSSL: semi-supervised learning; UDA: a domain without labels is adapted to; SemiDG: tested on a domain never"
        " seen;\npartial labels: each data set labels its own organs. The cases say which it is: `semivox inspect`.\n"
        f"NAME+ADDITION puts an addition on a method with a teacher: {', '.join(map(_addition, ADDITIONS))}."
    )
    return "\n".join([*lines, "", footer])


def _addition(name: str) -> str:
    short = [alias for alias, target in ADDITION_ALIASES.items() if target == name]
    return f"{name} (also: {', '.join(short)})"


def describe_method(name: str) -> str:
    """Docstring, views, cost and settings of a method."""
    Kind = find_method(name)
    aliases = aliases_of(name)
    return "\n".join(
        [
            f"{registered_name(name)}" + (f" (also: {', '.join(aliases)})" if aliases else ""),
            "",
            inspect.cleandoc(Kind.__doc__ or ""),
            "",
            *needs(Kind),
            "",
            "settings (-s NAME=VALUE):",
            *_settings(fields(Kind.Settings)),
        ]
    )


def aliases_of(name: str) -> list[str]:
    """The other names of a listed method."""
    return [alias for alias, target in ALIASES.items() if target == registered_name(name)]


def needs(Kind: type[Method]) -> list[str]:
    """What a method asks for: one line each for settings, views, networks, passes and cost."""
    demand = Kind.demand(Kind.Settings())
    views, others = demand.views, demand.companions
    targets = "; signed distance maps of the labels" if views.signed_distance else ""
    requires = f"; the network must give {', '.join(sorted(Kind.requires))}" if Kind.requires else ""
    return [
        f"covers: {', '.join(Kind.covers)}",
        f"views: labelled {', '.join(views.labelled)}; unlabelled {', '.join(views.unlabelled) or 'none'}{targets}",
        f"networks: {demand.networks + len(others):g} trained,"
        f" {demand.averages + sum(other.averages for other in others):g} averaged or frozen{requires}",
        f"passes a step: {demand.labelled_forwards:g} of each labelled sample, {demand.unlabelled_forwards:g} of each"
        f" unlabelled one, {demand.teacher_forwards:g} without gradient",
        *(
            f"passes of {other.name}, beside the plan's network: {other.labelled_forwards:g} of each labelled sample,"
            f" {other.unlabelled_forwards:g} of each unlabelled one"
            for other in others
        ),
        f"cost: {demand.relative_cost:.1f} times the arithmetic of a labelled-only step",
    ]


def method_page(name: str, measured: Mapping[str, Any]) -> str:
    """A method's page of the docs, in Markdown, from its docstring, settings and file.

    measured: figure → value of the benchmark `methods`; those whose name begins with the method's are shown.
    """
    Kind = find_method(name)
    first, _, rest = inspect.cleandoc(Kind.__doc__ or "").partition("\n")
    lines = [f"# {name}", "", first, rest, "", f"*{Kind.paper}*", ""]
    lines += [f"    semivox train DATASET --method {name}", ""]
    if aliases_of(name):
        lines += [f"Also: {', '.join(f'`{alias}`' for alias in aliases_of(name))}.", ""]
    lines += ["## What it needs", "", *(f"- {line}" for line in needs(Kind)), ""]
    if measured:
        lines += ["Measured (`make bench`), labelled-only training is 1:", ""]
        lines += ["| network | step time | peak memory |", "|---|---|---|"]
        lines += [
            f"| {network} | {found['time_ratio']:.2f} | {found['memory_ratio']:.2f} |"
            for network, found in measured.items()
        ]
        lines += [""]
    lines += ["## Settings", "", "| setting | default | |", "|---|---|---|"]
    lines += [f"| `{field.name}` | `{field.default}` | {field.doc} |" for field in fields(Kind.Settings)]
    source = inspect.getsource(sys.modules[Kind.__module__])
    return "\n".join([*lines, "", "## The whole file", "", "```python", source.rstrip(), "```", ""])


def list_networks() -> str:
    """One line a network: name and the first sentence of its docstring."""
    width = max(len(name) for name in NETWORKS)
    lines = []
    for name in NETWORKS:
        first = inspect.cleandoc(find_network(name).__doc__ or "").split("\n")[0]
        lines.append(f"{name:<{width}}  {first}")
    return "\n".join([*lines, "", "monai:NAME takes any network of MONAI. `semivox networks NAME` explains one."])


def describe_network(name: str) -> str:
    """Docstring and settings of a network."""
    Kind = find_network(name)
    settings = _monai_settings(name) if name.startswith(MONAI) else _settings(fields(Kind.Settings))
    heading = "settings (-s plan.network.settings.NAME=VALUE):"
    return "\n".join([name, "", inspect.cleandoc(Kind.__doc__ or ""), "", heading, *settings])


def _monai_settings(name: str) -> list[str]:
    from semivox.networks.monai_network import find_class, free_parameters

    settings = free_parameters(find_class(name.removeprefix(MONAI)))
    return [f"  {key}" if value is inspect.Parameter.empty else f"  {key} = {value}" for key, value in settings.items()]


def _settings(described: list[Field]) -> list[str]:
    if not described:
        return ["  none"]
    return [f"  {field.name} = {field.default}  ({field.type})\n      {field.doc}".rstrip() for field in described]
