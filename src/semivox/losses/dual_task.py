"""Signed distance maps as a second task, and the way from them back to a segmentation.

Luo et al., Semi-supervised medical image segmentation through dual-task consistency (DTC), AAAI 2021. There one
foreground class, a sigmoid and one map; here K - 1 of each. With K = 2 the softmax's foreground is the sigmoid of the
difference of logits, p_1 = σ(z_1 - z_0), so that both forms are one; with more classes each foreground class has a map
of its own and p_c in place of σ(s).
"""

import torch
from torch import Tensor

from semivox.losses.reduction import batch_mean, full_precision


def distance_mse(distances: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over voxels and foreground classes of (r - sdf)²; a scalar.

    distances, target: r and sdf (B, K - 1, *space) in [-1, 1]. weight: (B, K - 1, *space) float or bool, what counts of
    each class; 0 if nothing does.
    """
    return batch_mean((full_precision(distances) - full_precision(target)).square(), weight)


def distance_probabilities(distances: Tensor, steepness: float = 1500.0) -> Tensor:
    """The task transform T⁻¹(r) = σ(-k r): foreground probabilities (B, K - 1, *space) from signed distances.

    A smooth Heaviside step: inside, where r < 0, it tends to 1. Its gradient is felt only where |r| is a few times 1/k.
    """
    return torch.sigmoid(-steepness * full_precision(distances))


def dual_task_mse(distances: Tensor, logits: Tensor, weight: Tensor | None = None, steepness: float = 1500.0) -> Tensor:
    """Mean over voxels and foreground classes of (σ(-k r_c) - p_c)², p = softmax(logits); a scalar.

    distances: r (B, K - 1, *space). logits: (B, K, *space). weight: (B, *space) float or bool; 0 if nothing counts.
    """
    foreground = full_precision(logits).softmax(1)[:, 1:]
    difference = distance_probabilities(distances, steepness) - foreground
    return batch_mean(difference.square().mean(1), weight)
