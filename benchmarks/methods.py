"""A training step of every method beside a labelled-only one: time and peak memory, same network, batch and precision.

The literature's V-Net (2 + 2 patches of 48x48x32) and U-Net (4 + 4 slices of 128x128) on a made-up scan, bfloat16. A
step is all that training does: reading, views, losses, backward pass, optimiser, averages. Method and labelled-only
training have a fresh process each and step in turns; seconds are of processor time on one thread, the ratio is the
median over pairs of steps, and stages count by their shares of the run. A method that needs a network of its own has
it, and so has labelled-only training beside it. Memory is the process's peak above what it had
before the method was built. The floor is the arithmetic that the method's formula needs, from its own `demand`: a pass
with its backward pass counts three, one without gradient one. What a method needs beside passes (views, reading of the
unlabelled scans, averages) comes on top.

    python -m benchmarks methods
"""

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lightning
import torch

from semivox.data.phantom import write_phantom
from semivox.methods import METHODS, find_method
from semivox.networks import find_network
from semivox.planning.plan import BatchSize, NetworkChoice, Plan
from semivox.preparation.settings import Normalisation, Preparation
from semivox.training.config import Config, DataSettings, MethodChoice, TrainingSettings, method_settings
from semivox.training.cpu import keep_heap
from semivox.training.engine import Span, make_trainer
from semivox.training.fit import build, make_engine, open_store, read_data, training_data

BASELINE = "supervised"
SCAN = (128, 128, 32)
PREPARATION = Preparation(crop="none", resample="none", normalisation=(Normalisation(),))
PLANS = {
    "V-Net": Plan(preparation=PREPARATION, patch=(48, 48, 32), batch=BatchSize(), network=NetworkChoice(name="vnet")),
    "U-Net": Plan(
        preparation=PREPARATION,
        patch=(128, 128),
        batch=BatchSize(labelled=4, unlabelled=4),
        network=NetworkChoice(name="unet"),
    ),
}
WARM_UP, PAIRS = 2, 5
"""Steps that are not counted, and pairs of steps that are."""


def measure(names: Sequence[str] = tuple(METHODS)) -> dict[str, dict[str, dict[str, float]]]:
    """Method → network → time and peak memory relative to labelled-only training, and the floor of the time."""
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_phantom(Path(folder) / "phantom", cases=4, labelled=2, test=0, size=SCAN)
        data = DataSettings(datasets=(dataset.root,), store=Path(folder) / "store")
        for name in names:
            figures[name] = {network: relative(data, plan, name) for network, plan in PLANS.items() if fits(plan, name)}
            print(name, json.dumps(figures[name]), file=sys.stderr, flush=True)
    return figures


def relative(data: DataSettings, plan: Plan, name: str) -> dict[str, float]:
    """Figures of one method with one network: the plan's, or that without which the method cannot work, for both."""
    plan = plan_for(plan, name)
    config, baseline = (make_config(data, plan, method) for method in (name, BASELINE))
    stages = find_method(name)(method_settings(config.method)).stages()
    demand = find_method(name).demand(method_settings(config.method))
    whole = sum(stage.share for stage in stages)
    seconds = floor = memory = 0.0
    for number, stage in enumerate(stages):
        method, reference = in_turns(partial(train, config, number), partial(train, baseline, 0))
        share = stage.share / whole
        seconds += share * statistics.median(a / b for a, b in zip(method.seconds, reference.seconds, strict=True))
        floor += share * (demand.relative_cost if stage.unlabelled else demand.labelled_cost)
        memory = max(memory, method.bytes / reference.bytes)
    return {"time_ratio": round(seconds, 2), "floor": round(floor, 2), "memory_ratio": round(memory, 2)}


def fits(plan: Plan, name: str) -> bool:
    """Whether the network without which the method cannot work reads patches as the plan has them."""
    preferred = find_method(name).preferred_network
    return preferred is None or plan.dimensions in find_network(preferred).dimensionalities


def plan_for(plan: Plan, name: str) -> Plan:
    """The plan with the network without which the method cannot work, where it has one."""
    preferred = find_method(name).preferred_network
    return plan if preferred is None else plan.model_copy(update={"network": NetworkChoice(name=preferred)})


@dataclass(frozen=True)
class Measured:
    """Of one process: processor time of each step that counts, peak memory above that before its work began."""

    seconds: list[float]
    bytes: int


def in_turns(*ways: Callable[[Connection], None], warm_up: int = WARM_UP, counted: int = PAIRS) -> list[Measured]:
    """Runs each way, such as `train`, in a fresh process; they step one after the other.

    A way answers every "step" with the processor time that it took, and "end" with its peak of memory.
    """
    # Forked from a process that has imported torch and done nothing else.
    context = get_context("forkserver")
    context.set_forkserver_preload(["semivox.training.fit"])
    ends: list[Connection] = []
    processes = []
    for way in ways:
        mine, theirs = context.Pipe()
        # A daemon, so that one that fails does not leave the others waiting.
        processes.append(context.Process(target=way, args=(theirs,), daemon=True))
        processes[-1].start()
        theirs.close()
        ends.append(mine)
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(warm_up + counted):
        for end, found in zip(ends, seconds, strict=True):
            end.send("step")
            found.append(end.recv())
    for end in ends:
        end.send("end")
    measured = [Measured(found[warm_up:], end.recv()) for end, found in zip(ends, seconds, strict=True)]
    for process in processes:
        process.join()
    return measured


def train(config: Config, number: int, turns: Connection) -> None:
    """Steps of one stage, each when told to; at last sends the peak of memory."""
    torch.set_num_threads(1)
    keep_heap()
    before = peak_bytes()
    run_stage(config, number, Turns(turns))
    turns.send(peak_bytes() - before)


def run_stage(config: Config, number: int, watcher: lightning.Callback) -> None:
    """Builds everything that a config names and takes the steps of one stage, which `watcher` times."""
    dataset = training_data(read_data(config.data), config.data.labelled)
    method, _ = build(config, dataset)
    engine = make_engine(config, dataset, open_store(config, dataset), method)
    # As if it had begun before: with the method as it is, and nothing to prepare.
    engine.spans, engine.step = [Span(method.stages()[number], 0, config.training.iterations + 1)], 1
    make_trainer(config.training, [watcher], 1).fit(engine)


class Turns(lightning.Callback):
    """Lets a step begin when the other end says so, and tells it the processor time that the step took."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.started = 0.0

    def _wait(self) -> None:
        self.connection.recv()
        self.started = time.process_time()

    def on_train_start(self, trainer: lightning.Trainer, engine: lightning.LightningModule) -> None:
        self._wait()

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.connection.send(time.process_time() - self.started)
        self._wait()


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_config(data: DataSettings, plan: Plan, name: str, steps: int = WARM_UP + PAIRS, **changes: Any) -> Config:
    """A run of `steps` steps, as many as will be asked for; `changes` are settings of the method."""
    settings = method_settings(MethodChoice(name=name, settings=changes)).model_dump(mode="json")
    training = TrainingSettings(iterations=steps, device="cpu", precision="bf16")
    return Config(data=data, plan=plan, method=MethodChoice(name=name, settings=settings), training=training)


COLUMNS = {"time_ratio": "time", "floor": "floor", "memory_ratio": "memory"}
ON_GPU = {"time_ratio": "GPU time", "memory_ratio": "GPU memory"}


def table(figures: dict[str, Any], on_gpu: dict[str, Any]) -> list[str]:
    """The figures as Markdown, a row per method."""
    titles = [f"{network}: {title}" for network in PLANS for title in (*COLUMNS.values(), *ON_GPU.values())]
    lines = [f"| method | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
    for name, found in figures.items():
        cells = []
        for network in PLANS:
            own, gpu = found.get(network), on_gpu.get(name, {}).get(network)
            # A method whose network does not read this kind of scan is on neither machine asked to.
            missing = "–" if own is None else "not run"
            for part, columns in ((own, COLUMNS), (gpu, ON_GPU)):
                cells += [missing if part is None else f"{part[column]:.2f}" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    measure(sys.argv[1:] or tuple(METHODS))
