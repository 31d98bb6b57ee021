"""From what a data set looks like to a plan: 2-D or 3-D, spacing, patch, batch, network, within memory and time.

The rules are nnU-Net's in spirit (Isensee et al., Nature Methods 2021): resample to the median spacing, and see as
much of a scan at once as memory allows. Two things differ. Memory is what the *method* needs, with all its networks,
streams and views. And where time is short, so that too few steps would fit, the scans are made coarser: a network
trained long enough at half the resolution beats one hardly trained at the full one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import numpy as np
import psutil
import torch

from semivox.data.case import Dataset
from semivox.errors import DataError, ResourceError
from semivox.networks import MONAI, find_network, network_settings
from semivox.planning import cost
from semivox.planning.cost import GIB
from semivox.planning.demand import Demand
from semivox.planning.fingerprint import Fingerprint, Intensity, Modality, Scan
from semivox.planning.plan import BatchSize, NetworkChoice, Plan
from semivox.preparation.settings import Normalisation, Preparation

ENOUGH_STEPS = 1000
"""Optimiser steps below which a network is hardly trained; fewer are a reason for coarser voxels."""

THICK = 3.0
"""Slices this many times thicker than the pixels are wide share too little for a 3-D network, if they are few."""
FEW_SLICES = 30
FLAT = 12
"""Slices below which a scan is read slice by slice however thin they are: there is nothing to go down into."""

PATCH_VOXELS = {("cpu", 3): 112 * 112 * 80, ("cpu", 2): 256**2, ("cuda", 3): 128**3, ("cuda", 2): 512**2}
"""Largest patch; 112x112x80 and 256x256 are the literature's."""

SMALL_PATCH_3D = 125_000
"""Voxels of a 3-D patch below which a batch of 2 is too little work and too noisy."""

COARSER = (1.25, 1.6, 2.0)
"""Factors on the finest spacing, in steps of about a quarter. Beyond twice, small structures are gone whatever is
gained in steps; too few steps are then said, not hidden."""

SMALLEST_PATCH = {2: 48**2, 3: 16**3}
MEMORY_SHARE = {"cpu": 0.7, "cuda": 0.85}
"""Share of the free memory that a plan may fill."""


@dataclass(frozen=True)
class Body:
    """The median training scan, in RAS order."""

    shape: tuple[float, ...]
    """Voxels of the body box."""
    spacing_mm: tuple[float, ...]
    is_picture: bool
    dimensions: int
    """2 where it is to be read slice by slice."""
    slice_axis: int
    slices_last: bool = False
    """Whether the axes are not anatomical: Z is across each scan's own slices."""

    @property
    def plane(self) -> tuple[int, ...]:
        """The axes that a patch has."""
        return tuple(axis for axis in range(3) if self.dimensions == 3 or axis != self.slice_axis)

    def sliced(self) -> "Body":
        """The same, read slice by slice across its coarsest axis; of equal ones the last, foot-head."""
        axis = max(range(3), key=lambda axis: (round(self.spacing_mm[axis], 3), axis))
        return replace(self, dimensions=2, slice_axis=axis)

    def spacing(self, coarser: float) -> tuple[float, ...]:
        """Target voxel size: nothing finer than `coarser` times the finest axis of the patch."""
        finest = min(self.spacing_mm[axis] for axis in self.plane) * coarser
        return tuple(max(mm, finest) if axis in self.plane else mm for axis, mm in enumerate(self.spacing_mm))


@dataclass(frozen=True)
class Choice:
    """What is varied until memory and time suffice."""

    patch_voxels: float
    """Voxels of the patch at the scans' own spacing; coarser ones span the same millimetres."""
    coarser: float = 1.0
    batch_share: float = 1.0


def make_plan(
    dataset: Dataset,
    fingerprint: Fingerprint,
    demand: Demand,
    *,
    network: str | None = None,
    settings: Mapping[str, Any] | None = None,
    memory_gib: float | None = None,
    minutes: float | None = None,
    iterations: int | None = None,
    device: str = "cpu",
    autocast: torch.dtype | None = None,
    flop_per_s: float | None = None,
) -> Plan:
    """The plan for a method that needs `demand`, from the training scans of `fingerprint`.

    `network`: a registered name; None takes V-Net in 3-D and U-Net in 2-D. `settings`: the network's that are not to be
    chosen here, as patch and memory depend on them. `memory_gib`: None takes most of what is
    free. `minutes`: time for training; where fewer than `iterations` steps (None: `ENOUGH_STEPS`) fit, the batch is
    halved, then the scans are made coarser, and `Plan.notes` says so. `autocast`, `flop_per_s`: as in `cost.estimate`.
    Raises ResourceError where not even a small patch fits in memory, DataError where pictures and volumes are mixed.
    """
    body = median_body(dataset, fingerprint)
    slices = body.dimensions == 3 and network is not None and 3 not in find_network(network).dimensionalities
    if slices:
        body = body.sliced()
    drafting = Drafting(
        body=body,
        demand=demand,
        normalisation=normalisation(fingerprint),
        modalities=modalities(fingerprint),
        classes=dataset.labels.count,
        network=network or {2: "unet", 3: "vnet"}[body.dimensions],
        given=dict(settings or {}),
        device=device,
        precision=autocast or cost.auto_precision(device),
        limit_gib=memory_gib if memory_gib is not None else free_memory_gib(device),
    )
    largest = PATCH_VOXELS.get((device, body.dimensions), PATCH_VOXELS["cpu", body.dimensions])
    first = Choice(min(largest, prod(body.shape[axis] for axis in body.plane)))
    plan = usual = drafting.fit(first)
    notes = [describe(body, plan)]
    if slices:
        notes.append(f"network '{network}' reads slices only, those across the coarsest axis of the scans")
    if usual != drafting.plan(first):
        notes.append(f"patch or batch are smaller than usual, to fit in {drafting.limit_gib:.1f} GiB of memory")
    if minutes is not None:
        speed = flop_per_s or drafting.throughput(plan)
        wanted = iterations or ENOUGH_STEPS
        at_usual = drafting.steps(plan, minutes, speed)
        for choice in cheaper(first):
            if drafting.steps(plan, minutes, speed) >= wanted:
                break
            plan = drafting.fit(choice)
        steps = drafting.steps(plan, minutes, speed)
        notes += explain_time(usual, plan, at_usual, minutes)
        notes.append(f"about {steps} steps fit in {minutes:g} minutes{' (few: give more)' * (steps < wanted)}")
    return plan.model_copy(update={"notes": tuple(notes)})


def cheaper(first: Choice) -> Iterator[Choice]:
    """Choices whose steps take less and less time."""
    yield replace(first, batch_share=0.5)
    for factor in COARSER:
        yield replace(first, batch_share=0.5, coarser=factor)


@dataclass(frozen=True)
class Drafting:
    """All that does not vary while a plan is sought."""

    body: Body
    demand: Demand
    normalisation: tuple[Normalisation, ...]
    modalities: dict[str, tuple[Normalisation, ...]]
    """Those that are normalised otherwise."""
    classes: int
    network: str
    given: dict[str, Any]
    """Settings of the network that are decided already."""
    device: str
    precision: torch.dtype
    limit_gib: float

    def plan(self, choice: Choice) -> Plan:
        """The plan that `choice` leads to."""
        body = self.body
        spacing = body.spacing(choice.coarser)
        ratios = [new / own for new, own in zip(spacing, body.spacing_mm, strict=True)]
        shape = [body.shape[axis] / ratios[axis] for axis in body.plane]
        target = tuple(spacing[axis] for axis in body.plane)
        if body.is_picture:
            # Pictures keep their pixels, which are all the scale they have: only the patch becomes smaller.
            shape, target = [body.shape[axis] for axis in body.plane], (1.0,) * body.dimensions
        patch = self.aligned(patch_size(shape, target, choice.patch_voxels / prod(ratios)), target)
        return Plan(
            preparation=self.preparation(spacing),
            patch=patch,
            slice_axis=body.slice_axis,
            batch=batch_size(patch, self.demand, choice.batch_share),
            network=NetworkChoice(name=self.network, settings=self.settings(patch, target)),
            metric_unit="voxel" if body.is_picture else "mm",
        )

    def preparation(self, spacing: Sequence[float]) -> Preparation:
        body = self.body
        if body.is_picture:
            return Preparation(resample="none", normalisation=self.normalisation, modalities=self.modalities)
        x, y, z = (round(mm, 4) if axis in body.plane else None for axis, mm in enumerate(spacing))
        thick = max(spacing) / min(spacing) > THICK
        return Preparation(
            slices_last=body.slices_last,
            spacing_mm=(x, y, z),
            coarse_axis=int(np.argmax(spacing)) if thick else None,
            normalisation=self.normalisation,
            modalities=self.modalities,
        )

    def settings(self, patch: tuple[int, ...], spacing_mm: tuple[float, ...]) -> dict[str, Any]:
        """The network's settings for this patch, as far as they differ from its defaults or are given."""
        if self.network.startswith(MONAI):
            return self.given
        planned = network_settings(self.network, len(patch), self.given, patch, spacing_mm)
        return planned.model_dump(mode="json", exclude_defaults=True) | self.given

    def aligned(self, patch: tuple[int, ...], spacing_mm: tuple[float, ...]) -> tuple[int, ...]:
        """The patch in multiples of what the network divides it by."""
        name, settings = self.network, self.settings(patch, spacing_mm)
        divisor = cost.weightless(name, settings, patch, len(self.normalisation), self.classes).divisor
        return tuple(max(1, nearest(size / unit)) * unit for size, unit in zip(patch, divisor, strict=True))

    def fit(self, choice: Choice) -> Plan:
        """The plan of `choice`, with a smaller batch, then a smaller patch, until it fits in memory."""
        plan = self.plan(choice)
        while self.peak_gib(plan) > self.limit_gib:
            if choice.patch_voxels < SMALLEST_PATCH[plan.dimensions]:
                raise ResourceError(
                    f"training needs {self.peak_gib(plan):.1f} GiB of memory even with a patch of {times(plan.patch)},"
                    f" and {self.limit_gib:.1f} GiB may be used; free memory, or choose another method or network"
                )
            if choice.batch_share == 1.0:
                choice = replace(choice, batch_share=0.5)
            else:
                choice = replace(choice, patch_voxels=choice.patch_voxels * 0.8)
            plan = self.plan(choice)
        return plan

    def peak_gib(self, plan: Plan) -> float:
        channels = len(self.normalisation)
        passing = cost.forward(plan, channels, self.classes, self.precision, self.demand.companions)
        return cost.peak_bytes(plan, self.demand, channels, self.classes, passing, self.device, self.precision) / GIB

    def throughput(self, plan: Plan) -> float:
        return cost.throughput(plan, len(self.normalisation), self.classes, self.device, self.precision)

    def steps(self, plan: Plan, minutes: float, flop_per_s: float) -> int:
        """Optimiser steps that fit in `minutes`."""
        passing = cost.forward(plan, len(self.normalisation), self.classes, self.precision, self.demand.companions)
        return int(minutes * 60 * flop_per_s / (cost.step_flop(plan, self.demand, passing) * cost.OVERHEAD))


def median_body(dataset: Dataset, fingerprint: Fingerprint) -> Body:
    """Size and spacing of the median training scan, and whether it is read whole or slice by slice.

    Slice by slice: pictures; scans of few slices that are much thicker than their pixels are wide; very flat ones.
    Thick slices are each scan's own, in whatever plane they were taken: short-axis stacks of the heart lie otherwise in
    every patient.
    """
    scans = fingerprint.training
    pictures = [scan for scan in scans if scan.is_picture]
    if pictures and len(pictures) < len(scans):
        volume = next(scan for scan in scans if not scan.is_picture)
        raise DataError(
            f"{dataset.name}: case {pictures[0].case} is a picture and case {volume.case} a volume; make two data sets"
        )
    if pictures:
        return replace(_median(scans), is_picture=True, dimensions=2)
    stack = _median([scan.arranged(slices_last=True) for scan in scans])
    if max(stack.spacing_mm) == stack.spacing_mm[2] > THICK * min(stack.spacing_mm) and stack.shape[2] < FEW_SLICES:
        return replace(stack, dimensions=2, slices_last=True)
    body = _median(scans)
    flat = int(np.argmin(body.shape))
    return replace(body, dimensions=2, slice_axis=flat) if body.shape[flat] < FLAT else body


def _median(scans: Sequence[Scan]) -> Body:
    """The median scan, with axes as `scans` have them, as one volume."""
    spacing = np.median([scan.spacing_mm for scan in scans], axis=0)
    shape = np.median([np.multiply(scan.body, scan.spacing_mm) for scan in scans], axis=0) / spacing
    return Body(tuple(map(float, shape)), tuple(map(float, spacing)), is_picture=False, dimensions=3, slice_axis=2)


def normalisation(fingerprint: Fingerprint) -> tuple[Normalisation, ...]:
    """That of the only modality; where there are several, what those get that need none of their own: scan by scan.

    Scans of the test cases count here, by the names of their channels: they may be of a modality that is never seen.
    """
    if len({scan.channels for scan in fingerprint.scans}) == 1:
        return suited(fingerprint.modalities[0])
    return (Normalisation(kind="zscore"),) * len(fingerprint.channels)


def modalities(fingerprint: Fingerprint) -> dict[str, tuple[Normalisation, ...]]:
    """The modalities that need a normalisation of their own beside `normalisation`."""
    own = {modality.name: suited(modality) for modality in fingerprint.modalities}
    return {name: channels for name, channels in own.items() if channels != normalisation(fingerprint)}


def suited(modality: Modality) -> tuple[Normalisation, ...]:
    """A channel named CT holds Hounsfield units, the same in all scans; every other is normalised scan by scan."""
    return tuple(
        ct(intensity) if name == "CT" else Normalisation(kind="zscore")
        for name, intensity in zip(modality.channels, modality.intensities, strict=True)
    )


def ct(body: Intensity) -> Normalisation:
    """Clipped to the percentiles of the body, then scaled by its mean and deviation; no label is needed for that."""
    return Normalisation(
        kind="ct",
        low=round(body.low, 2),
        high=round(body.high, 2),
        mean=round(body.mean, 2),
        deviation=round(body.deviation, 2),
    )


def patch_size(shape: Sequence[float], spacing_mm: Sequence[float], voxels: float) -> tuple[int, ...]:
    """A patch of about `voxels` voxels, as near a cube in mm as the median scan of `shape` allows.

    Where the whole scan fits, the patch holds it all; else an axis never exceeds the scan. Sizes are multiples of 16,
    small ones of 8, for the network's halvings.

    >>> patch_size((193, 143, 88), (0.625,) * 3, 112 * 112 * 80), patch_size((36, 50, 36), (1.0,) * 3, 112 * 112 * 80)
    ((112, 112, 80), (40, 56, 40))
    """
    if prod(shape) <= voxels:
        return tuple(ceil(size / multiple(size)) * multiple(size) for size in shape)
    sizes = [0.0] * len(shape)
    free = set(range(len(shape)))
    while True:
        rest = voxels / prod(size for axis, size in enumerate(sizes) if axis not in free)
        edge_mm = (rest * prod(spacing_mm[axis] for axis in free)) ** (1 / len(free))
        full = {axis for axis in free if edge_mm / spacing_mm[axis] > shape[axis]}
        for axis in full or free:
            sizes[axis] = shape[axis] if full else edge_mm / spacing_mm[axis]
        if not full:
            return tuple(max(1, nearest(size / multiple(size))) * multiple(size) for size in sizes)
        free -= full


def multiple(size: float) -> int:
    return 16 if size >= 60 else 8


def nearest(number: float) -> int:
    """The nearest whole number, the lower one of two: a patch rather too small than padded."""
    return ceil(number - 0.5)


def batch_size(patch: tuple[int, ...], demand: Demand, share: float) -> BatchSize:
    """Samples of each stream: 12 slices of 256x256 or less, 2 volumes of 56x56x40 or more."""
    if len(patch) == 3:
        usual = min(2 * ceil(SMALL_PATCH_3D / prod(patch)), 8)
        least = 2
    else:
        usual = min(2 * round(6 * 256**2 / prod(patch)), 12)
        least = 4
    views = demand.views
    count = max(least, 2 * round(usual * share / 2)) // views.clip
    labelled, unlabelled = (
        max(count // multiple * multiple, multiple) for multiple in (views.labelled_multiple, views.unlabelled_multiple)
    )
    return BatchSize(labelled=labelled, unlabelled=unlabelled)


def free_memory_gib(device: str) -> float:
    """What a plan may fill where nothing is said."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] / GIB * MEMORY_SHARE["cuda"]
    return psutil.virtual_memory().available / GIB * MEMORY_SHARE["cpu"]


def installed_memory_gib(device: str) -> float:
    """What there is in all, however much of it is in use now."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[1] / GIB
    return psutil.virtual_memory().total / GIB


def describe(body: Body, plan: Plan) -> str:
    """What the scans are like, and how they are read."""
    size = times(round(length) for length in body.shape)
    if body.is_picture:
        return f"2-D: pictures, the median one has {times(round(length) for length in body.shape[:2])} pixels"
    voxel = times(f"{mm:.3g}" for mm in body.spacing_mm)
    if plan.dimensions == 3:
        return f"3-D: the median scan has {size} voxels of {voxel} mm"
    across = "" if body.slices_last else f" across axis {plan.slice_axis}"
    return f"2-D, slice by slice{across}: the median scan has {size} voxels of {voxel} mm"


def explain_time(usual: Plan, plan: Plan, at_usual: int, minutes: float) -> list[str]:
    """Why the plan is not the usual one, for lack of time."""
    reason = f"as usual, {at_usual} steps would fit in {minutes:g} minutes"
    if plan.preparation != usual.preparation:
        new, own = (min(mm for mm in p.preparation.spacing_mm or () if mm is not None) for p in (plan, usual))
        return [
            f"{new:.3g} mm instead of {own:.3g} mm, patch {times(plan.patch)} instead of {times(usual.patch)}: {reason}"
        ]
    if plan.patch != usual.patch:
        return [f"patch {times(plan.patch)} instead of {times(usual.patch)}: {reason}"]
    if plan.batch != usual.batch:
        return [f"batch {plan.batch.labelled} instead of {usual.batch.labelled} per stream: {reason}"]
    return []


def times(sizes: Iterable[object]) -> str:
    return "x".join(str(size) for size in sizes)
