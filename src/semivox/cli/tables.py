"""Tables of ready text in the terminal."""

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from semivox.reporting.text_table import TextTable

SHORT = 14
"""Numbers of up to so many letters stay on one line."""


def in_terminal(table: "TextTable") -> Table:
    """The table as rich prints it: words to the left, numbers to the right, all text as it is."""
    shown = Table(title=Text(table.title), box=SIMPLE_HEAD, pad_edge=False)
    columns = [_column(words, cells) for words, *cells in zip(table.are_words, *table.rows, strict=True)]
    for title, is_words, cells in zip(table.header, table.are_words, columns, strict=True):
        is_short = not is_words and max(len(line) for cell in cells for line in cell.split("\n")) <= SHORT
        shown.add_column(Text(title), justify="left" if is_words else "right", overflow="fold", no_wrap=is_short)
    for row in zip(*columns, strict=True):
        shown.add_row(*map(Text, row))
    return shown


def _column(is_words: bool, cells: list[str]) -> list[str]:
    """What is in brackets behind a number, its interval, goes below it."""
    return cells if is_words else [cell.replace(" (", "\n(") for cell in cells]
