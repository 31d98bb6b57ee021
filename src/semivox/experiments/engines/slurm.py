"""Runs as jobs of a SLURM cluster, through submitit.

A job whose time is up, or that is cancelled, saves and ends; one that is preempted is queued again and goes on.
"""

import logging
import math
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from semivox.duration import seconds
from semivox.errors import ResourceError, SettingError, first_line, missing_extra
from semivox.experiments.engines.task import INTERRUPTED, Task, begin, watch
from semivox.parallel import cores
from semivox.settings import Part


class SlurmOptions(Part):
    """What a job asks for."""

    time: Annotated[int, BeforeValidator(seconds)]
    """Longest time of a cell, e.g. 4h; then it saves and ends, and the next call goes on with it."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int = Field(1, ge=0)
    cpus: int = Field(4, ge=1)
    memory_gb: float | None = Field(None, gt=0)


class Slurm:
    """A SLURM cluster, asked from one of its machines."""

    poll_s = 5.0

    def __init__(self, options: SlurmOptions, at_once: int | None, folder: Path) -> None:
        """folder: for submitit's files, seen by all machines. Raises where submitit or SLURM is missing."""
        try:
            import submitit
        except ImportError:
            raise missing_extra("submitit", "slurm") from None
        logging.getLogger("submitit").setLevel(logging.ERROR)
        self.at_once = at_once
        try:
            self.executor = submitit.SlurmExecutor(folder)
        except RuntimeError:
            raise SettingError("--engine slurm: `srun` is not found; call this on a machine of the cluster") from None
        asked = {
            "time": math.ceil(options.time / 60),
            "partition": options.partition,
            "account": options.account,
            "qos": options.qos,
            "constraint": options.constraint,
            "gpus_per_node": options.gpus or None,
            "cpus_per_task": options.cpus,
            "mem": None if options.memory_gb is None else f"{math.ceil(options.memory_gb * 1024)}MB",
            "stderr_to_stdout": True,
        }
        self.executor.update_parameters(**{name: value for name, value in asked.items() if value is not None})

    def submit(self, task: Task) -> "SlurmJob":
        from submitit.core.utils import FailedJobError

        self.executor.update_parameters(job_name=task.name)
        try:
            return SlurmJob(task, self.executor.submit(on_node, task))
        except (FailedJobError, OSError) as error:
            raise ResourceError(
                f"--engine slurm: sbatch refuses ({first_line(error)}); mend its --engine-option"
            ) from None


def on_node(task: Task) -> int:
    """What a job does; returns the task's exit code."""
    from submitit.core.utils import UncompletedJobError

    # The run is a process of SLURM's task and not one itself, or Lightning would count tasks.
    os.environ.pop("SLURM_NTASKS", None)
    # SLURM tells all processes of a job that its time is nearly up. It is submitit's to hear, not the run's.
    heard = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    job = begin(task, cores())
    signal.signal(signal.SIGUSR2, heard)
    try:
        return watch(job)
    except UncompletedJobError:
        task.say("the job's time is up, the run has saved; give the same command again to go on")
        return INTERRUPTED


@dataclass
class SlurmJob:
    """A job of the cluster."""

    task: Task
    job: Any
    cancelled: bool = False

    def poll(self) -> int | None:
        from submitit.core.utils import FailedJobError

        if not self.job.done(force_check=self.cancelled):
            return None
        fault = self.job.exception()
        if fault is None:
            return self.job.result()
        if isinstance(fault, FailedJobError):  # what the job itself raised, as a traceback
            lines = [line for line in str(fault).splitlines() if line.strip("- ")]
            self.task.say(f"SLURM job {self.job.job_id} failed: {lines[-1]}")
        elif not self.cancelled:
            said = self.job.paths.stdout
            self.task.say(f"SLURM job {self.job.job_id} ended without an answer ({self.job.state}; it said {said})")
        return 1

    def cancel(self) -> None:
        self.cancelled = True
        self.job.cancel(check=False)

    def kill(self) -> None:
        """SLURM kills by itself what it has cancelled."""
