"""Transferable semantic augmentation: cross-entropy expected over features moved from one domain towards another.

Wang et al., TransMedSeg, arXiv 2505.14753, after TSA (Li et al., CVPR 2021) and ISDA (Wang et al., NeurIPS 2019).
A voxel of class k has the feature f + δ, δ ~ N(α Δμ_k, α Σ_k), with Δμ_k = μ_t^k - μ_s^k the shift of the class's mean
from source to target and Σ_k its covariance in the target. No δ is drawn: with log E X ≥ E log X and the Gaussian's
E e^Z = e^{mean + variance / 2} the expected cross-entropy of a linear classifier is at most

    mean_i CE(o_i + Q[y_i, :], y_i),    Q[k, c] = α (w_c - w_k)·Δμ_k + (α / 2) (w_c - w_k)ᵀ Σ_k (w_c - w_k),

and what is added to the logits depends on a voxel through its label alone: one table of K × K numbers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from semivox.data.labels import IGNORE
from semivox.losses.reduction import batch_sum, full_precision

CHUNK_ELEMENTS = {"cpu": 2**16, "cuda": 2**24}
"""Elements that are worked on at a time, by device: what fits into a processor's cache, or fills a GPU."""


def chunk_length(x: Tensor, elements: int) -> int:
    """How many places of (B, C, places) are worked on at a time; elements: copies made of each place."""
    return max(CHUNK_ELEMENTS.get(x.device.type, CHUNK_ELEMENTS["cuda"]) // max(len(x) * elements, 1), 1)


def class_moments(features: Tensor, label: Tensor, reference: Tensor, weight: Tensor | None = None) -> Tensor:
    """Per class the Gram matrix Σ_i v_i [1, x_i][1, x_i]ᵀ of shifted features, (K, A + 1, A + 1) float32.

    It holds the count, the sum and the second moments; Gram matrices of parts of a batch add up to that of the whole.
    features: (B, A, *space). label: (B, *space) class indices, `IGNORE` does not count. reference: (K, A), subtracted
    first, since second moments about a far origin lose their digits. weight: (B, *space), v, how much a voxel counts.
    Without gradient. One feature that is not finite, counted or not, leaves none of them finite.
    """
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        width = features.shape[1]
        precision = torch.promote_types(features.dtype, torch.float32)
        moments = features.new_zeros(len(reference), width + 1, width + 1, dtype=precision)
        # Cut along the first axis of space alone, where a part of a map is still in one piece.
        size = chunk_length(features, (width + 1) * features[0, 0, :1].numel())
        for start in range(0, features.shape[2], size):
            part = features[:, :, start : start + size].flatten(2).to(precision)
            part_label = label[:, start : start + size].flatten(1)
            count = None if weight is None else weight[:, start : start + size].flatten(1)
            x = F.pad(part, (0, 0, 1, 0), value=1.0)
            for k, origin in enumerate(reference.to(precision)):
                torch.sub(part, origin[:, None], out=x[:, 1:])
                own = part_label == k
                own = own.to(precision) if count is None else own * count.to(precision)
                moments[k] += torch.bmm(x * own.unsqueeze(1), x.transpose(1, 2)).sum(0)
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
    class_share = torch.ones_like(table[0])
    if balanced:
        local = [_class_weights(label, weight, len(table)) for _, label, weight in parts]
        counts = batch_sum(torch.stack([torch.zeros_like(table[0]), *local]).sum(0))
        class_share = 1 / counts.where(counts > 0, torch.inf)
    nothing = torch.stack([(table * 0).sum(), table.new_zeros(())])
    sums = [torch.stack(_CorrectedSum.apply(*part, table, class_share)) for part in parts]
    total, count = batch_sum(torch.stack([nothing, *sums]).sum(0))
    return total / count.detach().where(count > 0, 1)


def _class_weights(label: Tensor, weight: Tensor | None, classes: int) -> Tensor:
    """Σ of the weights of each class's voxels, (K,)."""
    found = [label == k if weight is None else (label == k) * weight for k in range(classes)]
    return torch.stack([full_precision(each.sum()) for each in found])


class _CorrectedSum(torch.autograd.Function):
    """Σ_i v_i CE(o_i + Q[y_i, :], y_i) and Σ_i v_i, with v_i = class_share[y_i] · weight_i.

    The gradient p - e_y is made along with the value, part by part, and kept in the logits' type: autograd would keep
    several maps of the logits' size, and go through memory for each.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, label: Tensor, weight: Tensor | None, table: Tensor, class_share: Tensor
    ) -> tuple[Tensor, Tensor]:
        flat, classes = logits.flatten(2), label.flatten(1)
        weights = None if weight is None else weight.flatten(1)
        gradient = torch.empty_like(flat)
        of_table = torch.zeros_like(table)
        total, count = table.new_zeros(2)
        size = chunk_length(flat, 2 * len(table))
        for start in range(0, flat.shape[2], size):
            here = slice(start, start + size)
            counted = classes[:, here] != IGNORE
            own = classes[:, here].masked_fill(~counted, 0)
            share = class_share[own] * counted
            if weights is not None:
                share = share * weights[:, here]
            correction = table.T.index_select(1, own.flatten()).view(-1, *own.shape).transpose(0, 1)
            log_p = (flat[:, :, here] + correction).log_softmax(1)
            own = own.unsqueeze(1)
            total -= (log_p.gather(1, own).squeeze(1) * share).sum()
            count += share.sum()
            p = log_p.exp_().scatter_add_(1, own, log_p.new_full((), -1.0).expand(own.shape))
            p *= share.unsqueeze(1)
            gradient[:, :, here] = p
            for k in range(len(table)):
                of_table[k] += (p * (own == k)).sum((0, 2))
        ctx.save_for_backward(gradient, of_table)
        ctx.shape = logits.shape
        ctx.mark_non_differentiable(count)
        return total, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_total: Tensor, of_count: Tensor) -> tuple[Tensor | None, ...]:
        gradient, of_table = ctx.saved_tensors
        return (gradient * of_total).view(ctx.shape), None, None, of_table * of_total, None


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
