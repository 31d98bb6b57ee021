"""The soft Dice losses of the literature, one value per class, sums over batch and space together."""

import torch
from torch import Tensor

from semivox.data.labels import IGNORE
from semivox.losses.reduction import batch_sum, full_precision


def dice_squared(probabilities: Tensor, label: Tensor, weight: Tensor | None = None, smooth: float = 1e-5) -> Tensor:
    """DiceSq = 1 - (2 Σpg + s) / (Σp² + Σg² + s) per class (K,), as in UA-MT and SSL4MIS; V-Net's Dice loss.

    probabilities: (B, K, *space). label: (B, *space) class indices; `IGNORE` leaves all sums. weight: (B, *space) float
    or bool, a voxel's weight in all sums. A class that is absent from the label costs nearly 1 whatever is predicted,
    and 0 if nothing counts. smooth: s, 1e-5 in UA-MT, SSL4MIS, AD-MT, UniMatch; 1e-10 in SS-Net and BCP on ACDC.
    """
    p, g, counted = _parts(probabilities, label, weight)
    return _dice((p * g * counted), (p.square() * counted), (g * counted), smooth)


def dice_linear(probabilities: Tensor, label: Tensor, weight: Tensor | None = None, smooth: float = 1e-5) -> Tensor:
    """DiceLin = 1 - (2 Σpg + s) / (Σp + Σg + s) per class (K,), as in MC-Net, SS-Net, BCP; else as `dice_squared`."""
    p, g, counted = _parts(probabilities, label, weight)
    return _dice((p * g * counted), (p * counted), (g * counted), smooth)


def dice_soft(probabilities: Tensor, target: Tensor, weight: Tensor | None = None, smooth: float = 1e-5) -> Tensor:
    """1 - (2 Σpq + s) / (Σp² + Σq² + s) per class (K,): 0 where p = q, however unsure both are.

    probabilities, target: p and q (B, K, *space). weight: (B, *space) float or bool; 0 if nothing counts.
    """
    p, q = full_precision(probabilities), full_precision(target)
    counted = p.new_ones(()) if weight is None else weight.unsqueeze(1).to(p)
    return _dice(p * q * counted, p.square() * counted, q.square() * counted, smooth)


def _parts(probabilities: Tensor, label: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, the label one-hot (B, K, *space; no class where ignored), what counts (B, 1, *space)."""
    p = full_precision(probabilities)
    classes = torch.arange(p.shape[1], device=p.device).view(1, -1, *[1] * (p.ndim - 2))
    counted = (label != IGNORE).unsqueeze(1).to(p.dtype)
    if weight is not None:
        counted = counted * weight.unsqueeze(1).to(p.dtype)
    return p, label.unsqueeze(1) == classes, counted


def _dice(overlap: Tensor, prediction: Tensor, reference: Tensor, smooth: float) -> Tensor:
    everything_but_class = [0, *range(2, overlap.ndim)]
    sums = torch.stack([part.sum(everything_but_class) for part in (overlap, prediction, reference)])
    overlap, prediction, reference = batch_sum(sums)
    return 1.0 - (2.0 * overlap + smooth) / (prediction + reference + smooth)
