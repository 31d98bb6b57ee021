"""A step of Aggregating & Decoupling (A&D): its time beside the formula's floor and labelled-only training, its memory.

The diffusion V-Net at its published width of 32, bfloat16. Times are of 2 + 2 patches of 48x48x32; both methods have a
fresh process and step in turns; seconds are of processor time on one thread, medians, ratios over pairs of steps. The
floor is what the formula's 14 passes cost: a pass with its backward pass counts three, one without gradient one. A
sampling pass is a ninth of what ten DDIM steps take more than one; a pass of labelled-only training is a third of its
step. Memory is the peak of a process at the published patch of 112x112x80, above what it had before the method
was built, in the second step of a run: as the engine works, with each of the three terms back-propagated before the
next is computed, and, for comparison, all at once. It moves by half a GiB from run to run, with where the gaps in the
heap happen to be. What 4 + 4 need is drawn out from 1 + 1 and 2 + 2.

    python -m benchmarks diffusion
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.methods import BASELINE, PREPARATION, in_turns, make_config, train
from semivox.data.phantom import write_phantom
from semivox.methods.aggregating_decoupling import AggregatingDecoupling
from semivox.methods.clock import Clock
from semivox.methods.method import Terms
from semivox.planning.cost import GIB
from semivox.planning.plan import BatchSize, NetworkChoice, Plan
from semivox.sampling.batch import Batch
from semivox.training.config import DataSettings, method_settings

METHOD = "aggregating_decoupling"
SMALL, PUBLISHED = (48, 48, 32), (112, 112, 80)
FEWER = 1
"""Sampling steps of the method that ten are set beside."""
ROWS = (
    (BASELINE, 1),
    (METHOD, 1),
    (f"{__file__}:AtOnce", 1),
    (METHOD, 2),
)
"""Methods and samples of each stream whose memory is measured."""
STEPS = 2
"""Steps of each row: the second has the optimiser's momenta too, and is the one that is timed."""
TITLES = {
    BASELINE: "labelled-only",
    METHOD: "A&D, terms one by one",
    f"{__file__}:AtOnce": "A&D, terms all at once",
}


class AtOnce(AggregatingDecoupling):
    """The same step, its terms summed before anything is back-propagated."""

    def parts(self, batch: Batch, clock: Clock) -> Iterator[Terms]:
        yield {name: term for terms in super().parts(batch, clock) for name, term in terms.items()}


def measure(small: Sequence[int] = SMALL, large: Sequence[int] = PUBLISHED) -> dict[str, Any]:
    """Time of a step on small patches; time and memory of a step on large ones."""
    with tempfile.TemporaryDirectory() as folder:
        size = [length + 16 for length in large]
        dataset = write_phantom(Path(folder) / "phantom", cases=4, labelled=2, test=0, size=size)
        data = DataSettings(datasets=(dataset.root,), store=Path(folder) / "store")
        return {"step": times(data, small), "memory": memory(data, large)}


def plan_of(patch: Sequence[int], samples: int) -> Plan:
    """`samples` patches of each stream."""
    batch, network = BatchSize(labelled=samples, unlabelled=samples), NetworkChoice(name="diffusion_vnet")
    return Plan(preparation=PREPARATION, patch=tuple(patch), batch=batch, network=network)


def times(data: DataSettings, patch: Sequence[int]) -> dict[str, float]:
    """Of A&D with ten sampling steps and with fewer, and of labelled-only training."""
    plan = plan_of(patch, samples=2)
    configs = [
        make_config(data, plan, METHOD),
        make_config(data, plan, METHOD, sampling_steps=FEWER),
        make_config(data, plan, BASELINE),
    ]
    whole, fewer, baseline = (each.seconds for each in in_turns(*(partial(train, config, 0) for config in configs)))
    settings = method_settings(configs[0].method)
    assert isinstance(settings, AggregatingDecoupling.Settings)
    passes = settings.sampling_steps - FEWER
    return {
        "step of A&D (s)": round(median(whole), 2),
        "step of labelled-only training (s)": round(median(baseline), 2),
        "ratio": round(median(a / b for a, b in zip(whole, baseline, strict=True)), 2),
        "floor of the ratio": round(AggregatingDecoupling.demand(settings).relative_cost, 2),
        "one sampling pass, share of the step (%)": round(
            100 * median((a - b) / passes / a for a, b in zip(whole, fewer, strict=True)), 1
        ),
        "one sampling pass, in passes of labelled-only training": round(
            median(3 * (a - b) / passes / c for a, b, c in zip(whole, fewer, baseline, strict=True)), 2
        ),
    }


def memory(data: DataSettings, patch: Sequence[int]) -> dict[str, dict[str, float]]:
    """Way and samples → seconds of a step and peak of memory, one process after the other."""
    figures: dict[str, dict[str, float]] = {}
    for name, samples in ROWS:
        config = make_config(data, plan_of(patch, samples), name, STEPS)
        (found,) = in_turns(partial(train, config, 0), warm_up=STEPS - 1, counted=1)
        figures[f"{TITLES[name]}, {samples} + {samples}"] = {
            "seconds": round(found.seconds[0], 1),
            "gib": round(found.bytes / GIB, 2),
        }
        print(name, samples, json.dumps(found.seconds), found.bytes / GIB, file=sys.stderr, flush=True)
    one, two = (figures[f"{TITLES[METHOD]}, {samples} + {samples}"] for samples in (1, 2))
    figures[f"{TITLES[METHOD]}, 4 + 4, drawn out"] = {
        column: round(two[column] + 2 * (two[column] - one[column]), 2) for column in ("seconds", "gib")
    }
    return figures


def table(figures: dict[str, Any], on_gpu: dict[str, Any]) -> list[str]:
    """Time and memory as Markdown."""
    gpu = on_gpu.get("step", {})
    return [
        "| figure | CPU | GPU |",
        "|---|---|---|",
        *(f"| {name} | {value} | {gpu.get(name, 'not run')} |" for name, value in figures["step"].items()),
        "",
        "| patches of 112x112x80 | step (s) | peak (GiB) |",
        "|---|---|---|",
        *(f"| {name} | {row['seconds']:.1f} | {row['gib']:.1f} |" for name, row in figures["memory"].items()),
    ]


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
