"""A run of a benchmark as an engine sees it: a command in a process of its own, that holds a lock while it works.

The lock is taken where the process runs. So nobody begins a run that somebody works on, be it in this benchmark, in
another one or in a job of the cluster that outlived the benchmark which asked for it; all machines share the folder.
"""

import fcntl
import os
import shlex
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from semivox.errors import ResourceError
from semivox.training.run import RunFolder
from semivox.training.stopping import STOP_S, sigterm_as_interrupt

BUSY = 75
"""Exit code of a task that another process works on (EX_TEMPFAIL of sysexits.h)."""
INTERRUPTED = 130
"""Exit code of a run that was asked to stop and has saved."""
POLL_S = 0.5
"""Seconds between two looks at a process."""


def is_finished(run: RunFolder) -> bool:
    """Whether a run is scored and reported: nothing of it is left to do.

    Asks for the folder's list: a network file system may still remember of a single file that it was missing.
    """
    try:
        return {run.metrics.name, run.report.name} <= set(os.listdir(run.path))
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class Task:
    """What is to be run, wherever; all paths are absolute."""

    name: str
    python: str
    folder: Path
    """In which the command is given."""
    run: RunFolder
    lock: Path
    log: Path
    """What the command says, appended."""
    first: tuple[str, ...]
    """What `semivox` is given for a run that has not begun."""
    again: tuple[str, ...]
    """What it is given to go on."""

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.again if self.run.config.exists() else self.first

    def say(self, text: str) -> None:
        """Writes a line into the log."""
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"{text}\n")


class Job(Protocol):
    """A task that an engine has accepted."""

    def poll(self) -> int | None:
        """None while it waits or runs, then the exit code: `BUSY` where somebody else works on it."""

    def cancel(self) -> None:
        """Takes it out of the queue, or asks it to save and stop."""

    def kill(self) -> None:
        """Ends it as it is, after a `cancel` that it did not follow."""


class Engine(Protocol):
    """What runs tasks."""

    @property
    def at_once(self) -> int | None:
        """Tasks that it is given at a time; None: all, it has a queue of its own."""

    @property
    def poll_s(self) -> float:
        """Seconds between two looks at its jobs."""

    def submit(self, task: Task) -> Job:
        """Takes a task over. Raises SemivoxError where it takes none."""


@dataclass(frozen=True)
class Ended:
    """A job that was over before it began."""

    code: int

    def poll(self) -> int:
        return self.code

    def cancel(self) -> None:
        """There is nothing to cancel."""

    def kill(self) -> None:
        """There is nothing to kill."""


@dataclass(frozen=True, eq=False)
class Process:
    """A job on this machine."""

    process: subprocess.Popen
    lock: IO[str]

    def poll(self) -> int | None:
        code = self.process.poll()
        if code is not None:
            self.lock.close()
        return code

    def cancel(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.lock.close()


def begin(task: Task, threads: int) -> Process | Ended:
    """Starts a task on this machine, unless somebody works on it or has finished it."""
    try:
        for path in (task.lock, task.log):
            path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(task.lock, "w")  # noqa: SIM115 - held as long as the process runs
    except OSError as error:
        out = task.lock.parents[1]
        raise ResourceError(f"--out {out}: cannot be written ({error.strerror}); give another folder") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return Ended(0 if is_finished(task.run) else BUSY)
    if is_finished(task.run):
        lock.close()
        return Ended(0)
    task.say(f"$ {shlex.join(['semivox', *task.arguments])}")
    with open(task.log, "a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [task.python, "-m", "semivox", *task.arguments],
            cwd=task.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": str(threads), **os.environ},
            # Ctrl-C is for this process to pass on, once: a second one would end a run before it has saved.
            start_new_session=True,
            # The run holds the lock too: should this process be killed, nobody else takes the cell while it goes on.
            pass_fds=[lock.fileno()],
        )
    return Process(process, lock)


def watch(job: Job) -> int:
    """Waits for a task's process on a machine of a cluster; returns its exit code, see `Job.poll`.

    Whatever interrupts this (SIGTERM, what a cluster raises when the job is cancelled or its time is up) lets the run
    save first.
    """
    with sigterm_as_interrupt():
        try:
            while (code := job.poll()) is None:
                time.sleep(POLL_S)
            return code
        except KeyboardInterrupt:
            return stopped(job)
        except BaseException:
            stopped(job)
            raise


def stopped(job: Job) -> int:
    """Asks a job to save and stop, and ends it where it does not; its exit code."""
    job.cancel()
    deadline = time.monotonic() + STOP_S
    while (code := job.poll()) is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if code is None:
        job.kill()
    code = job.poll()
    assert code is not None
    return code
