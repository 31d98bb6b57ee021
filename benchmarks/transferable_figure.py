"""Draws docs/figures/transferable-bound.svg: the expected cross-entropy of augmented features, sampled, and its bound.

Four classes and sixteen features, as in a 2-D network's last map, with made-up class means, shifts, covariances and
classifier; fixed seeds, so that the same versions give the same picture.

    python -m benchmarks.transferable_figure
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from semivox.atomic import atomic_write_text
from semivox.losses.transferable import augmentation_table, sampled_cross_entropy
from semivox.methods.transferable_augmentation import TransferableSettings

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "figures" / "transferable-bound.svg"
CLASSES, WIDTH = 4, 16
VOXELS = 200
DRAWS = 50_000
STRENGTHS = torch.logspace(-2.5, 0, 11).tolist()


@dataclass(frozen=True)
class Scene:
    """Voxels' features (N, A) and labels (N,), a classifier (K, A) and (K,), shifts (K, A), covariances (K, A, A)."""

    features: Tensor
    label: Tensor
    weights: Tensor
    bias: Tensor
    shift: Tensor
    covariance: Tensor

    @property
    def is_right(self) -> Tensor:
        """(N,) bool: voxels that the classifier gives their own class."""
        return (self.features @ self.weights.T + self.bias).argmax(1) == self.label

    def bound(self, strength: float) -> Tensor:
        """What the loss is, per voxel (N,)."""
        table = augmentation_table(self.weights, self.shift, self.covariance, strength)
        logits = self.features @ self.weights.T + self.bias + table[self.label]
        return F.cross_entropy(logits, self.label, reduction="none")

    def sampled(self, strength: float) -> Tensor:
        """What it stands for, from draws, per voxel (N,)."""
        parts = (self.features, self.label, self.weights, self.bias, self.shift, self.covariance)
        return sampled_cross_entropy(*parts, strength, DRAWS, torch.Generator().manual_seed(1))

    def slope(self) -> Tensor:
        """½ gᵀ Σ g, the limit of (bound - expectation) / α per voxel (N,); g: gradient of the loss by the feature."""
        share = (self.features @ self.weights.T + self.bias).softmax(1)
        gradient = share @ self.weights - self.weights[self.label]
        return 0.5 * torch.einsum("na,nab,nb->n", gradient, self.covariance[self.label], gradient)


def scene() -> Scene:
    """Features about class means towards which the classifier points; most voxels are classified rightly."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = 0.5 * normal(CLASSES, WIDTH)
    label = torch.arange(VOXELS) % CLASSES
    root = normal(CLASSES, WIDTH, WIDTH) / WIDTH**0.5
    covariance = root @ root.transpose(1, 2)
    spread = torch.einsum("nab,nb->na", root[label], normal(VOXELS, WIDTH))
    features = weights[label] + spread
    return Scene(features, label, weights, torch.zeros_like(weights[:, 0]), 0.3 * normal(CLASSES, WIDTH), covariance)


# Drawing -------------------------------------------------------------------------------------------------------------

BLUE, ORANGE, GREEN, GREY, PALE, INK = "#2563a8", "#c2571a", "#2e7d4f", "#777d86", "#e3e5e8", "#333"
WIDE, HIGH = 300, 200
"""Size of a panel without its texts."""
TOP, BOTTOM = 46, 46
LEFTS = (46, 436)


@dataclass(frozen=True)
class Panel:
    """A chart over α, whose axis is logarithmic, at `left`; values at `ticks` have grid lines and span it."""

    left: float
    title: str
    ticks: Sequence[float]
    is_log: bool = False

    def x(self, strength: float) -> float:
        low, high = math.log(STRENGTHS[0]) - 0.2, math.log(STRENGTHS[-1]) + 0.2
        return self.left + WIDE * (math.log(strength) - low) / (high - low)

    def y(self, value: float) -> float:
        low, high, at = (math.log(v) if self.is_log else v for v in (self.ticks[0], self.ticks[-1], value))
        return TOP + HIGH * (high - at) / (high - low)

    def frame(self) -> list[str]:
        """Title, axes, grid lines and the default strength."""
        right, bottom, default = self.left + WIDE, TOP + HIGH, TransferableSettings().strength
        return [
            text(self.left, TOP - 20, self.title, "start", weight=600),
            *(line(self.left, self.y(value), right, self.y(value), PALE) for value in self.ticks),
            *(text(self.left - 7, self.y(value) + 4, f"{value:g}", "end") for value in self.ticks),
            line(self.x(default), TOP, self.x(default), bottom, GREY, dashes="2 3"),
            text(self.x(default), TOP - 5, f"default {default:g}", colour=GREY),
            line(self.left, bottom, right, bottom, GREY),
            *(line(self.x(strength), bottom, self.x(strength), bottom + 4, GREY) for strength in (0.01, 0.1, 1)),
            *(text(self.x(strength), bottom + 17, f"{strength:g}") for strength in (0.01, 0.1, 1)),
            text(self.left + WIDE / 2, bottom + 36, "strength α"),
        ]

    def curve(self, values: Sequence[float], colour: str) -> str:
        points = " ".join(f"{self.x(a):.1f},{self.y(v):.1f}" for a, v in zip(STRENGTHS, values, strict=True))
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'

    def dots(self, values: Sequence[float], colour: str) -> list[str]:
        places = [(self.x(a), self.y(v)) for a, v in zip(STRENGTHS, values, strict=True)]
        return [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}"/>' for x, y in places]

    def level(self, value: float, colour: str) -> str:
        return line(self.left, self.y(value), self.left + WIDE, self.y(value), colour, dashes="6 4")

    def label(self, strength: float, value: float, words: str, colour: str, anchor: str = "start") -> str:
        return text(self.x(strength), self.y(value), words, anchor, colour)


def line(x1: float, y1: float, x2: float, y2: float, colour: str, dashes: str = "none") -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-dasharray="{dashes}"/>'


def text(x: float, y: float, words: str, anchor: str = "middle", colour: str = INK, weight: int = 400) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}">{words}</text>'


def picture() -> str:
    """Both panels as SVG: the two losses, and what lies between them."""
    ours = scene()
    bounds, sampled = ([part(strength) for strength in STRENGTHS] for part in (ours.bound, ours.sampled))
    gaps = [(b - s) / strength for b, s, strength in zip(bounds, sampled, STRENGTHS, strict=True)]
    means = [[float(values.mean()) for values in each] for each in (bounds, sampled)]
    plain = float(ours.bound(0.0).mean())

    losses = Panel(LEFTS[0], f"Mean loss of {VOXELS} voxels", (0, 0.5, 1, 1.5, 2, 2.5, 3))
    parts = [
        *losses.frame(),
        losses.level(plain, GREY),
        losses.label(STRENGTHS[0], plain - 0.2, "plain cross-entropy", GREY),
        losses.curve(means[0], BLUE),
        losses.label(0.2, 1.25, "bound: the loss", BLUE, "end"),
        *losses.dots(means[1], ORANGE),
        losses.label(0.2, 0.72, f"{DRAWS:,} draws", ORANGE, "end"),
    ]
    ratios = Panel(LEFTS[1], "(bound − expectation) / α", (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10), is_log=True)
    parts += ratios.frame()
    for chosen, colour, words, place in (
        (~ours.is_right, GREEN, "misclassified voxels", 6.0),
        (ours.is_right, BLUE, "rightly classified voxels", 0.25),
    ):
        limit = float(ours.slope()[chosen].mean())
        values = [float(gap[chosen].mean()) for gap in gaps]
        parts += [ratios.level(limit, colour), *ratios.dots(values, colour)]
        parts.append(ratios.label(STRENGTHS[0], place, f"{int(chosen.sum())} {words}", colour))
    parts.append(ratios.label(STRENGTHS[0], 0.062, "dashed: the limit ½ gᵀΣg", GREY))
    width, height = LEFTS[1] + WIDE + 14, TOP + HIGH + BOTTOM
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            ' font-family="system-ui, sans-serif" font-size="12.5">',
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    atomic_write_text(PICTURE, picture())
