"""Two processes that share a batch as the processes of a run do, and live as long as there are methods to try."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed
from torch import Tensor
from torch.multiprocessing import get_context

from semivox.errors import first_line
from semivox.methods.method import Terms
from semivox.testing.altered import pad
from semivox.testing.phantom import TinyPhantom, shared_phantom
from semivox.testing.workbench import Workbench

RANKS = 2
START_S = 300.0
"""Seconds that the processes have to import torch, whatever else the machine does."""
PATIENCE_S = 60.0
"""Seconds after which processes that wait for one another are given up."""


@dataclass(frozen=True)
class Share:
    """What one process computes of a step: its terms, and parameter's name → gradient."""

    terms: Terms
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Fault:
    """Why a process cannot answer."""

    text: str


def shared_step(bench: Workbench) -> Share:
    """Terms and gradients of one step; half of the batch's first samples is padding.

    So the processes have unequal numbers of voxels, and the mean of one is not the mean of the batch.
    """
    bench.decide()
    batch = bench.batch()
    if bench.rank == 0:
        for stream in (batch.labelled, batch.unlabelled):
            if stream is not None:
                first = torch.zeros_like(stream.valid)
                first[0, : first.shape[1] // 2] = True
                pad(stream, first)
    terms = {name: term.detach() for name, term in bench.losses(batch).items()}
    return Share(terms, bench.gradients(batch))


class TwoProcesses:
    """A context manager; the processes start with the first request and serve any number of them."""

    def __init__(self) -> None:
        self._connections: list[Connection] = []
        self._processes: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def step(self, bench: Mapping[str, Any]) -> list[Share]:
        """What each process computes of `shared_step`, on a bench made with the given arguments.

        Raises AssertionError where one of them fails or they wait for one another.
        """
        if not self._processes:
            self._start()
        for connection in self._connections:
            connection.send(bench)
        return self._answers(PATIENCE_S)

    def close(self) -> None:
        """Ends the processes; a further request would start others."""
        for process in self._processes:
            process.kill()
            process.join()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections = [], []

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        context = get_context("spawn")
        for rank in range(RANKS):
            mine, theirs = context.Pipe()
            arguments = (rank, address, shared_phantom().folder, theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(mine)
        self._answers(START_S)

    def _answers(self, patience_s: float) -> list[Any]:
        """One answer of each process, in order of rank; the first fault of one ends both."""
        answers: dict[Any, Any] = {}
        while len(answers) < RANKS:
            ready = wait([connection for connection in self._connections if connection not in answers], patience_s)
            if not ready:
                self.close()
                raise AssertionError(
                    "two processes wait for one another: each must come by the same sums of losses.reduction, whatever"
                    " its share of the batch holds"
                )
            for connection in ready:
                answers[connection] = answer = _received(connection)
                if isinstance(answer, Fault):
                    self.close()
                    raise AssertionError(f"one of two processes fails: {answer.text}")
        return [answers[connection] for connection in self._connections]


def _received(connection: Any) -> Any:
    try:
        return connection.recv()
    except EOFError:
        return Fault("it ends without a word")


def _serve(rank: int, address: str, phantom: Path, requests: Connection) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=RANKS)
    requests.send("ready")
    while True:
        try:
            arguments = requests.recv()
        except EOFError:
            return
        try:
            bench = Workbench(**arguments, phantom=TinyPhantom(phantom), rank=rank, devices=RANKS)
            requests.send(shared_step(bench))
        except Exception as error:
            requests.send(Fault(f"{type(error).__name__}: {first_line(error)}"))
