"""What several networks that look at one scan tell each other: by how sure each of them is.

Xia et al., Uncertainty-aware multi-view co-training (UMCT), WACV 2020.
"""

import torch
from torch import Tensor

from semivox.losses.reduction import full_precision
from semivox.losses.uncertainty import prediction_variance


def dropout_confidence(probabilities: Tensor, epsilon: float) -> Tensor:
    """c = 1 / (var + ε), var the `prediction_variance` over N dropout passes: (N, B, K, *space) → (B, *space).

    ε: what counts as no variance at all; it bounds c.
    """
    return 1 / (prediction_variance(probabilities) + epsilon)


def fused_by_others(probabilities: Tensor, confidence: Tensor) -> Tensor:
    """Ŷ_i = Σ_{j≠i} c_j p_j / Σ_{j≠i} c_j, what the other views make of each voxel: (V, B, K, *space), of V ≥ 2 views.

    probabilities: p (V, B, K, *space). confidence: c (V, B, *space), above 0. Of two views each gets the other's p.
    """
    p, c = full_precision(probabilities), full_precision(confidence).unsqueeze(2)
    others = [[j for j in range(len(p)) if j != i] for i in range(len(p))]
    return torch.stack([(c[own] * p[own]).sum(0) / c[own].sum(0) for own in others])
