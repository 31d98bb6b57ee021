"""What a plan costs: memory, seconds per step, disk. Estimated before anything is trained.

One forward pass of the network is played through with tensors that have shapes but no memory; that gives its
multiplications and the activations that wait for the backward pass, exactly. What they amount to on a device is
measured: seconds by a few short steps, memory by factors that a test holds to real runs.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from semivox.networks import MONAI, make_network
from semivox.networks.network import Network
from semivox.planning.demand import Companion, Demand
from semivox.planning.fingerprint import Fingerprint
from semivox.planning.plan import Plan
from semivox.preparation.placement import target_shape
from semivox.preparation.settings import Preparation

GIB = 2**30

BASE_GIB = {"cpu": 0.58, "cuda": 0.75}
"""A training process before its first step: the libraries, on a GPU the context and the workspaces."""

PASSING = {("cpu", torch.bfloat16): 13, ("cpu", torch.float32): 7, ("cuda", torch.bfloat16): 4}
"""Memory beside the kept activations, in units of the largest of them of all samples that pass together: gradients,
buffers inside the kernels, and the pieces in which an allocator holds what was freed."""

PASSING_ELSEWHERE = 6

TEACHING = 9
"""Memory of a pass without gradient, in the same units, of a sample: what the decoder still waits for, and buffers.
V-Net takes 9, the 2-D U-Net 6, in either precision."""

LOSS_MAPS = 4
"""float32 maps per class that the losses of one forward pass keep: logits, log-softmax, softmax, target."""

VIEW_COPIES = 3
"""Copies of each view that live at once while views are made: crop, sampling grid, result."""

OVERHEAD = 1.2
"""A step's time in units of its networks' passes; the rest reads patches, makes views, updates averages."""

CALIBRATION_FLOP = 5e9
"""Size of a forward pass that is timed: a tenth of a second on one core, milliseconds on a GPU."""


@dataclass(frozen=True)
class Cost:
    """`peak_gib` of one training process (on a GPU: of its memory), seconds per step, size of the store."""

    peak_gib: float
    step_s: float
    store_gib: float | None
    """None where no fingerprint was given."""


@dataclass(frozen=True)
class Forward:
    """One forward pass of a network in train mode on one patch."""

    flop: float
    """Floating-point operations, two per multiply-add."""
    parameter_bytes: float
    """float32 weights."""
    weight_copies: float
    """Bytes of the weights' low-precision copies; one set serves all passes of a step."""
    kept: float
    """Bytes of activations that wait for the backward pass, per sample."""
    largest: float
    """Bytes of the largest of them."""
    companions: "tuple[Forward, ...]" = ()
    """The same of each network that is trained beside it."""


def estimate(
    plan: Plan,
    demand: Demand,
    channels: int,
    classes: int,
    *,
    fingerprint: Fingerprint | None = None,
    device: str = "cpu",
    autocast: torch.dtype | None = None,
    flop_per_s: float | None = None,
) -> Cost:
    """The cost of training with `plan` by a method that needs `demand`.

    `autocast`: None follows `--precision auto`. `flop_per_s`: None measures it, in about half a second.
    """
    precision = autocast or auto_precision(device)
    network = forward(plan, channels, classes, precision, demand.companions)
    speed = flop_per_s or throughput(plan, channels, classes, device, precision)
    return Cost(
        peak_gib=peak_bytes(plan, demand, channels, classes, network, device, precision) / GIB,
        step_s=step_flop(plan, demand, network) / speed * OVERHEAD,
        store_gib=store_bytes(plan.preparation, fingerprint) / GIB if fingerprint else None,
    )


def auto_precision(device: str) -> torch.dtype:
    """What `--precision auto` computes in on this machine."""
    if device == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def step_flop(plan: Plan, demand: Demand, network: Forward) -> float:
    """Operations of one step: a backward pass costs two forward passes."""
    labelled, unlabelled = samples(plan, demand)
    trained = labelled * demand.labelled_forwards + unlabelled * demand.unlabelled_forwards
    beside = 3 * sum(
        other.flop * (labelled * asked.labelled_forwards + unlabelled * asked.unlabelled_forwards)
        for asked, other in zip(demand.companions, network.companions, strict=True)
    )
    return network.flop * (3 * trained + unlabelled * demand.teacher_forwards) + beside


def peak_bytes(
    plan: Plan,
    demand: Demand,
    channels: int,
    classes: int,
    network: Forward,
    device: str,
    precision: torch.dtype,
) -> float:
    """The most memory that one training process holds: when the backward pass begins, while a batch passes without
    gradient, or when the optimiser steps."""
    labelled, unlabelled = samples(plan, demand)
    voxels = prod(plan.patch)
    trained = labelled * demand.labelled_forwards + unlabelled * demand.unlabelled_forwards
    # Weights and two moments of each trained network, weights of each average; Adam's, which SGD does not exceed.
    others = sum(other.parameter_bytes for other in network.companions)
    weights = network.parameter_bytes * (3 * demand.networks + demand.averages) + 3 * others
    companions = [*zip(demand.companions, network.companions, strict=True)]
    weights += sum(other.parameter_bytes * asked.averages for asked, other in companions)
    at_once = trained / demand.parts
    loss_maps = LOSS_MAPS * classes * voxels * 4
    kept = at_once * (network.kept + loss_maps) + network.weight_copies * demand.networks
    for asked, other in companions:
        beside = labelled * asked.labelled_forwards + unlabelled * asked.unlabelled_forwards
        kept += beside / demand.parts * (other.kept + loss_maps) + other.weight_copies
    together = labelled + unlabelled * bool(demand.unlabelled_forwards or demand.teacher_forwards)
    largest = max(each.largest for each in (network, *network.companions))
    passing = PASSING.get((device, precision), PASSING_ELSEWHERE) * largest * together
    teaching = unlabelled * demand.taught_at_once * (TEACHING * largest + loss_maps)
    shown = labelled * len(demand.views.labelled) + unlabelled * len(demand.views.unlabelled)
    views = VIEW_COPIES * 4 * channels * voxels * shown
    # Gradients, and as much again for the optimiser's own arithmetic.
    stepping = 2 * (network.parameter_bytes * demand.networks + others)
    return (
        BASE_GIB.get(device, BASE_GIB["cpu"]) * GIB + weights + max(kept + passing + views, teaching + views, stepping)
    )


def samples(plan: Plan, demand: Demand) -> tuple[int, int]:
    """Patches of the labelled and the unlabelled stream that one step sees."""
    unlabelled = plan.batch.unlabelled * demand.views.unlabelled_batches if demand.views.unlabelled else 0
    return plan.batch.labelled * demand.views.clip, unlabelled * demand.views.clip


def store_bytes(preparation: Preparation, fingerprint: Fingerprint) -> float:
    """Disk for the prepared scans that training reads: float32 images, and a label for each at most."""
    voxel_bytes = 4 * len(fingerprint.channels) + 1
    return sum(
        voxel_bytes
        * prod(target_shape(scan.body if preparation.crop == "body" else scan.shape, scan.spacing_mm, preparation))
        for scan in (scan.arranged(preparation.slices_last) for scan in fingerprint.scans)
        if scan.split != "test"
    )


def forward(
    plan: Plan, channels: int, classes: int, precision: torch.dtype, companions: Sequence[Companion] = ()
) -> Forward:
    """One training forward pass of the plan's network on one patch, and of its companions, played through without
    memory."""

    def play(name: str, settings: Mapping[str, Any]) -> Forward:
        return _forward(name, json.dumps(settings), plan.patch, channels, classes, precision)

    own = play(plan.network.name, plan.network.settings)
    return replace(own, companions=tuple(play(other.name, other.settings) for other in companions))


@lru_cache(maxsize=64)
def _forward(
    name: str, settings: str, patch: tuple[int, ...], channels: int, classes: int, precision: torch.dtype
) -> Forward:
    network = weightless(name, json.loads(settings), patch, channels, classes)
    one, flop = _play(network, (1, channels, *patch), precision)
    two, _ = _play(network, (2, channels, *patch), precision)
    # What does not grow with the batch are the weights' copies.
    kept = sum(two) - sum(one)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Forward(flop, 4 * parameters, max(sum(one) - kept, 0), kept, max(one))


def weightless(name: str, settings: dict[str, Any], patch: tuple[int, ...], channels: int, classes: int) -> Network:
    """A network to look at, its weights without memory or value."""
    # MONAI's networks probe themselves on the meta device while they are made, which a fake tensor cannot go to.
    fake = nullcontext() if name.startswith(MONAI) else FakeTensorMode()
    with fake, torch.random.fork_rng(devices=[]):
        return make_network(name, len(patch), channels, classes, settings, patch)


def _play(network: nn.Module, shape: tuple[int, ...], precision: torch.dtype) -> tuple[list[int], float]:
    """Bytes of each storage that a forward pass keeps for the backward pass, weights left out, and its operations."""
    kept: dict[int, Tensor] = {}
    with FakeTensorMode():
        state = {
            name: torch.empty(p.shape, dtype=p.dtype, requires_grad=p.requires_grad)
            for name, p in network.named_parameters()
        }
        own = {_storage(weight) for weight in state.values()}
        state |= {name: torch.empty(b.shape, dtype=b.dtype) for name, b in network.named_buffers()}

        def keep(tensor: Tensor) -> Tensor:
            if _storage(tensor) not in own:
                # Held, so that no later storage can have the same address.
                kept[_storage(tensor)] = tensor
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            FlopCounterMode(display=False) as counter,
            torch.autocast("cpu", precision, enabled=precision != torch.float32),
        ):
            functional_call(network.train(), state, (torch.empty(shape),))
        return [tensor.untyped_storage().nbytes() for tensor in kept.values()], float(counter.get_total_flops())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def throughput(plan: Plan, channels: int, classes: int, device: str, precision: torch.dtype) -> float:
    """Operations per second in training the plan's network on `device`: a few steps on a patch cut to a tenth of a
    second's work are timed, the first one apart."""
    shrink = min(1.0, (CALIBRATION_FLOP / forward(plan, channels, classes, precision).flop) ** (1 / plan.dimensions))
    patch = tuple(max(16, round(size * shrink / 16) * 16) for size in plan.patch)
    settings = json.dumps(plan.network.settings)
    flop = _forward(plan.network.name, settings, patch, channels, classes, precision).flop
    image = torch.randn((1, channels, *patch), generator=torch.Generator().manual_seed(0)).to(device)

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast(device, precision, enabled=precision != torch.float32):
            loss = network(image).float().logsumexp(1).mean()
        loss.backward()
        loss.item()  # waits for the device
        return time.perf_counter() - start

    # Dropout and the weights' first values draw numbers: torch's generators are given back as they were.
    with torch.random.fork_rng(devices=[device] if device == "cuda" else []):
        network = make_network(plan.network.name, plan.dimensions, channels, classes, plan.network.settings, patch)
        network.to(device)
        step()
        step()
        # The least, not the median: whatever else runs on the machine can only add to a time.
        return 3 * flop / min(step() for _ in range(5))
