"""The protocols that are shipped, by name. Light to import: the command line's help lists them."""

from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[1] / "protocols"


def protocol_names() -> list[str]:
    """Names of the protocols that are shipped."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))
