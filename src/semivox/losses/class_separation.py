"""Features of voxels drawn towards those of their class that a memory keeps."""

import torch
from torch import Tensor
from torch.nn import functional as F

from semivox.losses.reduction import batch_sum, full_precision


def class_separation(
    queries: Tensor,
    query_scores: Tensor,
    counted: Tensor,
    memory: Tensor,
    memory_scores: Tensor,
    stored: Tensor,
) -> Tensor:
    """(1/K) Σ_c mean_{i,j} w_i w'_j (1 - cos(q_i, m_j)), both of class c; a scalar, 0 for classes without q or m.

    queries: q (K, N, E) of voxels of each class, with scores (K, N) and counted (K, N) bool. memory: m (K, M, E), the
    same on all processes, with scores (K, M) and stored (K, M) bool. w_i = N σ(score_i) / Σ σ(score), likewise w' of
    the memory: the mean is weighted by σ(score). Wu et al., SS-Net, MICCAI 2022, after Alonso et al., ICCV 2021.
    """
    with torch.autocast(queries.device.type, enabled=False):
        q, m = (F.normalize(full_precision(x), dim=2) for x in (queries, memory))
        w, v = (
            full_precision(scores).sigmoid() * mask
            for scores, mask in ((query_scores, counted), (memory_scores, stored))
        )
        to_memory = _mean(1 - q @ m.mT, v.unsqueeze(1))
        total, weight = batch_sum(torch.stack([(to_memory * w).sum(1), w.sum(1)]))
        return (total / torch.where(weight > 0, weight, 1)).mean()


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean over the last axis, 0 where the weights sum to 0."""
    total = weight.sum(-1)
    return (values * weight).sum(-1) / torch.where(total > 0, total, 1)
