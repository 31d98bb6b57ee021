"""How a run is asked to stop, and what it answers. Light: whoever only waits for a run imports no torch."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP = signal.SIGUSR1
"""Asks a process to save and stop. Lightning answers SIGTERM by a message to all ranks, whatever they are just doing,
until our handler is there; this one simply ends a process that has not begun to train."""
STOP_S = 300.0
"""Seconds that rank 0 has to end its step and save."""


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """Training was stopped by a signal; all is saved."""


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt in this block, as Ctrl-C does."""
    if not _hears_signals():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """SIGINT and SIGTERM wait for the end of this block. Processes that begin in it are not kept from hearing them."""
    if not _hears_signals():
        yield
        return
    heard: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in heard:
            signal.raise_signal(late)


def _hears_signals() -> bool:
    """Signals belong to the main thread."""
    return threading.current_thread() is threading.main_thread()
