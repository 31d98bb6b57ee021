"""Training steps on a CPU: plain eager float32 beside what Semivox does (bfloat16 autocast, layout, kept heap).

The literature's V-Net (two 112×112×80 patches) and U-Net (twelve 256² slices), supervised loss, SGD. Each way has a
process of its own, for the allocator is set once per process; they step in turns, so that the ratio holds though the
machine's speed may change. Seconds are of processor time on one thread. The loss curves are compared on smaller
patches without dropout, whose masks would fall differently in another memory layout.

    python benchmarks/training_step.py
"""

import json
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import torch

from semivox.losses.supervised import supervised_loss
from semivox.networks import make_network
from semivox.training.cpu import keep_heap, lay_out

WAYS = ("plain", "semivox")
SIZES: dict[str, dict[str, Any]] = {
    "vnet": {"dimensions": 3, "classes": 2, "batch": 2, "patch": (112, 112, 80), "small": (56, 56, 40)},
    "unet": {"dimensions": 2, "classes": 4, "batch": 12, "patch": (256, 256), "small": (96, 96)},
}
NO_DROPOUT: dict[str, dict[str, Any]] = {"vnet": {"dropout": 0.0}, "unet": {"block_dropout": (0.0,)}}


def measure(steps: int = 4, curve_steps: int = 30) -> dict[str, dict[str, float]]:
    """Per network: seconds of a step both ways (median), their ratio, and how far the loss curves are apart."""
    results = {}
    for name, size in SIZES.items():
        timed = _in_turns(name, size["patch"], {}, steps + 1)
        seconds = {way: statistics.median([second for second, _ in timed[way][1:]]) for way in WAYS}
        curves = _in_turns(name, size["small"], NO_DROPOUT[name], curve_steps)
        plain, ours = ([loss for _, loss in curves[way]] for way in WAYS)
        results[name] = {
            "plain (s)": round(seconds["plain"], 3),
            "semivox (s)": round(seconds["semivox"], 3),
            "ratio": round(seconds["plain"] / seconds["semivox"], 2),
            "first loss": round(plain[0], 4),
            "last loss": round(plain[-1], 4),
            "largest difference of the losses": round(max(abs(a - b) for a, b in zip(plain, ours, strict=True)), 4),
        }
    return results


def _in_turns(name: str, patch: tuple[int, ...], settings: dict, steps: int) -> dict[str, list[tuple[float, float]]]:
    """(seconds, loss) of each step, per way; the ways step one after the other."""
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    processes = []
    for way in WAYS:
        ends[way], far_end = context.Pipe()
        processes.append(context.Process(target=_train, args=(far_end, way, name, patch, settings, steps)))
        processes[-1].start()
        far_end.close()
    results: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(steps):
        for way in WAYS:
            ends[way].send("step")
            results[way].append(ends[way].recv())
    for process in processes:
        process.join()
    return results


def _train(turns: Connection, way: str, name: str, patch: tuple[int, ...], settings: dict, steps: int) -> None:
    torch.set_num_threads(1)
    ours = way == "semivox"
    if ours:
        keep_heap()
    size = SIZES[name]
    image, label = _problem(size["batch"], size["classes"], patch)
    torch.manual_seed(0)
    network = make_network(name, size["dimensions"], 1, size["classes"], settings, patch=patch)
    if ours:
        lay_out(network)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    for _ in range(steps):
        turns.recv()
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=ours):
            logits = network(image)
        loss = supervised_loss(logits, label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        turns.send((time.process_time() - started, loss.item()))


def _problem(batch: int, classes: int, patch: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images of nested balls, the classes, whose centres differ from sample to sample."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, length) for length in patch), indexing="ij")
    centres = 0.4 * torch.rand(batch, len(patch), generator=generator) - 0.2
    distance = torch.stack(
        [torch.stack([x - c for x, c in zip(axes, centre, strict=True)]).norm(dim=0) for centre in centres]
    )
    label = torch.stack([distance < 0.8 / (index + 1) for index in range(classes - 1)]).sum(0)
    return (label + torch.randn(label.shape, generator=generator)).unsqueeze(1), label


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
