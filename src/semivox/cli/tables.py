"""Tables of ready text in the terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from semivox.reporting.text_table import TextTable

NAME = 20
"""Letters of the first column that stay on one line, where there is so little room."""

BETWEEN, EDGES = 3, 2
"""Blanks between columns, and at the sides."""


def print_table(console: Console, table: "TextTable") -> None:
    """The table with words to the left, numbers to the right, all text as it is.

    No number is cut or broken: columns for which there is no room follow below, the first one repeated before them.
    """
    columns = [_column(words, cells) for words, *cells in zip(table.are_words, table.header, *table.rows, strict=True)]
    room = console.width - EDGES
    for places in _chunks(columns, room):
        shown = Table(title=Text(table.title), box=SIMPLE_HEAD, pad_edge=False)
        for place, width in zip(places, _widths([columns[place] for place in places], room), strict=True):
            shown.add_column(
                Text(columns[place][0]),
                justify="left" if table.are_words[place] else "right",
                overflow="fold",
                width=width,
            )
        for row in range(1, len(columns[0])):
            shown.add_row(*(Text(columns[place][row]) for place in places))
        console.print(shown)


def _column(is_words: bool, cells: list[str]) -> list[str]:
    """What is in brackets behind a number, its interval, goes below it."""
    return cells if is_words else [cell.replace(" (", "\n(") for cell in cells]


def _least(column: list[str]) -> int:
    """The width at which no word of it is broken."""
    return max((len(word) for cell in column for word in cell.split()), default=0)


def _whole(column: list[str]) -> int:
    """The width at which no line of it is broken."""
    return max(len(line) for cell in column for line in cell.split("\n"))


def _chunks(columns: list[list[str]], room: int) -> Iterator[list[int]]:
    """Places of the columns that are shown at once: the first, and as many as there is room for, one at least."""
    first = min(NAME, _whole(columns[0]))
    chunk, used = [0], first
    for place, column in enumerate(columns[1:], start=1):
        needed = BETWEEN + _least(column)
        if len(chunk) > 1 and used + needed > room:
            yield chunk
            chunk, used = [0], first
        chunk.append(place)
        used += needed
    yield chunk


def _widths(columns: list[list[str]], room: int) -> list[int]:
    """What each needs, and of what is left as much as it has use for, those that want least first."""
    widths = [min(NAME, _whole(columns[0])), *map(_least, columns[1:])]
    left = room - sum(widths) - BETWEEN * (len(columns) - 1)
    wanted = [_whole(column) - width for column, width in zip(columns, widths, strict=True)]
    for place in sorted(range(len(columns)), key=wanted.__getitem__):
        grown = max(min(wanted[place], left), 0)
        widths[place] += grown
        left -= grown
    return widths
