"""A progress bar with the time left; plain lines where the output is no terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY_S = 30.0
"""Seconds between lines where the output is no terminal."""


def say(text: str) -> None:
    """One line to the user, on standard error, so that standard output stays for results."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yields `report(done, total)` for a piece of work with `title`."""
    if not sys.stderr.isatty():
        started = last = time.monotonic()
        first: int | None = None

        def line(done: int, total: int) -> None:
            nonlocal first, last
            now = time.monotonic()
            first = done if first is None else first
            if now - last >= LINE_EVERY_S and first < done < total:
                last = now
                left = (now - started) / (done - first) * (total - done)
                say(f"{title}: {done}/{total}, {left:.0f} s left")

        yield line
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
