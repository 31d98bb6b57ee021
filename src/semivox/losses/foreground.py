"""What a prompted network is trained with: every prompt is a binary target of its own.

VerSemi (Zeng et al., arXiv 2311.11686). Shapes: B samples, P prompts of each; a score is the logit of a prompt's
foreground less that of its background, so that p = sigmoid(score).
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from semivox.data.labels import IGNORE
from semivox.losses.reduction import batch_mean, batch_sum, full_precision

Aggregate = Literal["max", "mean", "noisy_or"]


def foreground_dice(
    probabilities: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pairs: Tensor | None = None,
    smooth: float = 1e-5,
) -> Tensor:
    """D(p, t) = 1 - (2 Σpt + s) / (Σp² + Σt² + s) of the foreground, each sum over the whole batch at once; a scalar.

    probabilities, target: (B, P, *space), the target soft, or bool. weight: (B, P or 1, *space) float or bool, how much
    a voxel counts. pairs: (*sets, B, P) bool, which prompts of which samples count; one value per set, (*sets).
    Nothing that counts gives 0.
    """
    p, t = full_precision(probabilities), target.to(torch.promote_types(probabilities.dtype, torch.float32))
    counted = p.new_ones(()) if weight is None else weight.to(p)
    sums = torch.stack([(part * counted).flatten(2).sum(2) for part in (p * t, p.square(), t.square())])
    if pairs is not None:
        sums = torch.einsum("nbp,...bp->n...bp", sums, pairs.to(p))
    overlap, prediction, reference = batch_sum(sums.sum((-1, -2)))
    return 1 - (2 * overlap + smooth) / (prediction + reference + smooth)


def binary_cross_entropy(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over all that counts of -ln p where the target holds, -ln (1 - p) elsewhere; a scalar.

    This is the two-class cross-entropy of (background, foreground). scores, target: (B, P, *space). weight: the same.
    """
    scores = full_precision(scores)
    losses = F.binary_cross_entropy_with_logits(scores, target.to(scores), reduction="none")
    return batch_mean(losses, None if weight is None else weight.to(scores).expand_as(scores))


def aggregated(probabilities: Tensor, how: Aggregate = "max") -> Tensor:
    """A: the probability of any foreground from those of the prompts; (B, P, *space) → (B, 1, *space).

    max_k p_k, mean_k p_k or 1 - Π_k (1 - p_k). The gradient of the maximum goes to the prompt that has it.
    """
    p = full_precision(probabilities)
    if how == "max":
        return p.max(1, keepdim=True).values
    if how == "mean":
        return p.mean(1, keepdim=True)
    if how == "noisy_or":
        return 1 - (1 - p).prod(1, keepdim=True)
    raise ValueError(f"unknown aggregate '{how}'; there are {get_args(Aggregate)}")


def any_foreground(label: Tensor) -> tuple[Tensor, Tensor]:
    """Where a label (B, *space) has any class, and where it is known; each (B, 1, *space) bool."""
    label = label.unsqueeze(1)
    return (label != 0) & (label != IGNORE), label != IGNORE
