"""The GPU column of docs/benchmarks.md: training steps of every method, and inference beside MONAI's inferer.

    python -m benchmarks.gpu RESULTS --device cuda --budget 8m

Steps are those of `methods` with the literature's patches and batches (V-Net 2 + 2 of 112x112x80, U-Net 12 + 12 of
256x256), inference is that of `inference`. Seconds are of the wall clock, once the GPU has done what it was given;
memory is what tensors took at most at once. Each figure has a process of its own and lies in RESULTS/gpu.json from then
on, where it is not measured again. What failed is named there and at the end of every call, and measured again where
its entry is taken out. Exit code 3: the time was up before all was measured. On a CPU (`--device cpu`) patches are
small and nothing is meant: it shows that the script works.
"""

import argparse
import gc
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch

from benchmarks import inference
from benchmarks.methods import BASELINE, PLANS, SCAN, fits, make_config, plan_for, run_stage
from benchmarks.own_process import in_own_process
from semivox.atomic import atomic_write_text
from semivox.cli.benchmark import duration
from semivox.data.phantom import write_phantom
from semivox.methods import METHODS, find_method
from semivox.planning.plan import BatchSize, Plan
from semivox.training.config import DataSettings, method_settings
from semivox.training.environment import commit

LEFT = 3
"""Exit code while something is left to measure."""
WARM_UP, COUNTED = 5, 15
PATCHES = {"V-Net": ((112, 112, 80), 2), "U-Net": ((256, 256), 12)}
"""The literature's patch, and how many of each stream are in a batch."""


def measures(device: str) -> dict[tuple[str, str], Callable[[], dict[str, Any]]]:
    """All that is to be measured: (benchmark, row) → what measures it."""
    rows: dict[tuple[str, str], Callable[[], dict[str, Any]]] = {("inference", ""): partial(inferences, device)}
    return rows | {("methods", name): partial(steps, name, device) for name in METHODS}


def plans(device: str) -> dict[str, Plan]:
    if device == "cpu":
        return PLANS
    return {
        name: PLANS[name].model_copy(update={"patch": patch, "batch": BatchSize(labelled=number, unlabelled=number)})
        for name, (patch, number) in PATCHES.items()
    }


def steps(name: str, device: str) -> dict[str, dict[str, float]]:
    """Network → a step's time and memory, and their ratios to those of labelled-only training."""
    found = {}
    scan = SCAN if device == "cpu" else (256, 256, 88)
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_phantom(Path(folder) / "phantom", cases=4, labelled=2, test=0, size=scan)
        data = DataSettings(datasets=(dataset.root,), store=Path(folder) / "store")
        for network, plan in plans(device).items():
            if not fits(plan, name):
                continue
            second, memory = step_of(data, plan_for(plan, name), name, device)
            reference_s, reference_gib = step_of(data, plan_for(plan, name), BASELINE, device)
            found[network] = {
                "step_s": round(second, 4),
                "memory_gib": round(memory, 3),
                "time_ratio": round(second / reference_s, 2),
                "memory_ratio": round(memory / reference_gib, 2) if reference_gib else 0.0,
            }
    return found


def step_of(data: DataSettings, plan: Plan, name: str, device: str) -> tuple[float, float]:
    """Median seconds of a step, stages weighed by their shares, and the most memory in GiB."""
    config = make_config(data, plan, name, WARM_UP + COUNTED)
    config = config.model_copy(update={"training": config.training.model_copy(update={"device": device})})
    stages = find_method(name)(method_settings(config.method)).stages()
    whole = sum(stage.share for stage in stages)
    seconds = memory = 0.0
    for number, stage in enumerate(stages):
        if device == "cuda":
            gc.collect()  # what ran before and refers to itself still holds memory
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        clock = Clock()
        run_stage(config, number, clock)
        seconds += stage.share / whole * statistics.median(clock.seconds[WARM_UP:])
        if device == "cuda":
            memory = max(memory, torch.cuda.max_memory_allocated() / 2**30)
    return seconds, memory


class Clock(lightning.Callback):
    """Notes how long each step takes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_start(self, trainer: lightning.Trainer, engine: lightning.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: lightning.Trainer, engine: lightning.LightningModule, *rest: Any) -> None:
        synchronise(engine.device.type)
        now = time.perf_counter()
        self.seconds.append(now - self.began)
        self.began = now


def inferences(device: str) -> dict[str, float]:
    """Figures of the `inference` benchmark."""
    scan, _ = inference.blobs((64, 64, 32) if device == "cpu" else inference.SCAN, seed=1)
    scan = scan.to(device)
    with tempfile.TemporaryDirectory() as folder:
        inference.train(Path(folder) / "weights.pt")
        network = inference.load(Path(folder) / "weights.pt").to(device)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "MONAI": partial(inference.monai, network, scan),
        "Semivox": partial(inference.semivox, network, scan),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    classes = {}
    for _ in range(3):
        for way, predict in ways.items():
            synchronise(device)
            began = time.perf_counter()
            classes[way] = predict().argmax(0).cpu()
            seconds[way].append(time.perf_counter() - began)
    monai, ours = (statistics.median(seconds[way][1:]) for way in ways)
    agreement = (classes["MONAI"] == classes["Semivox"]).float().mean()
    return {
        "MONAI (s)": round(monai, 3),
        "Semivox (s)": round(ours, 3),
        "times faster than MONAI": round(monai / ours, 2),
        "argmax agreement with MONAI": round(float(agreement), 5),
        "share of foreground": round(float((classes["MONAI"] > 0).float().mean()), 3),
    }


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--budget", type=duration, default=480)
    given = parser.parse_args()
    deadline = time.monotonic() + given.budget
    given.results.mkdir(parents=True, exist_ok=True)
    file = given.results / "gpu.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"figures": {}, "failed": {}}
    had_all_the_time = True
    for (benchmark, row), measure in measures(given.device).items():
        title = row or benchmark
        figures = record["figures"].setdefault(benchmark, {})
        if (row in figures if row else figures) or title in record["failed"]:
            continue
        left_s = deadline - time.monotonic()
        found = in_own_process(measure, left_s) if left_s > 0 else None
        if found is None:
            if not had_all_the_time:
                return LEFT
            found = f"takes longer than {given.budget:.0f} s"  # so will it in every call
        had_all_the_time = False
        if isinstance(found, str):
            record["failed"][title] = found
        else:
            figures.update({row: found} if row else found)
        print(title, json.dumps(found), flush=True)
        atomic_write_text(file, json.dumps(record | machine(given.device), indent=1) + "\n")
    for title, fault in record["failed"].items():
        print(f"gpu.py: {title}: {fault}", file=sys.stderr)
    return 0


def machine(device: str) -> dict[str, str]:
    """Where the figures are from."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {"machine": f"{name}, torch {torch.__version__}", "commit": commit() or "unknown"}


if __name__ == "__main__":
    sys.exit(main())
