"""Transferable semantic augmentation: cross-entropy expected over features moved from one domain towards another.

Wang et al., TransMedSeg, arXiv 2505.14753, after TSA (Li et al., CVPR 2021) and ISDA (Wang et al., NeurIPS 2019).
A voxel of class k has the feature f + δ, δ ~ N(α Δμ_k, α Σ_k), with Δμ_k = μ_t^k - μ_s^k the shift of the class's mean
from source to target and Σ_k its covariance in the target. No δ is drawn: with log E X ≥ E log X and the Gaussian's
E e^Z = e^{mean + variance / 2} the expected cross-entropy of a linear classifier is at most

    mean_i CE(o_i + Q[y_i, :], y_i),    Q[k, c] = α (w_c - w_k)·Δμ_k + (α / 2) (w_c - w_k)ᵀ Σ_k (w_c - w_k),

and what is added to the logits depends on a voxel through its label alone: one table of K × K numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from semivox.data.labels import IGNORE
from semivox.losses.reduction import batch_sum, full_precision

CHUNK_ELEMENTS = 2**21
"""Feature values that `class_moments` copies at a time, so that memory stays far below that of the features."""


def class_moments(
    features: Tensor, label: Tensor, reference: Tensor, weight: Tensor | None = None, chunk: int = CHUNK_ELEMENTS
) -> Tensor:
    """Per class the Gram matrix Σ_i v_i [1, x_i][1, x_i]ᵀ of shifted features, (K, A + 1, A + 1) float32.

    It holds the count, the sum and the second moments; Gram matrices of parts of a batch add up to that of the whole.
    features: (B, A, *space). label: (B, *space) class indices, `IGNORE` does not count. reference: (K, A), subtracted
    first, since second moments about a far origin lose their digits. weight: (B, *space), v, how much a voxel counts.
    Without gradient. One feature that is not finite, counted or not, leaves none of them finite.
    """
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        samples, width = features.shape[:2]
        flat, classes = features.detach().flatten(2), label.flatten(1)
        counts = None if weight is None else weight.flatten(1)
        precision = torch.promote_types(features.dtype, torch.float32)
        moments = features.new_zeros(len(reference), width + 1, width + 1, dtype=precision)
        length = max(chunk // (samples * (width + 1)), 1)
        for start in range(0, flat.shape[2], length):
            part = flat[:, :, start : start + length].to(precision)
            part_label = classes[:, start : start + length]
            part_count = 1.0 if counts is None else counts[:, start : start + length].to(precision)
            for k, origin in enumerate(reference.to(precision)):
                count = ((part_label == k) * part_count).unsqueeze(1)
                x = F.pad(part - origin[:, None], (0, 0, 1, 0), value=1.0)
                moments[k] += torch.bmm(x * count, x.transpose(1, 2)).sum(0)
        return moments


def mean_and_covariance(moments: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gram matrices of `class_moments` → count (K,), mean (K, A) and covariance (K, A, A), divided by the count.

    A class without a voxel, or whose Gram matrix is not finite, has count 0 and zeros.
    """
    sound = moments.isfinite().all(2).all(1) & (moments[:, 0, 0] > 0)
    moments = moments.where(sound[:, None, None], 0)
    count = moments[:, 0, 0]
    scaled = moments / count.where(sound, 1)[:, None, None]
    offset = scaled[:, 0, 1:]
    covariance = scaled[:, 1:, 1:] - offset.unsqueeze(2) * offset.unsqueeze(1)
    return count, (reference + offset) * sound[:, None], covariance


def merge_moments(
    mean: Tensor, covariance: Tensor, new_mean: Tensor, new_covariance: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Means (K, A) and covariances (K, A, A) of two mixed in the ratio (1 - w) : w, w = `weight` (K,).

    Σ ← (1 - w) Σ + w S + w (1 - w) (μ - m)(μ - m)ᵀ, μ ← (1 - w) μ + w m. With w = n / (N + n) these are those of both
    samples taken together; without the cross term the covariance would come out too small.
    """
    w = weight[:, None, None]
    gap = mean - new_mean
    cross = gap.unsqueeze(2) * gap.unsqueeze(1)
    return mean.lerp(new_mean, weight[:, None]), covariance.lerp(new_covariance, w) + w * (1 - w) * cross


def augmentation_table(weights: Tensor, shift: Tensor, covariance: Tensor, strength: float) -> Tensor:
    """Q (K, K): what the expected cross-entropy adds to logit c of a voxel of class k; its diagonal is 0.

    weights: (K, A), w of the classifier, through which the gradient flows. shift: (K, A), Δμ. covariance: (K, A, A),
    or (K, A) where only the diagonal is known. strength: α.
    """
    with torch.autocast(weights.device.type, enabled=False):
        weights = full_precision(weights)
        apart = weights.unsqueeze(0) - weights.unsqueeze(1)
        moved = torch.einsum("kca,ka->kc", apart, shift)
        if covariance.ndim == 2:
            spread = torch.einsum("kca,ka,kca->kc", apart, covariance, apart)
        else:
            spread = torch.einsum("kca,kab,kcb->kc", apart, covariance, apart)
        return strength * (moved + 0.5 * spread)


def transferable_cross_entropy(
    logits: Tensor, label: Tensor, table: Tensor, weight: Tensor | None = None, balanced: bool = False
) -> Tensor:
    """The bound on the expected cross-entropy: mean over voxels of CE(o_i + Q[y_i, :], y_i); a scalar.

    logits: (B, K, *space). label: (B, *space), `IGNORE` does not count. table: Q (K, K) of `augmentation_table`.
    weight: (B, *space), how much a voxel counts. balanced: the mean over the classes that occur of their means.
    """
    return transferable_mean([(logits, label, weight)], table, balanced)


def transferable_mean(
    parts: Sequence[tuple[Tensor, Tensor, Tensor | None]], table: Tensor, balanced: bool = False
) -> Tensor:
    """`transferable_cross_entropy` of a batch that lies in several (logits, label, weight)."""
    local = [_class_weights(label, weight, len(table)) for _, label, weight in parts]
    counts = batch_sum(torch.stack([table.new_zeros(len(table)), *local]).sum(0))
    if balanced:
        share = 1 / counts.where(counts > 0, torch.inf) / (counts > 0).sum().clamp(min=1)
    else:
        share = (1 / counts.sum().where(counts.sum() > 0, torch.inf)).expand_as(counts)
    # Computed again in the backward pass: what it would keep is larger than the logits, and these are kept anyway.
    sums = [checkpoint(_corrected_sum, *part, table, share, use_reentrant=False) for part in parts]
    return batch_sum(torch.stack([(table * 0).sum(), *sums]).sum())


def _class_weights(label: Tensor, weight: Tensor | None, classes: int) -> Tensor:
    """Σ of the weights of each class's voxels, (K,)."""
    found = [label == k if weight is None else (label == k) * weight for k in range(classes)]
    return torch.stack([full_precision(each.sum()) for each in found])


def _corrected_sum(logits: Tensor, label: Tensor, weight: Tensor | None, table: Tensor, share: Tensor) -> Tensor:
    """Σ_i share[y_i] · weight_i · CE(o_i + Q[y_i, :], y_i)."""
    counted = label != IGNORE
    safe = label.masked_fill(~counted, 0)
    corrected = full_precision(logits) + table[safe].movedim(-1, 1)
    values = F.cross_entropy(corrected, safe, reduction="none")
    voxel_share = share[safe] * counted if weight is None else share[safe] * counted * weight
    return (values * voxel_share).sum()


def sampled_cross_entropy(
    features: Tensor,
    label: Tensor,
    weights: Tensor,
    bias: Tensor,
    shift: Tensor,
    covariance: Tensor,
    strength: float,
    draws: int,
    generator: torch.Generator,
) -> Tensor:
    """The expectation that `transferable_cross_entropy` bounds, estimated from `draws` per voxel: (N,) values.

    For tests and figures. features: (N, A). label: (N,). weights: (K, A). bias: (K,). shift, covariance, strength: as
    in `augmentation_table`; δ = α Δμ + √α L ε with L Lᵀ = Σ.
    """
    spread, directions = torch.linalg.eigh(covariance)
    root = directions * spread.clamp(min=0).sqrt().unsqueeze(1)
    noise = torch.randn(draws, features.shape[1], generator=generator, dtype=features.dtype)
    values = torch.empty_like(features[:, 0])
    for index, (feature, k) in enumerate(zip(features, label, strict=True)):
        moved = feature + strength * shift[k] + strength**0.5 * noise @ root[k].T
        logits = moved @ weights.T + bias
        values[index] = F.cross_entropy(logits, k.expand(draws))
    return values
