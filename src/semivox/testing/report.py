"""Runs the checks one after another and says how each ended."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from semivox.errors import SemivoxError
from semivox.testing.candidate import Candidate
from semivox.testing.checks import CHECKS
from semivox.testing.processes import TwoProcesses


@dataclass(frozen=True)
class Outcome:
    """How one check ended."""

    check: str
    """The check's name, as words."""
    seconds: float
    fault: str | None
    """What is wrong, in one line; None where nothing is."""

    def __str__(self) -> str:
        return f"{'ok' if self.fault is None else 'FAILED':<6}  {self.check} ({self.seconds:.1f} s)" + (
            f": {self.fault}" if self.fault else ""
        )


def run_checks(name: str) -> Iterator[Outcome]:
    """Tries a method (a registered name or `file.py:Class`); yields after each check.

    Raises SettingError where there is no such method. Any error in a check is the method's fault.
    """
    with one_thread(), TwoProcesses() as processes:
        candidate = Candidate(name, processes=processes)
        candidate.kind  # noqa: B018 - a wrong name is told before anything is tried
        for check in CHECKS:
            started = time.monotonic()
            fault = None
            try:
                check(candidate)
            except Exception as error:
                kind = "" if isinstance(error, AssertionError | SemivoxError) else f"{type(error).__name__}: "
                fault = kind + str(error).strip().partition("\n")[0]
            yield Outcome(check.__name__.replace("_", " "), time.monotonic() - started, fault)


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks so small are slower on several threads, and much slower beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
