"""What a user waits for before anything happens: commands, imports and a first training step.

Seconds of the clock until a command ends, or until the first optimiser step of a training is made; the median of
commands that took turns, each a process of its own. Files are in the system's cache, so this is not a first start after
switching the machine on. The trainings start from prepared scans, six of 48x48x32 voxels: `semivox train` and nnU-Net's
trainer with the plans that each made itself and as many loading processes as it likes, MONAI with its PersistentDataset
and a UNet of four levels.

    python -m benchmarks startup
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.turns import MODULES, ROOT, beside, has_peers, peers_program, peers_versions
from semivox.data.phantom import write_phantom

SIZE, PATCH = (48, 48, 32), (32, 32, 32)
DATASET_ID = 1
POLL_S = 0.005
FIRST_STEP = "first step"
"""What a peer's training prints once it has made one."""

Clock = Callable[[], float | None]
"""Seconds of one wait; None where the peers' environment is missing."""


def measure(rounds: int = 5) -> dict[str, Any]:
    """Median seconds and ratios of each wait."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for wait, clocks in {**commands(), "first training step": trainings(Path(name))}.items():
            seconds = in_turns(clocks, rounds)
            figures[wait] = beside(seconds, [who for who in clocks if who != "Semivox"], "s")
    return figures | {"versions": peers_versions("nnunetv2", "monai", "torchio", "torch")}


def commands() -> dict[str, dict[str, Clock]]:
    """Wait → who has it → what takes its time."""
    program, python = semivox_program(), peers_program("python")
    return {
        "--help": {
            "Semivox": ended(program, "--help"),
            "nnU-Net": ended(peers_program("nnUNetv2_train"), "--help"),
        },
        "list of methods": {"Semivox": ended(program, "methods")},
        "import of what trains": {
            "Semivox": ended(sys.executable, "-c", "import semivox.experiments.train"),
            "nnU-Net": ended(python, "-c", "import nnunetv2.run.run_training"),
            "MONAI": ended(python, "-c", "import monai.data, monai.networks.nets, monai.losses, monai.transforms"),
            "TorchIO": ended(python, "-c", "import torchio"),
            "torch alone": ended(python, "-c", "import torch"),
        },
    }


def trainings(folder: Path) -> dict[str, Clock]:
    """Who → what takes the time of a training's start, after the scans have been prepared."""
    dataset = write_phantom(folder / "raw" / f"Dataset{DATASET_ID:03d}_Phantom", 6, labelled=6, test=0, size=SIZE)
    clocks: dict[str, Clock] = {"Semivox": partial(semivox_step, dataset.root, folder)}
    nnunet = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    if has_peers():
        prepare = ("nnUNetv2_plan_and_preprocess", "-d", str(DATASET_ID), "-c", "3d_fullres", "-np", "1", "-npfp", "1")
        environment = {**os.environ, **nnunet, "PATH": f"{peers_program('')}{os.pathsep}{os.environ['PATH']}"}
        subprocess.run(prepare, env=environment, stdout=sys.stderr, check=True)
    cases = [(str(case.images[0]), str(case.label)) for case in dataset]
    monai = {"cases": cases, "classes": 4, "patch": PATCH, "spacing_mm": 1.6, "store": str(folder / "monai")}
    return clocks | {
        "nnU-Net": said("nnU-Net", {"dataset_id": DATASET_ID}, nnunet),
        "MONAI": said("MONAI", monai, {}),
    }


def in_turns(clocks: dict[str, Clock], rounds: int) -> dict[str, float]:
    """Median of each that runs; a first round does not count."""
    seconds: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for who, clock in clocks.items():
            took = clock()
            if number and took is not None:
                seconds.setdefault(who, []).append(took)
    return {who: statistics.median(all_) for who, all_ in seconds.items()}


def ended(*command: str) -> Clock:
    """The time until a command has ended."""

    def clock() -> float | None:
        if not Path(command[0]).exists():
            return None
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - started

    return clock


def said(peer: str, arguments: dict[str, Any], environment: dict[str, str]) -> Clock:
    """The time until a peer's `first_step` has been made; the process is then ended."""
    code = f"import json, sys; from {MODULES[peer]} import first_step; first_step(**json.loads(sys.argv[1]))"

    def clock() -> float | None:
        if not has_peers():
            return None
        with started([peers_program("python"), "-c", code, json.dumps(arguments)], environment) as (process, began):
            assert process.stdout is not None
            if not any(FIRST_STEP in line for line in process.stdout):
                raise RuntimeError(f"{peer}'s training ended before its first step, see above")
            return time.perf_counter() - began

    return clock


def semivox_step(root: Path, folder: Path) -> float:
    """The time until `semivox train` has made its first step, which its log tells; the process is then ended."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        log = Path(name) / "run" / "log.csv"
        arguments = ("train", str(root), "--method", "supervised", "--iterations", "1000", "--out", str(log.parent))
        command = [semivox_program(), *arguments, "-s", f"data.store={folder / 'semivox'}"]
        with started(command, {}) as (process, began):
            while not (log.exists() and len(log.read_text().splitlines()) > 1):
                if process.poll() is not None:
                    raise RuntimeError("semivox train ended before its first step, see above")
                time.sleep(POLL_S)
            return time.perf_counter() - began


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], float]]:
    """A command that runs until the block is left, with the processes that it started; and when it began."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process, began
    finally:
        with suppress(ProcessLookupError):  # it and all that it started have ended already
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def semivox_program() -> str:
    return str(Path(sys.executable).with_name("semivox"))
