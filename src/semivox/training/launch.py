"""Several processes that torchrun or SLURM started with one command, as Lightning finds them in the environment.

The first does what the command says. The others wait for it, and take part in the steps of all that it trains.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment

from semivox.errors import RunError, SettingError, first_line

PATIENCE = timedelta(days=1)
"""How long the others wait for the first, which may have many scans to read and to prepare."""


def launched() -> ClusterEnvironment | None:
    """This process's place among those that were started together; None where it is alone.

    Raises SettingError where Lightning cannot work with the tasks that SLURM was asked for.
    """
    for kind in (TorchElasticEnvironment, SLURMEnvironment):
        if kind.detect():
            try:
                place = kind()
            except RuntimeError as error:
                raise SettingError(f"the SLURM job's tasks cannot share a run: {first_line(error)}") from None
            return place if place.world_size() > 1 else None
    return None


def started() -> int:
    """How many processes were started together."""
    place = launched()
    return 1 if place is None else place.world_size()


def nodes() -> int:
    """On how many machines they were."""
    place = launched()
    if place is None:
        return 1
    if isinstance(place, SLURMEnvironment):
        return int(os.environ["SLURM_NNODES"])
    return place.world_size() // int(os.environ["LOCAL_WORLD_SIZE"])


@contextmanager
def joined(place: ClusterEnvironment) -> Iterator[None]:
    """The processes as one group in this block: for messages on the CPU, for gradients wherever they are."""
    os.environ |= {"MASTER_ADDR": place.main_address, "MASTER_PORT": str(place.main_port)}
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        rank=place.global_rank(),
        world_size=place.world_size(),
        timeout=PATIENCE,
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def tell(message: object) -> None:
    """Tells the others; for the first process."""
    torch.distributed.broadcast_object_list([message], src=0)


def hear() -> Any:
    """What the first process tells the others; for one of those."""
    heard: list[Any] = [None]
    torch.distributed.broadcast_object_list(heard, src=0)
    return heard[0]


@contextmanager
def losing_nobody(rank: int) -> Iterator[None]:
    """Where the other processes end while this one needs them, raises RunError in one line: they say why."""
    try:
        yield
    except RuntimeError as error:
        if "onnection" not in str(error):  # as gloo and NCCL say it, of the connection that was closed
            raise
        raise RunError(f"process {rank}: another process has ended, see what it says") from None
