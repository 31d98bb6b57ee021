"""Boxes and the mixing of samples: CutMix and bidirectional copy-paste.

Masks are (B, *space) bool, True inside the box. Mix images, labels and confidences with the same mask.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from semivox.sampling.draws import generator

Share = float | tuple[float, float] | Callable[[np.random.Generator], float]
"""A box's share of the volume: fixed, drawn evenly between two bounds, or by a function of the sample's generator, as
`lambda random: 1 - random.beta(4, 4)`."""


def boxes(
    space: Sequence[int],
    seeds: Sequence[int],
    share: Share = (0.02, 0.4),
    stretch: float = 3.0,
    draw: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """One random box per sample: (B, *space) bool, a function of (seed, draw) for each sample.

    share: the box's share of the volume, up to the rounding to voxels; 0 gives an empty mask.
    stretch: how often the longest side is at most the shortest, both relative to the volume's (1: its own shape); sides
        are drawn evenly in their logarithm.
    draw: numbers further boxes of the same samples.
    The defaults are UniMatch's CutMix (Yang et al., CVPR 2023), here in 2-D and 3-D.
    """
    sizes = np.array(space)
    randoms = [generator(seed, "box", draw) for seed in seeds]
    sides = [_sides(random, sizes, _draw_share(random, share), stretch) for random in randoms]
    return _placed(sizes, sides, randoms, device)


def similar_boxes(
    space: Sequence[int],
    seeds: Sequence[int],
    side: float,
    draw: int = 0,
    device: torch.device | str = "cpu",
    far_border: bool = True,
) -> Tensor:
    """One box per sample at a random place: (B, *space) bool. Each side is `side` of the volume's, rounded down.

    Bidirectional copy-paste (Bai et al., CVPR 2023): 2/3, which is 74 x 74 x 53 of 112 x 112 x 80.
    far_border: whether a box may reach the last voxel of an axis; VerSemi's do not.
    """
    sizes = np.array(space)
    sides = np.maximum((sizes * side).astype(int), 1)
    randoms = [generator(seed, "box", draw) for seed in seeds]
    return _placed(sizes, [sides] * len(seeds), randoms, device, far_border)


def partners(count: int, clip: int = 1, device: torch.device | str = "cpu") -> Tensor:
    """Whom each of `count` samples is mixed with: its neighbour (0 ↔ 1, 2 ↔ 3, ...), slice for slice of a clip.

    The last three of an odd number go round; one alone is its own partner. Neighbours lie on one rank whatever the
    number of ranks, as long as each has an even number of samples.
    """
    places = count // clip
    order = np.arange(places) ^ 1
    if places % 2:
        order[-3:] = np.roll(np.arange(places)[-3:], -1)
    slices = order[:, None] * clip + np.arange(clip)[None]
    return torch.from_numpy(slices.ravel()).to(device)


def cutmix(maps: Tensor, partners: Tensor, mask: Tensor) -> Tensor:
    """Each sample with its partner's box pasted in: partner inside the mask, itself outside.

    `maps` (B, [C,] *space) of any type, `partners` (B,), `mask` (B, *space). Yun et al., ICCV 2019.
    """
    return torch.where(_over(mask, maps), maps[partners], maps)


def copy_paste(first: Tensor, second: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Bidirectional copy-paste: `first` with `second` inside the mask, and `second` with `first` inside the mask.

    Maps (B, [C,] *space) of any type, mask (B, *space). Bai et al., CVPR 2023, with `similar_boxes`.
    """
    mask = _over(mask, first)
    return torch.where(mask, second, first), torch.where(mask, first, second)


def mixing_shares(seeds: Sequence[int], concentration: float, device: torch.device | str = "cpu") -> Tensor:
    """m ~ Beta(a, a) with a = `concentration`, one number for each seed: (B,) float32. Small a: near 0 or 1."""
    draws = [generator(seed, "mixup").beta(concentration, concentration) for seed in seeds]
    return torch.tensor(draws, dtype=torch.float32, device=device)


def mixup(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """(1 - m) first + m second: maps (B, C, *space), m = `share` (B,). Zhang et al., ICLR 2018."""
    return first + share.view(-1, *[1] * (first.dim() - 1)).to(first) * (second - first)


def _placed(
    sizes: np.ndarray,
    sides: Sequence[np.ndarray],
    randoms: Sequence[np.random.Generator],
    device: torch.device | str,
    far_border: bool = True,
) -> Tensor:
    """Boxes of these sides, each anywhere within a volume of `sizes`: (B, *sizes) bool."""
    places = [np.maximum(sizes - own + far_border, 1) for own in sides]
    starts = np.stack([random.integers(0, count) for random, count in zip(randoms, places, strict=True)])
    stops = starts + np.stack(sides)
    mask = torch.ones(len(sides), *sizes, dtype=torch.bool, device=device)
    for axis, size in enumerate(sizes):
        place = torch.arange(size, device=device)
        low, high = (torch.from_numpy(bound[:, axis]).to(device)[:, None] for bound in (starts, stops))
        within = (place >= low) & (place < high)
        mask &= within.view(len(sides), *(size if other == axis else 1 for other in range(len(sizes))))
    return mask


def _over(mask: Tensor, maps: Tensor) -> Tensor:
    return mask if mask.dim() == maps.dim() else mask[:, None]


def _draw_share(random: np.random.Generator, share: Share) -> float:
    if callable(share):
        return share(random)
    if isinstance(share, tuple):
        return random.uniform(*share)
    return share


def _sides(random: np.random.Generator, sizes: np.ndarray, share: float, stretch: float) -> np.ndarray:
    """Sides in voxels of a box that fills `share` of a volume of `sizes`."""
    if share <= 0:
        return np.zeros_like(sizes)
    room = -np.log(min(share, 1.0)) / len(sizes)
    bend = random.uniform(-0.5, 0.5, len(sizes)) * np.log(stretch)
    bend -= bend.mean()
    # A side longer than the volume would lose its share of it: bend less.
    bend *= min(1.0, room / bend.max()) if bend.max() > 0 else 1.0
    return np.clip(np.rint(sizes * np.exp(bend - room)), 1, sizes).astype(int)
