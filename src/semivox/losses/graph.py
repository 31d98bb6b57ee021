"""Clusters of a scan's feature cells, as the correlation clustering of DeepCut and GraphCL."""

from typing import Literal

import torch
from torch import Tensor

from semivox.losses.reduction import batch_mean, full_precision

Affinity = Literal["deepcut", "printed"]


def cell_affinity(features: Tensor, temperature: float, form: Affinity = "deepcut") -> Tensor:
    """How much two feature cells belong together, W (B, N, N).

    features: F (B, N, A). deepcut: F Fᵀ - max(F Fᵀ) / τ (Aflalo et al., DeepCut, ICCVW 2023), so that the closest cells
    attract and the others repel one another. printed: (F Fᵀ - max(F Fᵀ)) / τ, as a summary of GraphCL (Wang et al.,
    ICML 2025) has it; there nothing is above 0, so that nothing attracts.
    """
    gram = products(features)
    largest = gram.amax((1, 2), keepdim=True)
    return gram - largest / temperature if form == "deepcut" else (gram - largest) / temperature


def correlation_clustering(affinity: Tensor, clusters: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean over scans of -Σ_ij W_ij (S Sᵀ)_ij / n², shifted so that no assignment has a value below 0; a scalar.

    affinity: W (B, N, N). clusters: S (B, N, K), each cell's shares in K clusters. counted: (B, N) bool, the cells that
    take part, n of them; a scan without any does not count. The shift Σ_ij max(W_ij, 0) / n², reached only where all
    that attract share a cluster and no others do, carries no gradient.
    """
    together = products(clusters)
    if counted is None:
        counted = torch.ones_like(clusters[:, :, 0], dtype=torch.bool)
    pairs = counted.unsqueeze(1) & counted.unsqueeze(2)
    best = affinity.detach().clamp(min=0)
    cells = pairs.sum((1, 2))
    values = ((best - affinity * together) * pairs).sum((1, 2)) / cells.clamp(min=1)
    return batch_mean(values, (cells > 0).to(values.dtype))


def products(rows: Tensor) -> Tensor:
    """X Xᵀ (B, N, N) of X (B, N, A), never in half precision."""
    with torch.autocast(rows.device.type, enabled=False):
        rows = full_precision(rows)
        return rows @ rows.transpose(1, 2)


def normalised_graph(affinity: Tensor) -> Tensor:
    """D^{-1/2} W D^{-1/2} of non-negative affinities (*, N, N), D_ii = Σ_j W_ij; rows of nothing stay 0."""
    degree = affinity.sum(-1)
    scale = degree.where(degree > 0, torch.inf).rsqrt()
    return scale.unsqueeze(-1) * affinity * scale.unsqueeze(-2)
