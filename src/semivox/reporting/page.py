"""Pages from the templates beside this file: self-contained, every name escaped, a forgotten one an error."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, content: Mapping[str, Any]) -> str:
    """The page that `template` makes of `content`."""
    environment = Environment(
        loader=PackageLoader("semivox.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)
