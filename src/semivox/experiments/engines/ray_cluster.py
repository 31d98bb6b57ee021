"""Runs as tasks of a Ray cluster, or of one machine that Ray shares out."""

import os
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from semivox.errors import ResourceError, first_line, missing_extra
from semivox.experiments.engines.task import INTERRUPTED, POLL_S, Task, begin, watch
from semivox.parallel import cores
from semivox.settings import Part


class RayOptions(Part):
    """What a task asks for."""

    address: str | None = None
    """Of the cluster, e.g. auto or HOST:6379 (default: $RAY_ADDRESS, else this machine alone)."""
    gpus: float = Field(0, ge=0)
    cpus: int = Field(1, ge=1)
    memory_gb: float | None = Field(None, gt=0)


class Ray:
    """A Ray cluster, all of whose machines see the same folders."""

    poll_s = POLL_S

    def __init__(self, options: RayOptions, at_once: int | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise missing_extra("ray", "ray") from None
        self.at_once = at_once
        if not ray.is_initialized():
            try:
                ray.init(address=options.address, include_dashboard=None, logging_level="ERROR", log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = options.address or os.environ.get("RAY_ADDRESS", "this machine")
                raise ResourceError(
                    f"--engine ray: no cluster answers at {where} ({first_line(error)}); start one there, or give"
                    " --engine-option address=HOST:PORT"
                ) from None
        self.remote = ray.remote(
            num_cpus=options.cpus,
            num_gpus=options.gpus,
            memory=None if options.memory_gb is None else int(options.memory_gb * 2**30),
            max_retries=0,
        )(on_worker)

    def submit(self, task: Task) -> "RayJob":
        return RayJob(task, self.remote.options(name=task.name).remote(task))


def on_worker(task: Task) -> int:
    """What a task of Ray does; returns the exit code."""
    return watch(begin(task, cores()))


@dataclass
class RayJob:
    """A task of the cluster."""

    task: Task
    reference: Any

    def poll(self) -> int | None:
        import ray

        if not ray.wait([self.reference], timeout=0)[0]:
            return None
        try:
            return ray.get(self.reference)
        except ray.exceptions.TaskCancelledError:
            return INTERRUPTED
        except ray.exceptions.RayError as error:
            self.task.say(f"Ray ended the task ({first_line(error)}); give the same command again to go on")
            return 1

    def cancel(self) -> None:
        import ray

        ray.cancel(self.reference)

    def kill(self) -> None:
        import ray

        ray.cancel(self.reference, force=True)
