"""The supervised term of every method."""

import torch
from torch import Tensor

from semivox.losses.cross_entropy import negative_log_likelihood
from semivox.losses.dice import dice_squared
from semivox.losses.partial import hidden_classes, merge_label, merge_unknown
from semivox.losses.reduction import batch_sum, full_precision


def supervised_loss(
    logits: Tensor,
    label: Tensor,
    known: Tensor | None = None,
    class_weight: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """½ (CE + mean over classes of DiceSq); a scalar.

    logits: (B, K, *space). label: (B, *space) class indices, `IGNORE` where unknown.
    known: (B, K) bool, classes that each sample's task annotates (None: all); the others are merged into its
    background, and a class that no sample of the batch annotates is left out of the mean over classes.
    class_weight: (K,), for CE and for the mean over classes. weight: (B, *space) float or bool, per voxel.

    This is the form of SSL4MIS, AD-MT and UniMatch: the mean is over *all* classes, background and absent ones too.
    UA-MT and DTC on LA take the foreground's Dice only; MC-Net, SS-Net, DTC and SASSNet compute CE but train on Dice
    alone; PMT leaves out the ½.
    """
    log_probabilities = full_precision(logits).log_softmax(1)
    share = log_probabilities.new_ones(logits.shape[1]) if class_weight is None else class_weight.to(log_probabilities)
    if known is not None:
        if hidden_classes(known).any():
            log_probabilities = merge_unknown(log_probabilities, known)
            label = merge_label(label, known)
        # Summed over processes even where this one knows all classes: the others may not.
        annotated = batch_sum((~hidden_classes(known)).sum(0).to(share)) > 0
        share = share * annotated
    ce = negative_log_likelihood(log_probabilities, label, weight, class_weight)
    dice = dice_squared(log_probabilities.exp(), label, weight)
    total = share.sum().clamp_min(torch.finfo(share.dtype).tiny)  # all may weigh 0
    return 0.5 * (ce + (share * dice).sum() / total)
