"""What a method sees at one step, and what the loader hands over to make it of.

Tensors are (batch, channel, *space), space in RAS axis order.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semivox.sampling.geometry import Geometry


@dataclass
class Stream:
    """The labelled or the unlabelled samples of one step; B samples, all on the training device.

    An unlabelled stream has `label` None whatever lies on disk. The slices of a clip follow one another in B and share
    case, seed and geometry.
    """

    views: tuple[Tensor, ...]
    """Images (B, C, *space), float32, in the order that `Views` declares. Equal views are one tensor: change none in
    place."""
    label: Tensor | None
    """Class indices (B, *space), int64, `IGNORE` where unknown and on padding."""
    valid: Tensor
    """(B, *space) bool, False on padding outside the scan."""
    case: tuple[str, ...]
    domain: tuple[str, ...]
    task: tuple[str, ...]
    known: Tensor
    """(B, K) bool: classes that the sample's task annotates (see `Dataset.known_classes`)."""
    seeds: tuple[int, ...]
    """One seed per sample, a function of (run seed, step, place in the global batch): for boxes, mixing, noise."""
    geometry: Geometry
    """What the weak view drew: `apply` replays it on another map, `undo` takes it back. `label`, `valid`, `pseudo` and
    every view but `plain` have it; it is the identity where all views are plain."""
    pseudo: Tensor | None = None
    """Pseudo-labels (B, *space) stored by an earlier stage, int64, `IGNORE` where none."""
    signed_distance: Tensor | None = None
    """Signed distance maps (B, K - 1, *space) float32 of the label's foreground classes, where `Views` asks for them;
    see `sampling.signed_distance`."""
    clip: Tensor | None = None
    """(B,) int64, for a 2-D plan: the clip (of this batch) that a slice belongs to."""
    slice_index: Tensor | None = None
    """(B,) int64, for a 2-D plan: the slice's place along the plan's slice axis in the prepared scan."""

    @property
    def image(self) -> Tensor:
        """The first view."""
        return self.views[0]

    def __len__(self) -> int:
        return len(self.case)

    def __getitem__(self, rows: slice) -> "Stream":
        """Some of the samples as a stream of their own, e.g. every other one."""
        parts: dict[str, Any] = vars(self) | {"views": tuple(view[rows] for view in self.views)}
        return Stream(**{name: part if part is None or name == "views" else part[rows] for name, part in parts.items()})


@dataclass
class Batch:
    """`labelled` and `unlabelled` streams; `unlabelled` is None where the method declares no unlabelled view (its type
    does not say so: a method knows what it declared)."""

    labelled: Stream
    unlabelled: Stream = None  # type: ignore[assignment]
    step: int = 0

    @property
    def device(self) -> torch.device:
        return self.labelled.image.device


@dataclass(frozen=True)
class RawStream:
    """Crops of one stream as they lie in the store, on the CPU, with all that was drawn for them.

    Crops differ in size (a rotated sample has a margin), so they lie one after another in one flat tensor.
    """

    image: Tensor
    """float32, all crops (C, *space) one after another."""
    label: Tensor | None
    """uint8, all crops (*space) one after another, `IGNORE` on padding."""
    pseudo: Tensor | None
    """As `label`."""
    channels: int
    shapes: tuple[tuple[int, ...], ...]
    """Per sample the size of its crop: the patch and the geometry's margin."""
    inside: np.ndarray
    """(B, 2, D) int: first and one past the last voxel of the crop that lie in the scan."""
    geometry: Geometry
    case: tuple[str, ...]
    domain: tuple[str, ...]
    task: tuple[str, ...]
    known: np.ndarray
    seeds: tuple[int, ...]
    clip: np.ndarray | None
    slice_index: np.ndarray | None
    fine_axes: tuple[int, ...]
    """Axes of the patch without the plan's coarse one: what may be rotated, blurred, seen at low resolution."""
    signed_distance: Tensor | None = None
    """As in `Stream`: made of the moved label where the crops are read, so that a step does not wait for it."""

    def crops(self, flat: Tensor, channels: int | None = None) -> Iterator[Tensor]:
        """Views of `flat` (image, label or pseudo, on any device), one per sample: ([channels,] *space)."""
        start = 0
        for shape in self.shapes:
            full = shape if channels is None else (channels, *shape)
            size = int(np.prod(full))
            yield flat[start : start + size].view(full)
            start += size

    def pin_memory(self) -> "RawStream":
        """The same in page-locked memory."""
        flat = {name: getattr(self, name) for name in ("image", "label", "pseudo", "signed_distance")}
        return replace(self, **{name: tensor.pin_memory() for name, tensor in flat.items() if tensor is not None})


@dataclass(frozen=True)
class RawBatch:
    """What one rank needs for one step, before any view is made; passes between processes as a few flat tensors."""

    labelled: RawStream
    unlabelled: RawStream | None
    step: int

    def pin_memory(self) -> "RawBatch":
        """In page-locked memory, from where a GPU copies while it computes (a DataLoader calls this)."""
        unlabelled = self.unlabelled and self.unlabelled.pin_memory()
        return RawBatch(self.labelled.pin_memory(), unlabelled, self.step)
