"""A step of VerSemi's second stage: what more organs cost, and what one pass for all prompts saves.

VerSemi's V-Net, 4 + 4 patches of 48x48x48 of noise with a block as label, bfloat16, float32 losses. A step is all
losses of the second stage, their backward passes, the optimiser and the moving average; patches are not read. `one
pass` is the project's form; `pass per prompt` takes the network once for each prompt of a mix, as the released code
does. `prompts alone` is forward and backward of the one mix that all prompts see. Each has a fresh process; they step
in turns. Seconds are of processor time on one thread, medians; ratios are medians over pairs of steps. The limits that
we have set ourselves: four organs at most 1.3 times one; a pass per prompt at least 2.1 times the step, 3.5 times the
prompts alone.

    python -m benchmarks prompted
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from benchmarks.methods import PREPARATION, Measured, in_turns, peak_bytes
from semivox.data.labels import LabelMap
from semivox.losses.foreground import aggregated, foreground_dice
from semivox.methods.clock import Clock
from semivox.methods.model import build_method
from semivox.methods.problem import Problem
from semivox.methods.versemi import TRAIN, VerSemi
from semivox.networks.prompted import PromptedNetwork
from semivox.planning.plan import BatchSize, NetworkChoice, Plan
from semivox.sampling.batch import Batch, Stream
from semivox.sampling.geometry import Geometry
from semivox.training.cpu import keep_heap, lay_out

PATCH = (48, 48, 48)
SMALL = (16, 16, 16)
"""Where the two forms are compared."""
SAMPLES, ORGANS = 4, 4
NETWORK = {"norm": "instance", "dropout": 0.0, "finest_skip": False}


class PassPerPrompt(PromptedNetwork):
    """The same values, by a pass of the network for each prompt."""

    def forward(self, image: Tensor, prompts: Tensor | None = None) -> Tensor:
        if prompts is not None and prompts.ndim == 2:
            return super().forward(image, prompts)
        every = torch.arange(len(self.prompts)) if prompts is None else prompts
        return torch.cat([PromptedNetwork.forward(self, image, prompt.view(1)) for prompt in every], 1)


def measure(patch: Sequence[int] = PATCH) -> dict[str, Any]:
    """Seconds and megabytes of a step with one and with four organs, and in the form of many passes."""
    ways = [
        partial(repeat, form, organs, tuple(patch), passes)
        for form, organs, passes in (
            (train, 1, False),
            (train, ORGANS, False),
            (train, ORGANS, True),
            (prompts_alone, ORGANS, False),
            (prompts_alone, ORGANS, True),
        )
    ]
    one_organ, ours, passes, alone, alone_passes = in_turns(*ways)
    return {
        "step, one organ (s)": seconds(one_organ),
        "step, four organs (s)": seconds(ours),
        "step, four organs, pass per prompt (s)": seconds(passes),
        "prompts alone (s)": seconds(alone),
        "prompts alone, pass per prompt (s)": seconds(alone_passes),
        "four organs / one": ratio(ours, one_organ),
        "pass per prompt / one pass, step": ratio(passes, ours),
        "pass per prompt / one pass, prompts alone": ratio(alone_passes, alone),
        "memory of a step, one organ (MB)": round(one_organ.bytes / 1e6),
        "memory of a step, four organs (MB)": round(ours.bytes / 1e6),
        "memory of a step, four organs, pass per prompt (MB)": round(passes.bytes / 1e6),
        "largest difference of the two forms' gradients": difference(),
    }


def seconds(measured: Measured) -> float:
    return round(statistics.median(measured.seconds), 2)


def ratio(one: Measured, other: Measured) -> float:
    """Of steps that followed one another."""
    return round(statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True)), 2)


def make_method(organs: int, patch: tuple[int, ...], passes: bool) -> VerSemi:
    """VerSemi for so many organs, in one of the two forms."""
    plan = Plan(
        preparation=PREPARATION,
        patch=patch,
        batch=BatchSize(labelled=SAMPLES, unlabelled=SAMPLES),
        network=NetworkChoice(name="vnet", settings=NETWORK),
    )
    labels = LabelMap(("background", *(f"organ {number}" for number in range(organs))), tuple(range(organs + 1)))
    torch.manual_seed(0)
    method = build_method("versemi", VerSemi.Settings(), Problem(plan, channels=1, labels=labels))
    assert isinstance(method, VerSemi)
    if passes:
        method.student.__class__ = PassPerPrompt
    lay_out(method)
    return method.train()


def make_batch(organs: int, patch: tuple[int, ...]) -> Batch:
    """Noise; every labelled sample has a block of one organ, the only one that its task knows."""
    source = torch.Generator().manual_seed(0)

    def stream(name: str) -> Stream:
        label = torch.zeros(SAMPLES, *patch, dtype=torch.int64)
        known = torch.zeros(SAMPLES, organs + 1, dtype=torch.bool)
        for sample in range(SAMPLES):
            organ = 1 + sample % organs
            known[sample, organ] = True
            label[sample][tuple(slice(length // 4, length // 2) for length in patch)] = organ
        return Stream(
            views=(torch.randn(SAMPLES, 1, *patch, generator=source),),
            label=label if name == "labelled" else None,
            valid=torch.ones(SAMPLES, *patch, dtype=torch.bool),
            case=(name,) * SAMPLES,
            domain=("noise",) * SAMPLES,
            task=("noise",) * SAMPLES,
            known=known,
            seeds=tuple(range(SAMPLES)),
            geometry=Geometry.identity(SAMPLES, patch),
        )

    return Batch(stream("labelled"), stream("unlabelled"))


Form = Callable[[VerSemi, Batch, Clock], Iterator[dict[str, Tensor]]]
"""The parts of what is back-propagated in a step."""


def train(method: VerSemi, batch: Batch, clock: Clock) -> Iterator[dict[str, Tensor]]:
    """The losses of the second stage."""
    return method.parts(batch, clock)


def prompts_alone(method: VerSemi, batch: Batch, clock: Clock) -> Iterator[dict[str, Tensor]]:
    """The consistency of all prompts on the unlabelled patches."""
    probabilities = method.student(batch.unlabelled.image).sigmoid()
    yield {"consistency": foreground_dice(probabilities[:, -1:], aggregated(probabilities[:, :-1]))}


def repeat(form: Form, organs: int, patch: tuple[int, ...], passes: bool, turns: Connection) -> None:
    """The same step again and again, each time when told to; at last sends the peak of memory."""
    torch.set_num_threads(1)
    keep_heap()
    before = peak_bytes()
    method, batch = make_method(organs, patch, passes), make_batch(organs, patch)
    optimiser = torch.optim.Adam(method.student.parameters(), lr=1e-3)
    step = 0
    while turns.recv() == "step":
        started = time.process_time()
        optimiser.zero_grad(set_to_none=True)
        clock = Clock(step, 100, TRAIN, step, 100, seed=step)
        back_propagate(form, method, batch, clock)
        optimiser.step()
        method.finish_step(clock)
        turns.send(time.process_time() - started)
        step += 1
    turns.send(peak_bytes() - before)


def back_propagate(form: Form, method: VerSemi, batch: Batch, clock: Clock, half: bool = True) -> None:
    """Adds the gradient of a step, part by part, as the engine does."""
    parts = form(method, batch, clock)
    while True:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            terms = next(parts, None)
        if terms is None:
            return
        torch.stack([term.float() for term in terms.values()]).sum().backward()


def difference() -> float:
    """Of the gradients that the two forms give in float32, relative to the largest."""
    gradients = []
    for passes in (False, True):
        method = make_method(ORGANS, SMALL, passes)
        back_propagate(train, method, make_batch(ORGANS, SMALL), Clock(0, 100, TRAIN, 0, 100), half=False)
        gradients.append(torch.cat([p.grad.flatten() for p in method.student.parameters() if p.grad is not None]))
    ours, passes_ = gradients
    return float((ours - passes_).abs().max() / passes_.abs().max())


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
