"""What a method needs, in plain numbers, so that planning need not know any method."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KINDS = ("plain", "weak", "noisy", "strong")
"""`plain`: the crop as it is. `weak`: flips, turns and small affine changes. `noisy`: the weak view plus clipped
Gaussian noise. `strong`: the weak view plus strong intensity changes. All views of a sample share one geometry."""

DECODER_PASS, DECODER_WEIGHTS = 0.8, 0.3
"""A decoder in units of a network. Of a pass: U-Net 0.6 of its operations, V-Net 1.2, of what both keep about 0.6. Of
the weights: 0.3 to 0.4."""


@dataclass(frozen=True)
class Views:
    """Views per stream, in the order in which `Stream.views` holds them. Nothing else is made.

    `unlabelled_batches`: how many unlabelled batches of the plan's size one step sees (FixMatch-like ratios).
    `clip`: adjacent slices per sample that share one draw (2-D only); flattened into the batch axis.
    """

    labelled: tuple[str, ...] = ("weak",)
    unlabelled: tuple[str, ...] = ()
    unlabelled_batches: int = 1
    clip: int = 1
    signed_distance: bool = False
    """Whether `Stream.signed_distance` is made of the labelled stream's labels."""
    labelled_multiple: int = 1
    """Each device gets a multiple of so many labelled samples: 2 where neighbours are mixed with one another."""
    unlabelled_multiple: int = 1
    """The same of unlabelled samples."""

    def __post_init__(self) -> None:
        for kind in (*self.labelled, *self.unlabelled):
            if kind not in KINDS:
                raise ValueError(f"unknown view '{kind}'; there are {KINDS}")


@dataclass(frozen=True)
class Companion:
    """A trained network of another kind beside the plan's, by its name and settings."""

    name: str
    settings: Mapping[str, Any]
    cost: float
    """Of a pass, in units of the plan's network's, as far as that can be said without a plan."""
    labelled_forwards: float = 1
    """Kept forwards of each labelled sample."""
    unlabelled_forwards: float = 1
    """Of each unlabelled one."""
    averages: int = 0
    """Averaged copies."""


@dataclass(frozen=True)
class Demand:
    """Counts per step, in units of one network and one sample; a part of a network counts as its share.

    A *kept* forward is one whose activations stay until the backward pass. `labelled_forwards` kept forwards of each
    labelled sample, `unlabelled_forwards` kept forwards of each unlabelled sample, `teacher_forwards` forwards without
    gradient of each unlabelled sample.
    """

    views: Views = Views()
    networks: float = 1
    """Trained copies of the network (weights, gradients, optimiser state)."""
    averages: float = 0
    """Averaged or frozen copies (weights only)."""
    labelled_forwards: float = 1
    unlabelled_forwards: float = 0
    teacher_forwards: float = 0
    taught_at_once: float = 1
    """Those forwards without gradient of an unlabelled sample that are one batch, where nothing else is kept."""
    parts: int = 1
    """Equal parts in which a step's terms are computed and back-propagated, one after the other (`Method.parts`): so
    many times less is kept at once."""
    companions: tuple[Companion, ...] = ()
    """They come on top of all the other counts."""

    @property
    def relative_cost(self) -> float:
        """A step's arithmetic in units of labelled-only training on the labelled batch, both streams of one size.

        The floor of what the formula needs: a pass with its backward pass counts three, one without gradient one.
        """
        beside = sum(other.cost * other.unlabelled_forwards for other in self.companions)
        unlabelled = self.unlabelled_forwards + self.teacher_forwards / 3 + beside
        return self.labelled_cost + unlabelled * self.views.unlabelled_batches

    @property
    def labelled_cost(self) -> float:
        """The same of a step that sees the labelled stream alone."""
        return self.labelled_forwards + sum(other.cost * other.labelled_forwards for other in self.companions)
