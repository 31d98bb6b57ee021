"""Runs the checks one after another and says how each ended."""

import inspect
import io
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from semivox.errors import SemivoxError, SettingError, first_line
from semivox.networks import find_network
from semivox.testing.candidate import Candidate
from semivox.testing.checks import CHECKS
from semivox.testing.processes import TwoProcesses
from semivox.training.config import MethodChoice, method_settings


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


def run_checks(name: str, settings: Mapping[str, Any] | None = None, network: str | None = None) -> Iterator[Outcome]:
    """Tries a method (a registered name or `file.py:Class`); yields after each check.

    settings: where they differ from the defaults. network: with which it is tried, see `Candidate`. Raises SettingError
    where there is no such method, setting or network. Any error in a check is the method's fault.
    """
    if not __debug__:
        raise SettingError("methods test: Python runs with -O, which leaves checks out; run it without")
    with one_thread(), TwoProcesses() as processes:
        choice = MethodChoice(name=name, settings=dict(settings or {}))
        method_settings(choice)  # a wrong name is told before anything is tried
        if network is not None:
            find_network(network)
        candidate = Candidate(name, choice.settings, processes, network=network)
        for check in CHECKS:
            started = time.monotonic()
            fault = None
            try:
                with redirect_stderr(io.StringIO()):  # what a run tells its user is no news here
                    check(candidate)
            except (AssertionError, SemivoxError) as error:
                fault = str(error).partition("\n")[0]
            except Exception as error:
                fault = f"{type(error).__name__}: {first_line(error)}{place_of(error, candidate)}"
            yield Outcome(check.__name__.replace("_", " "), time.monotonic() - started, fault)


def place_of(error: Exception, candidate: Candidate) -> str:
    """Where in the method's own file an error arose, if it did: " (file.py, line 12)"."""
    file = inspect.getfile(candidate.kind)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({Path(file).name}, line {lines[-1]})" if lines else ""


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks so small are slower on several threads, and much slower beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
