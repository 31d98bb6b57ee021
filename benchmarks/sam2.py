"""A step of SSS on SAM-2, with and without its memory, beside labelled-only training: its time and its peak of memory.

SAM-2 from random weights in two sizes, bfloat16, slices of 256x256 of a made-up scan with three classes. SSS has one
labelled clip and two unlabelled ones of four slices, labelled-only training the same four labelled slices. What is
continuous enough for a box is so lax that boxes are found in what an untrained head says, as they are later in
training. Each row has a fresh process on one thread, and the rows of a size step in turns: seconds are of processor
time, medians, ratios are over pairs of steps. Memory is the peak of a process above what it had before the method was
built. Expected is what the method's `demand` says for planning: a pass with its backward pass counts three, one without
gradient one; each unlabelled clip counts as much as the labelled one.

    python -m benchmarks sam2
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.methods import BASELINE, PREPARATION, in_turns, make_config, train
from semivox.data.phantom import write_phantom
from semivox.methods.sss import SSS
from semivox.networks.sam2_architecture import Size
from semivox.planning.cost import GIB
from semivox.planning.demand import Demand
from semivox.planning.plan import BatchSize, NetworkChoice, Plan
from semivox.training.config import DataSettings, MethodChoice, method_settings

SIZES: tuple[Size, ...] = ("miniature", "tiny")
SIDE = 256
SLICES = 4
CLIPS = {"labelled": 1, "unlabelled": 2}
LAX = {"slices": SLICES, "rules.confidence": 0.0, "rules.overlap": 0.0, "rules.area_ratio": 0.0}
ROWS: dict[str, dict[str, Any]] = {"SSS": LAX, "SSS with memory": {**LAX, "memory": True}}
WARM_UP, COUNTED = 1, 3


def measure(
    sizes: Sequence[Size] = SIZES, side: int = SIDE, warm_up: int = WARM_UP, counted: int = COUNTED
) -> dict[str, dict[str, dict[str, float]]]:
    """Size of SAM-2 → row → seconds of a step, their ratio to labelled-only training, the ratio expected, GiB."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_phantom(Path(folder) / "phantom", cases=4, labelled=2, test=0, size=(side, side, 12))
        data = DataSettings(datasets=(dataset.root,), store=Path(folder) / "store")
        for size in sizes:
            figures[size] = rows(data, size, side, warm_up, counted)
            print(size, json.dumps(figures[size]), file=sys.stderr, flush=True)
    return figures


def rows(data: DataSettings, size: Size, side: int, warm_up: int, counted: int) -> dict[str, dict[str, float]]:
    """The figures of one size of SAM-2."""
    steps = warm_up + counted
    alone = make_config(data, plan_of(size, side, BatchSize(labelled=CLIPS["labelled"] * SLICES)), BASELINE, steps)
    clips = plan_of(size, side, BatchSize(**CLIPS))
    configs = [alone, *(make_config(data, clips, "sss", steps, **changes) for changes in ROWS.values())]
    measured = in_turns(*(partial(train, config, 0) for config in configs), warm_up=warm_up, counted=counted)
    demanded = [1.0, *(expected(SSS.demand(sss_settings(changes))) for changes in ROWS.values())]
    return {
        name: {
            "seconds": round(median(found.seconds), 2),
            "ratio": round(median(a / b for a, b in zip(found.seconds, measured[0].seconds, strict=True)), 2),
            "expected": round(cost, 2),
            "gib": round(found.bytes / GIB, 2),
        }
        for name, found, cost in zip(("labelled-only", *ROWS), measured, demanded, strict=True)
    }


def plan_of(size: Size, side: int, batch: BatchSize) -> Plan:
    network = NetworkChoice(name="sam2", settings={"size": size})
    return Plan(preparation=PREPARATION, patch=(side, side), batch=batch, network=network)


def sss_settings(changes: dict[str, Any]) -> SSS.Settings:
    settings = method_settings(MethodChoice(name="sss", settings=changes))
    assert isinstance(settings, SSS.Settings)
    return settings


def expected(demand: Demand) -> float:
    """Arithmetic of a step in units of labelled-only training's on the labelled clips."""
    unlabelled = demand.unlabelled_forwards + demand.teacher_forwards / 3
    return demand.labelled_forwards + unlabelled * CLIPS["unlabelled"] / CLIPS["labelled"]


ON_GPU = ("seconds", "gib")


def table(figures: dict[str, Any], on_gpu: dict[str, Any]) -> list[str]:
    """The figures as Markdown, a row for each size and way."""
    lines = [
        "| SAM-2 | way | step (s) | ratio | expected | peak (GiB) | GPU step (s) | GPU peak (GiB) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size, found in figures.items():
        for way, row in found.items():
            gpu = on_gpu.get(size, {}).get(way)
            cells = [f"{row[key]:.2f}" for key in ("seconds", "ratio", "expected", "gib")]
            cells += ["not run" if gpu is None else f"{gpu[key]:.2f}" for key in ON_GPU]
            lines.append(f"| {size} | {way} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
