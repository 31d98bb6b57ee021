"""Typed settings: the base of plans, configs and settings of networks and methods."""

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from semivox.errors import unknown


class Part(BaseModel):
    """Base of every part of a plan or config: an unknown name is an error, values are frozen, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Once(yaml.SafeLoader):
    """Plain YAML, in which a name stands once: the last of two would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):  # others are refused as keys anyway
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise yaml.YAMLError(
                        f"'{key.value}' stands in lines {lines[key.value]} and {line}; keep one of them"
                    )
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """What a YAML text holds. Raises yaml.YAMLError where it is none, or says something twice."""
    loader = _Once(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def first_fault(error: ValidationError, kind: type[Part] | None = None) -> str:
    """The first fault of a validation as one line: field, what is wrong, what was given.

    `kind`, the part that was validated, lets an unknown field be answered with the nearest one.
    """
    fault = error.errors()[0]
    if kind is not None and fault["type"] == "extra_forbidden":
        *above, last = fault["loc"]
        place = ".".join(map(str, above))
        return f"{place}{': ' if place else ''}{unknown('field', str(last), _fields(kind, above))}"
    place = ".".join(map(str, fault["loc"]))  # none where the fault is of the whole
    message = fault["msg"].removeprefix("Value error, ")
    return f"{place}{': ' if place else ''}{message[0].lower()}{message[1:]}"


def _fields(kind: type[Part], place: Iterable[str | int]) -> Iterable[str]:
    """The fields of the part that lies at `place` within `kind`: keys and numbers of containers are passed over."""
    for name in place:
        if name in kind.model_fields:
            kind = next(_parts(kind.model_fields[str(name)].annotation), kind)
    return kind.model_fields


def _parts(annotation: Any) -> Iterator[type[Part]]:
    """The parts that a type names: `tuple[Row, ...]` → Row."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)
