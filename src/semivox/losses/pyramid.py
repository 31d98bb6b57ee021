"""Agreement of the predictions that one network makes at several scales."""

import torch
from torch import Tensor

from semivox.losses.reduction import batch_mean, full_precision
from semivox.losses.uncertainty import log_mean


def pyramid_consistency(logits: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over scales of L_s = Σ_v w_s · mean_c (μ - p_s)² / Σ_v w_s + mean_v D_s; a scalar.

    μ is the mean of all scales' p_s = softmax(logits), D_s = Σ_c μ_c ln(μ_c / p_s,c) a voxel's divergence of scale s
    from it, and w_s = exp(-D_s) its weight. logits: (S, B, K, *space). weight: (B, *space) float or bool, of which both
    means take account; 0 if nothing counts. URPC (Luo et al., MICCAI 2021); μ and w carry gradient as in its code,
    which takes the logarithm of p (log-softmax here) and adds 1e-8 to the mean of w.
    """
    log_probabilities = full_precision(logits).log_softmax(2)
    log_target = log_mean(log_probabilities)
    target = log_target.exp()
    # Rounding alone makes a divergence negative.
    divergence = (target * (log_target - log_probabilities)).sum(2).clamp_min(0)
    distance = (target - log_probabilities.exp()).square().mean(2)
    certainty = (-divergence).exp()
    per_scale = [
        batch_mean(d, w if weight is None else w * weight) + batch_mean(u, weight)
        for d, w, u in zip(distance, certainty, divergence, strict=True)
    ]
    return torch.stack(per_scale).mean()
