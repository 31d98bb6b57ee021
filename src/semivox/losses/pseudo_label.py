"""Hard pseudo-labels of which only the confident voxels teach."""

from torch import Tensor

from semivox.losses.cross_entropy import cross_entropy
from semivox.losses.dice import dice_squared
from semivox.losses.reduction import batch_mean, full_precision


def confident_label(probabilities: Tensor, valid: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Label ŷ = argmax p (B, *space) int64, and which voxels are kept, max p ≥ τ (B, *space) bool; no gradient passes.

    probabilities: (B, K, *space). valid: (B, *space) bool, False on padding, which is never kept. threshold: τ. Sohn et
    al., FixMatch, NeurIPS 2020.
    """
    confidence, label = full_precision(probabilities).detach().max(1)
    return label, valid & (confidence >= threshold)


def confident_cross_entropy(logits: Tensor, label: Tensor, kept: Tensor, valid: Tensor) -> Tensor:
    """Σ_kept -ln p_ŷ / N_valid: cross-entropy on the kept voxels, divided by *all* valid ones; a scalar.

    logits: (B, K, *space). label, kept, valid: (B, *space); kept voxels are valid. So few confident voxels weigh
    little: the form of FixMatch and UniMatch. `cross_entropy(logits, label, kept)` is the mean over the kept alone.
    """
    return cross_entropy(logits, label, kept) * batch_mean(kept.to(full_precision(logits).dtype), valid)


def confidence_weighted_cross_entropy(logits: Tensor, label: Tensor, confidence: Tensor, kept: Tensor) -> Tensor:
    """Σ_kept max p · -ln p_ŷ / N_kept: cross-entropy of which each kept voxel counts by its confidence; a scalar.

    logits: (B, K, *space). label, confidence, kept: (B, *space). So unsure labels weigh less, where a weighted mean
    would divide by the confidences. Liu et al., PS-MT, CVPR 2022. 0 where nothing is kept.
    """
    return cross_entropy(logits, label, confidence * kept) * batch_mean(full_precision(confidence), kept)


def confident_dice(logits: Tensor, label: Tensor, kept: Tensor) -> Tensor:
    """Mean over all classes of DiceSq with sums over the kept voxels alone, 0 where there are none; a scalar.

    Shapes as above. UniMatch's loss on medical images (Yang et al., CVPR 2023), also AD-MT's on ACDC.
    """
    return dice_squared(full_precision(logits).softmax(1), label, kept).mean()
