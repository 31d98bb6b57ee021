"""Methods and networks as text, made from their docstrings and settings, so that it cannot grow stale."""

import inspect

from semivox.methods import ALIASES, find_method, method_names
from semivox.networks import MONAI, NETWORKS, find_network
from semivox.reporting.settings import Field, fields


def list_methods() -> str:
    """One line a method: name, what its step costs, paper."""
    rows = []
    for name in method_names():
        Kind = find_method(name)
        demand = Kind.demand(Kind.Settings())
        forwards = demand.labelled_forwards + demand.unlabelled_forwards
        cost = f"{demand.networks} trained, {forwards}+{demand.teacher_forwards} passes"
        rows.append((name, cost, Kind.paper))
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{name:<{width}}  {cost:<22}  {paper}" for name, cost, paper in rows]
    header = f"{'method':<{width}}  {'a step costs':<22}  paper"
    footer = "Passes of the network a step: with + without gradient. `semivox methods NAME` explains one."
    return "\n".join([header, *lines, "", footer])


def describe_method(name: str) -> str:
    """Docstring, views, cost and settings of a method."""
    Kind = find_method(name)
    demand = Kind.demand(Kind.Settings())
    views = demand.views
    aliases = [alias for alias, target in ALIASES.items() if target == name]
    return "\n".join(
        [
            f"{name}" + (f" (also: {', '.join(aliases)})" if aliases else ""),
            "",
            inspect.cleandoc(Kind.__doc__ or ""),
            "",
            f"views: labelled {', '.join(views.labelled)}; unlabelled {', '.join(views.unlabelled) or 'none'}",
            f"networks: {demand.networks} trained, {demand.averages} averaged",
            f"passes a step: {demand.labelled_forwards} of each labelled sample, {demand.unlabelled_forwards} of each"
            f" unlabelled one, {demand.teacher_forwards} without gradient",
            "",
            "settings (-s NAME=VALUE):",
            *_settings(fields(Kind.Settings)),
        ]
    )


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
