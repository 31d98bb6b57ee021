"""Ways of doing the same work, each in a process of its own, that take turns: ratios hold though the machine's speed
may change. The peers' ways run in an environment of their own, made by `make peers`."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".peers"
MODULES = {
    "nnU-Net": "benchmarks.peers.nnunet",
    "MONAI": "benchmarks.peers.monai",
    "TorchIO": "benchmarks.peers.torchio",
}
"""Peer → its ways."""
NOT_RUN = "not run"
HOW = "the peers' environment is not there: `make peers` makes it, until then their rows say 'not run'"
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLOSC_NTHREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1"
)


@dataclass(frozen=True)
class Way:
    """How someone does the work: `module.function(**arguments)` gives what does it once, in its own process."""

    name: str
    module: str
    """Under `benchmarks.peers` in the peers' environment, which knows nothing of Semivox; else in this one."""
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    keep: Path | None = None
    """Where the arrays go, by name, that the first turn gives: .npz."""

    @property
    def is_peer(self) -> bool:
        return self.module.startswith("benchmarks.peers.")


@dataclass
class Taken:
    """What a way's turns took."""

    seconds: list[float] = field(default_factory=list)
    """Of processor time, without the first turn."""
    peak_gib: float = 0.0
    """Most memory of its process."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def take_turns(ways: Sequence[Way], rounds: int) -> dict[str, Taken]:
    """Way → what its turns took, on one thread; each has one before that does not count. Without the peers'
    environment their ways are left out.

    Raises RuntimeError where a way fails; what it said is on stderr.
    """
    ways = [way for way in ways if not way.is_peer or has_peers()]
    taken = {way.name: Taken() for way in ways}
    with ExitStack() as stack:
        players = {way.name: stack.enter_context(_Player(way)) for way in ways}
        for player in players.values():
            player.turn()
        for _ in range(rounds):
            for name, player in players.items():
                found = player.turn()
                taken[name].seconds.append(found["seconds"])
                taken[name].peak_gib = found["peak_gib"]
    return taken


def has_peers() -> bool:
    """Whether the peers' environment is there."""
    return (PEERS / ".installed").exists()


def peers_program(name: str) -> str:
    """A program of the peers' environment."""
    return str(PEERS / "bin" / name)


def beside(seconds: Mapping[str, float], peers: Iterable[str], unit: str = "ms") -> dict[str, float | str]:
    """Figures of a table: what Semivox and its peers take, and how many times faster it is. `seconds` are those of the
    ways that ran."""
    scale = {"ms": 1000, "s": 1}[unit]
    figures: dict[str, float | str] = {f"Semivox ({unit})": significant(scale * seconds["Semivox"])}
    for peer in peers:
        ran = peer in seconds
        figures[f"{peer} ({unit})"] = significant(scale * seconds[peer]) if ran else NOT_RUN
        figures[f"times faster than {peer}"] = significant(seconds[peer] / seconds["Semivox"]) if ran else NOT_RUN
    return figures


def significant(value: float) -> float:
    """Three digits, which is more than a shared machine can tell."""
    return float(f"{value:.3g}")


def peers_versions(*packages: str) -> dict[str, str]:
    """Package → its version in the peers' environment; where there is none, how it is made is said on stderr."""
    if not has_peers():
        print(HOW, file=sys.stderr, flush=True)
        return dict.fromkeys(packages, NOT_RUN)
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    found = subprocess.run(
        [peers_program("python"), "-c", code, *packages], stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(zip(packages, found.stdout.split(), strict=True))


class _Player:
    """The process of a way, and what is said to it: a line for a turn, a line back."""

    def __init__(self, way: Way) -> None:
        self.way = way

    def __enter__(self) -> "_Player":
        python = peers_program("python") if self.way.is_peer else sys.executable
        arguments = json.dumps(dict(self.way.arguments), default=str)
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.turn", self.way.module, self.way.function, arguments, str(self.way.keep or "")],
            cwd=ROOT,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def turn(self) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print("turn", file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"{self.way.name}: {self.way.module}.{self.way.function} ended, see above")
        return json.loads(line)
