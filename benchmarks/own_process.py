"""A measurement in a process of its own, which may fail, die or take too long without taking the others along."""

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from semivox.errors import first_line


def in_own_process(measure: Callable[[], dict[str, Any]], limit_s: float) -> dict[str, Any] | str | None:
    """What `measure` returns; in words what it failed by; None where it took longer than `limit_s` and was ended."""
    context = get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(measure, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        return mine.recv() if mine.poll(limit_s) else None
    except EOFError:
        process.join()
        return f"its process died (exit code {process.exitcode})"
    finally:
        process.kill()
        process.join()
        mine.close()


def _answer(measure: Callable[[], dict[str, Any]], end: Connection) -> None:
    try:
        end.send(measure())
    except Exception as error:  # told in the results, so that one method does not keep the others from theirs
        end.send(f"{type(error).__name__}: {first_line(error)}")
