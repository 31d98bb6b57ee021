"""What can be told of a class with typed settings: for `semivox methods`, `semivox networks` and the docs."""

import ast
import inspect
import textwrap
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class Field:
    """One setting: its name, type, default, and the one-line doc below it in the source."""

    name: str
    type: str
    default: Any
    doc: str


def fields(Settings: type[BaseModel], values: BaseModel | None = None) -> list[Field]:
    """The settings of a model, those of its bases first, with the string literal that follows each as its doc.

    A field that is itself a model gives its own fields, under dotted names. values: whose values are the defaults; the
    model's own where there are none.
    """
    docs: dict[str, str] = {}
    for Kind in reversed(Settings.__mro__):
        if issubclass(Kind, BaseModel) and Kind is not BaseModel:
            docs |= attribute_docs(Kind)
    found = []
    for name, info in Settings.model_fields.items():
        default = info.get_default(call_default_factory=True) if values is None else getattr(values, name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            given = default if isinstance(default, BaseModel) else None
            found += [replace(inner, name=f"{name}.{inner.name}") for inner in fields(info.annotation, given)]
        else:
            found.append(Field(name, _type_name(info.annotation), default, docs.get(name, "")))
    return found


def attribute_docs(Kind: type) -> dict[str, str]:
    """Attribute → the string literal right below it in the class's source; empty where there is no source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(Kind)))
    except (OSError, TypeError):
        return {}
    (body,) = [node.body for node in tree.body if isinstance(node, ast.ClassDef)]
    docs = {}
    for before, after in pairwise(body):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(after, ast.Expr):
            literal = after.value
            if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
                docs[before.target.id] = " ".join(literal.value.split())
    return docs


def _type_name(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return text.replace("typing.", "").replace("Literal", "one of ")
