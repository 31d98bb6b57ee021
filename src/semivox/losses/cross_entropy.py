"""Cross-entropy."""

import torch
from torch import Tensor

from semivox.data.labels import IGNORE
from semivox.losses.reduction import batch_mean, full_precision


def cross_entropy(
    logits: Tensor, label: Tensor, weight: Tensor | None = None, class_weight: Tensor | None = None
) -> Tensor:
    """Weighted mean over voxels of -ln p_y, p = softmax(logits); a scalar.

    logits: (B, K, *space). label: (B, *space) class indices; `IGNORE` does not count.
    weight: (B, *space) float or bool, a voxel's weight (pseudo-label masks, confidences).
    class_weight: (K,), by which voxels of each class count. Both weigh numerator and denominator; 0 if nothing counts.
    """
    return negative_log_likelihood(full_precision(logits).log_softmax(1), label, weight, class_weight)


def negative_log_likelihood(
    log_probabilities: Tensor, label: Tensor, weight: Tensor | None = None, class_weight: Tensor | None = None
) -> Tensor:
    """`cross_entropy` from log-probabilities (B, K, *space)."""
    counted = label != IGNORE
    safe = label.masked_fill(~counted, 0).unsqueeze(1)
    values = -log_probabilities.gather(1, safe).squeeze(1)
    voxel_weight = counted.to(values.dtype) if weight is None else counted * weight.to(values.dtype)
    if class_weight is not None:
        voxel_weight = voxel_weight * torch.take(class_weight.to(values), safe).squeeze(1)
    return batch_mean(values, voxel_weight)
