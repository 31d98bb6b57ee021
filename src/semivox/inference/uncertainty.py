"""How sure a prediction is, voxel by voxel."""

from math import log

import torch
from torch import Tensor


def entropy_map(probabilities: Tensor) -> Tensor:
    """Entropy -Σ p ln p / ln K of `probabilities` (K, X, Y, Z): 0 where one class is certain, 1 where all are equal.

    float32 (X, Y, Z). Classes are summed one by one, so that a large scan needs no second copy of its probabilities.
    """
    classes = len(probabilities)
    entropy = torch.zeros(probabilities.shape[1:], device=probabilities.device)
    for share in probabilities:
        entropy -= torch.xlogy(share.float(), share.float())
    return (entropy / log(classes)).clamp_(0, 1)
