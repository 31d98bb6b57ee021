"""Some voxels of each class, for losses that compare voxel with voxel and cannot take all."""

from collections.abc import Sequence

import torch
from torch import Tensor

from semivox.sampling.draws import normal


def voxels_of_classes(label: Tensor, classes: int, count: int, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Up to `count` different random voxels of every class in every sample, as places (B, K, N) in the flat space, and
    which of the places are drawn (B, K, N) bool, the others being of no meaning; N is `count`, or all voxels if fewer.

    label: (B, *space) class indices; others, such as `IGNORE`, are never drawn. A function of each sample's seed.
    """
    flat = label.flatten(1)
    keys = normal((flat.shape[1],), tuple(seeds), label.device)
    found = [keys.masked_fill(flat != index, -torch.inf).topk(min(count, flat.shape[1])) for index in range(classes)]
    places = torch.stack([each.indices for each in found], 1)
    drawn = torch.stack([each.values for each in found], 1).isfinite()
    return places, drawn
