"""Tables of ready text in the terminal."""

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from semivox.experiments.results import TextTable


def in_terminal(table: "TextTable") -> Table:
    """The table as rich prints it: the first column to the left, all text as it is."""
    shown = Table(title=Text(table.title), box=SIMPLE_HEAD)
    for number, title in enumerate(table.header):
        shown.add_column(Text(title), justify="right" if number else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown
