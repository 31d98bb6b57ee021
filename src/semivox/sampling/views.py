"""From raw crops to the views a method declared, batched on the training device.

crop ─► plain                                   (as it is)
     └► geometry ─► weak ─┬► noisy              (clipped Gaussian noise)
                          └► strong             (a look, contrast, brightness, gamma, blur, low resolution, noise)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semivox.planning.demand import Views
from semivox.sampling.batch import Batch, RawBatch, RawStream, Stream
from semivox.sampling.draws import seed_of
from semivox.sampling.geometry import WeakSettings
from semivox.sampling.intensity import NoisySettings, StrongSettings, clipped_noise, strong
from semivox.sampling.mixing import partners
from semivox.sampling.style import StyleSettings, counterparts, styled
from semivox.settings import Part


class ViewSettings(Part):
    """How views are made; the same for every method unless a run says otherwise."""

    weak: WeakSettings = WeakSettings()
    noisy: NoisySettings = NoisySettings()
    strong: StrongSettings = StrongSettings()
    style: StyleSettings = StyleSettings()


@torch.no_grad()
def make_batch(raw: RawBatch, views: Views, device: torch.device | str, settings: ViewSettings) -> Batch:
    """The batch of one step on `device`. Everything random is a function of each sample's own seed."""
    device = torch.device(device)
    # Views are made in float32 also where the training step runs in half precision.
    with torch.autocast(device.type, enabled=False):
        labelled = _moved(raw.labelled, device)
        unlabelled = _moved(raw.unlabelled, device) if raw.unlabelled is not None else None
        look = _look(labelled, unlabelled, views.clip, settings.style)
        stream = _stream(labelled, views.labelled, look, settings)
        if unlabelled is None:
            return Batch(stream, step=raw.step)
        look = _look(unlabelled, labelled, views.clip, settings.style)
        return Batch(stream, _stream(unlabelled, views.unlabelled, look, settings), raw.step)


@dataclass(frozen=True)
class _Moved:
    """A stream's crops on the device, and what its geometry made of them: weak view, label, pseudo-label, valid."""

    raw: RawStream
    flat: Tensor
    weak: Tensor
    label: Tensor | None
    pseudo: Tensor | None
    valid: Tensor


Look = tuple[Tensor, Tensor] | None
"""Per sample an image (B, C, *space) whose look it may get, and which of its voxels are valid; None: looks are off."""


def _look(own: _Moved, other: _Moved | None, clip: int, settings: StyleSettings) -> Look:
    if not settings.is_on:
        return None
    if other is None:
        other, rows = own, partners(len(own.weak), clip)
    else:
        rows = counterparts(len(own.weak), len(other.weak), clip)
    rows = rows.to(own.weak.device)
    return other.weak[rows], other.valid[rows]


def _stream(moved: _Moved, kinds: Sequence[str], look: Look, settings: ViewSettings) -> Stream:
    raw, device = moved.raw, moved.weak.device

    def with_look(place: int) -> Tensor:
        """The weak view with, by chance, another's look."""
        if look is None:
            return moved.weak
        seeds = [seed_of(seed, "style", place) for seed in raw.seeds]
        return styled(moved.weak, moved.valid, *look, seeds, settings.style)

    is_alike = raw.label is not None and settings.style.labelled
    """Whether all views share one look."""
    weak = with_look(0) if is_alike else moved.weak
    views: list[Tensor] = []
    for place, kind in enumerate(kinds):
        if kind == "plain":
            views.append(_plain(raw, moved.flat))
        elif kind == "weak":
            views.append(weak)
        else:
            seeds = [seed_of(seed, kind, place) for seed in raw.seeds]
            # The slices of a clip share what is drawn, but not the noise.
            slices = [0] * len(seeds) if raw.slice_index is None else raw.slice_index.tolist()
            noise_seeds = [seed_of(seed, "noise", index % 2**32) for seed, index in zip(seeds, slices, strict=True)]
            if kind == "noisy":
                views.append(clipped_noise(weak, noise_seeds, settings.noisy.deviation, settings.noisy.limit))
            else:
                base = weak if is_alike else with_look(place)
                views.append(strong(base, seeds, noise_seeds, raw.fine_axes, settings.strong))
    return Stream(
        views=tuple(views),
        label=moved.label,
        valid=moved.valid,
        case=raw.case,
        domain=raw.domain,
        task=raw.task,
        known=torch.from_numpy(raw.known).to(device),
        seeds=raw.seeds,
        geometry=raw.geometry,
        pseudo=moved.pseudo,
        signed_distance=None if raw.signed_distance is None else raw.signed_distance.to(device, non_blocking=True),
        clip=None if raw.clip is None else torch.from_numpy(raw.clip).to(device),
        slice_index=None if raw.slice_index is None else torch.from_numpy(raw.slice_index).to(device),
    )


def _moved(raw: RawStream, device: torch.device) -> _Moved:
    """The stream's crops on `device`, all moved by one geometry."""
    image = raw.image.to(device, non_blocking=True)
    maps = [raw.crops(image, raw.channels)]
    maps += [raw.crops(flat.to(device, non_blocking=True)) for flat in (raw.label, raw.pseudo) if flat is not None]
    moved: list[list[Tensor]] = []
    valid = torch.ones(len(raw.case), *raw.geometry.patch, dtype=torch.bool, device=device)
    for row, crops in enumerate(zip(*maps, strict=True)):
        first, last = raw.inside[row]
        if (first == 0).all() and (last == raw.shapes[row]).all():
            moved.append(raw.geometry.take(row, *crops))
        else:
            inside = torch.zeros(raw.shapes[row], dtype=torch.bool, device=device)
            inside[tuple(map(slice, first, last))] = True
            *patches, valid[row] = raw.geometry.take(row, *crops, inside)
            moved.append(patches)
    weak, *labels = (torch.stack(patches) for patches in zip(*moved, strict=True))
    classes = iter(labels)
    label = None if raw.label is None else next(classes).long()
    pseudo = None if raw.pseudo is None else next(classes).long()
    return _Moved(raw, image, weak, label, pseudo, valid)


def _plain(raw: RawStream, image: Tensor) -> Tensor:
    """The patch in the middle of each crop, as it lies in the store."""
    patches = []
    for crop in raw.crops(image, raw.channels):
        middle = [(size - side) // 2 for size, side in zip(crop.shape[1:], raw.geometry.patch, strict=True)]
        patches.append(crop[:, *(slice(m, m + side) for m, side in zip(middle, raw.geometry.patch, strict=True))])
    return torch.stack(patches)
