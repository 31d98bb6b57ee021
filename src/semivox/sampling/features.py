"""Perturbations of features: a network's maps (B, C, *space), changed between `encode` and `decode` or before a head.

Each is a function of one seed per sample, so that two processes draw what one does, and acts only where it is called:
what happens at prediction is the method's own affair. `draw` numbers further draws of the same samples (other levels,
other decoders).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from semivox.sampling.draws import generator, normal, seed_of


def channel_dropout(features: Tensor, seeds: Sequence[int], probability: float = 0.5, draw: int = 0) -> Tensor:
    """Whole channels set to 0 with `probability`, the others divided by 1 - probability (Dropout2d, Dropout3d).

    The feature perturbation of UniMatch (Yang et al., CVPR 2023), there on all features of the encoder.
    """
    kept = [generator(seed, "channels", draw).random(features.shape[1]) >= probability for seed in seeds]
    return features * _per_channel(features, kept) / (1 - probability)


def dropout(features: Tensor, seeds: Sequence[int], probability: float = 0.5, draw: int = 0) -> Tensor:
    """Single values set to 0 with `probability`, the others divided by 1 - probability."""
    normals = normal(tuple(features.shape[1:]), _seeds(seeds, "values", draw), features.device)
    # A normal number lies below this bound with the wanted probability.
    bound = torch.special.ndtri(torch.tensor(probability, dtype=torch.float64)).item()
    return features * (normals >= bound).to(features.dtype) / (1 - probability)


def complementary_dropout(first: Tensor, second: Tensor, seeds: Sequence[int], draw: int = 0) -> tuple[Tensor, Tensor]:
    """Complementary halves of the channels for two views of the same samples: first · 2b, second · 2(1 - b).

    b: one fair coin per sample and channel; half of the samples, drawn too, keep all channels. UniMatch V2 (Yang et
    al., 2024), there one mask for all levels, whose channels are as many; here one per level.
    """
    masks = []
    for seed in seeds:
        coins = generator(seed, "complementary", draw).integers(0, 2, first.shape[1]) * 2.0
        # Whether a sample takes part is one draw for all levels.
        masks.append(coins if generator(seed, "takes part").random() < 0.5 else coins * 0 + 1)
    mask = _per_channel(first, masks)
    return first * mask, second * (2 - mask)


def feature_noise(features: Tensor, seeds: Sequence[int], limit: float = 0.3, draw: int = 0) -> Tensor:
    """f · (1 + n), n ~ U(-limit, limit) for every value: CCT and URPC (there one draw for the whole batch)."""
    normals = normal(tuple(features.shape[1:]), _seeds(seeds, "noise", draw), features.device)
    return features * (1 + limit * torch.erf(normals / 2**0.5)).to(features.dtype)


def feature_drop(
    features: Tensor, seeds: Sequence[int], bounds: tuple[float, float] = (0.7, 0.9), draw: int = 0
) -> Tensor:
    """Removes the most active places: where the mean over channels reaches γ · its largest value, γ ~ U(bounds).

    Ouali et al., CCT, CVPR 2020: positions with a mean *below* the threshold stay.
    """
    shares = [generator(seed, "drop", draw).uniform(*bounds) for seed in seeds]
    activity = features.detach().mean(1, keepdim=True)
    threshold = activity.amax(tuple(range(1, features.ndim)), keepdim=True)
    threshold = threshold * torch.tensor(shares, dtype=features.dtype, device=features.device).view_as(threshold)
    return features * (activity < threshold)


def _seeds(seeds: Sequence[int], name: str, draw: int) -> tuple[int, ...]:
    return tuple(seed_of(seed, name, draw) for seed in seeds)


def _per_channel(features: Tensor, rows: Sequence) -> Tensor:
    """One number per sample and channel (B, C), shaped to be multiplied with features."""
    values = torch.stack([torch.as_tensor(row) for row in rows]).to(features)
    return values.view(*values.shape, *[1] * (features.ndim - 2))
