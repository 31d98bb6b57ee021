"""What a method sees at one step. Tensors are (batch, channel, *space), space in RAS axis order."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from semivox.sampling.geometry import Geometry


@dataclass
class Stream:
    """The labelled or the unlabelled samples of one step; B samples, all on the training device.

    An unlabelled stream has `label` None whatever lies on disk.
    """

    views: tuple[Tensor, ...]
    """Images (B, C, *space) in the order that `Views` declares; all share the sample's geometry."""
    label: Tensor | None
    """Class indices (B, *space), int64, `IGNORE` where unknown."""
    valid: Tensor
    """(B, *space) bool, False on padding outside the scan."""
    case: tuple[str, ...]
    domain: tuple[str, ...]
    task: tuple[str, ...]
    known: Tensor
    """(B, K) bool: classes that the sample's task annotates (see `Dataset.known_classes`)."""
    seeds: tuple[int, ...]
    """One seed per sample, a function of (run seed, step, place in the global batch): for boxes, mixing, noise."""
    geometry: "Geometry"
    """What the weak view drew: `apply` replays it on another map, `undo` takes it back."""
    pseudo: Tensor | None = None
    """Pseudo-labels (B, *space) stored by an earlier stage, int64, `IGNORE` where none."""
    clip: Tensor | None = None
    slice_index: Tensor | None = None

    @property
    def image(self) -> Tensor:
        """The first view."""
        return self.views[0]

    def __len__(self) -> int:
        return len(self.case)


@dataclass
class Batch:
    """`labelled` and `unlabelled` streams; `unlabelled` is None where the method declares no unlabelled view."""

    labelled: Stream
    unlabelled: Stream | None = None
    step: int = 0
    extra: dict[str, Tensor] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.labelled.image.device
