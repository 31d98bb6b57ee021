"""What transferable semantic augmentation (TSA) adds to a step of bidirectional copy-paste (BCP); and its naive form.

V-Net, patches of 112x112x80, four labelled and four unlabelled, of which BCP makes four mixed inputs: 2,007,040 voxels
with ground truth, and a teacher's map with twice as many. BCP and BCP + TSA are whole training steps of the second
stage in bfloat16; `alone` is what TSA does, on maps of that size by themselves: statistics of both domains, table, loss
and its backward pass; `naive` is the same voxel by voxel, as the public code of its ancestors has it, with tensors of
voxels x classes x features, and for the loss one of voxels x features x features. Each has a fresh process; they step
in turns. Seconds are of processor time on one thread, medians; shares are medians over pairs of steps. Memory is what
tensors took at most at once, counted in steps of their own: a process's peak moves by more than TSA adds, with where
the gaps in its heap happen to be. The limits that we have set ourselves are 5 % of the step and 40 MB.

    python -m benchmarks transferable
"""

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.methods import PREPARATION, Measured, Turns, in_turns, make_config, run_stage, train
from semivox.data.phantom import write_phantom
from semivox.losses.partial import certain_label
from semivox.losses.transferable import augmentation_table, merge_moments, transferable_mean
from semivox.methods.bidirectional_copy_paste import SIDE
from semivox.methods.transferable_augmentation import ClassMemory, LabelledMap, TransferableSettings
from semivox.planning.plan import BatchSize, NetworkChoice, Plan
from semivox.sampling.mixing import similar_boxes
from semivox.training.config import Config, DataSettings
from semivox.training.cpu import keep_heap

PATCH = (112, 112, 80)
SMALL = (16, 16, 16)
"""Where the two forms are compared."""
SAMPLES, CLASSES, WIDTH = 4, 2, 16
BASE = "bidirectional_copy_paste"
SELF_TRAIN = 1
"""Number of the stage that has unlabelled scans."""
MEGABYTE = 1e6


def measure(patch: Sequence[int] = PATCH) -> dict[str, Any]:
    """Seconds and megabytes of a step with and without, of TSA alone, and of its naive form."""
    batch = BatchSize(labelled=SAMPLES, unlabelled=SAMPLES)
    plan = Plan(preparation=PREPARATION, patch=tuple(patch), batch=batch, network=NetworkChoice(name="vnet"))
    with tempfile.TemporaryDirectory() as folder:
        size = [length + 16 for length in patch]
        dataset = write_phantom(Path(folder) / "phantom", cases=2 * SAMPLES, labelled=SAMPLES, test=0, size=size)
        data = DataSettings(datasets=(dataset.root,), store=Path(folder) / "store")
        configs = [make_config(data, plan, name) for name in (BASE, f"{BASE}+transferable_augmentation")]
        steps = [partial(train, config, SELF_TRAIN) for config in configs]
        parts = [partial(repeat, form, patch) for form in (by_table, by_voxel)]
        base, ours, alone, naive = in_turns(*steps, *parts)
        tensors = [each.bytes for each in in_turns(*(partial(train_counted, config, SELF_TRAIN) for config in configs))]
    return {
        "voxels with ground truth": SAMPLES // 2 * math.prod(patch),
        "step of BCP (s)": seconds(base),
        "step of BCP + TSA (s)": seconds(ours),
        "TSA alone (s)": seconds(alone),
        "naive (s)": seconds(naive),
        "TSA alone, share of BCP's step (%)": share(alone.seconds, base),
        "BCP + TSA less BCP, share of BCP's step (%)": share(
            [b - a for a, b in zip(base.seconds, ours.seconds, strict=True)], base
        ),
        "naive, share of BCP's step (%)": share(naive.seconds, base),
        "most tensors at once, BCP (MB)": round(tensors[0] / MEGABYTE),
        "most tensors at once, BCP + TSA (MB)": round(tensors[1] / MEGABYTE),
        "added (MB)": round((tensors[1] - tensors[0]) / MEGABYTE, 1),
        "most tensors at once, TSA alone (MB)": round(alone.bytes / MEGABYTE),
        "most tensors at once, naive (MB)": round(naive.bytes / MEGABYTE),
        "largest difference of the two forms' gradients": difference(),
    }


def seconds(measured: Measured) -> float:
    return round(statistics.median(measured.seconds), 2)


def share(spent: Sequence[float], base: Measured) -> float:
    """Percent of the base's step, median over pairs."""
    return round(100 * statistics.median(a / b for a, b in zip(spent, base.seconds, strict=True)), 1)


@contextmanager
def counted_bytes() -> Iterator[list[int]]:
    """Counts the memory of tensors made in its block; at the end the list holds the most that there was at once."""
    peak: list[int] = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield peak
    now = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    peak.append(most)


def train_counted(config: Config, number: int, turns: Connection) -> None:
    """As `train`, but sends what tensors took at most."""
    torch.set_num_threads(1)
    with counted_bytes() as peak:
        run_stage(config, number, Turns(turns))
    turns.send(peak[0])


# TSA by itself -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Maps:
    """What a step of BCP has when TSA begins: maps of student and teacher, labels, and who sees which of them."""

    student: Tensor
    teacher: Tensor
    logits: Tensor
    """(B, K, *space), a leaf that asks for its gradient."""
    label: Tensor
    pseudo: Tensor
    box: Tensor
    weights: Tensor
    """(K, A), the classifier's, a leaf too."""


def make_maps(patch: Sequence[int]) -> Maps:
    """Noise in a network's precision and layout, and a block as foreground."""
    generator = torch.Generator().manual_seed(0)

    def noise(channels: int) -> Tensor:
        values = torch.randn(SAMPLES, channels, *patch, generator=generator, dtype=torch.bfloat16)
        return values.to(memory_format=torch.channels_last_3d)

    label = torch.zeros(SAMPLES, *patch, dtype=torch.int64)
    label[:, *(slice(length // 4, length // 2) for length in patch)] = 1
    pseudo = label.roll(2, 1)
    box = similar_boxes(patch, range(SAMPLES // 2), SIDE)
    weights = torch.randn(CLASSES, WIDTH, generator=generator)
    student, teacher, logits = noise(WIDTH), noise(WIDTH), noise(CLASSES)
    return Maps(student, teacher, logits.requires_grad_(), label, pseudo, box, weights.requires_grad_())


Form = Callable[[Maps, ClassMemory, ClassMemory], Tensor]
"""Updates the memories of source and target and gives the loss."""


def repeat(form: Form, patch: Sequence[int], turns: Connection) -> None:
    """TSA on the same maps again and again, each time when told to; at last sends what its tensors took at most."""
    torch.set_num_threads(1)
    keep_heap()
    maps = make_maps(patch)
    source, target = ClassMemory(CLASSES, WIDTH), ClassMemory(CLASSES, WIDTH)
    with counted_bytes() as peak:
        form(maps, source, target).backward()
    while turns.recv() == "step":
        started = time.process_time()
        maps.logits.grad = maps.weights.grad = None
        form(maps, source, target).backward()
        turns.send(time.process_time() - started)
    turns.send(peak[0])


def by_table(maps: Maps, source: ClassMemory, target: ClassMemory) -> Tensor:
    """As `TransferableAugmentation` does it."""
    settings = TransferableSettings()
    known = torch.ones(SAMPLES // 2, CLASSES, dtype=torch.bool)
    parts = [
        LabelledMap(maps.student[place::2], maps.logits[place::2], certain_label(maps.label[place::2], known), region)
        for place, region in enumerate((maps.box, ~maps.box))
    ]
    target.update(target.moments([LabelledMap(maps.teacher, maps.logits, maps.pseudo, None)], step=0), settings.decay)
    source.update(source.moments(parts, step=0), settings.decay)
    table = augmentation_table(maps.weights, target.mean - source.mean, target.covariance, settings.strength)
    return transferable_mean([(part.logits, part.label, part.weight) for part in parts], table)


def by_voxel(maps: Maps, source: ClassMemory, target: ClassMemory) -> Tensor:
    """The formulas as they stand: what belongs to a class is spread over its voxels before it is used."""
    settings = TransferableSettings()
    region = torch.stack([maps.box, ~maps.box], 1).flatten(0, 1)
    features, logits = (values.movedim(1, -1)[region].float() for values in (maps.student, maps.logits))
    label = maps.label[region]
    update_by_voxel(source, features, label, settings.decay)
    update_by_voxel(target, maps.teacher.movedim(1, -1).flatten(0, -2).float(), maps.pseudo.flatten(), settings.decay)
    apart = maps.weights.unsqueeze(0) - maps.weights[label].unsqueeze(1)
    moved = (apart * (target.mean - source.mean)[label].unsqueeze(1)).sum(2)
    spread = (torch.bmm(apart, target.covariance[label]) * apart).sum(2)
    return F.cross_entropy(logits + settings.strength * (moved + 0.5 * spread), label)


@torch.no_grad()
def update_by_voxel(memory: ClassMemory, features: Tensor, label: Tensor, decay: float) -> None:
    """features: (N, A). label: (N,)."""
    member = F.one_hot(label, CLASSES).float().unsqueeze(2)
    count = member.sum(0)
    mean = (features.unsqueeze(1) * member).sum(0) / count
    rest = (features.unsqueeze(1) - mean) * member
    covariance = torch.bmm(rest.permute(1, 2, 0), rest.transpose(0, 1)) / count.unsqueeze(2)
    share = torch.full_like(count[:, 0], 1 - decay).where(memory.seen, 1.0)
    memory.mean, memory.covariance = merge_moments(memory.mean, memory.covariance, mean, covariance, share)
    memory.count += count[:, 0].long()


def difference() -> float:
    """Of the gradients to the classifier's weights that the two forms give, relative to the largest."""
    gradients = []
    for form in (by_table, by_voxel):
        maps = make_maps(SMALL)
        form(maps, ClassMemory(CLASSES, WIDTH), ClassMemory(CLASSES, WIDTH)).backward()
        gradients.append(maps.weights.grad)
    ours, naive = gradients
    return float((ours - naive).abs().max() / naive.abs().max())


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
