"""Cross-entropy and Dice of the foreground, as Aggregating & Decoupling and DHC train on them."""

from torch import Tensor

from semivox.losses.cross_entropy import negative_log_likelihood
from semivox.losses.dice import dice_linear
from semivox.losses.partial import hidden_classes, merge_label, merge_unknown
from semivox.losses.reduction import full_precision


def dice_ce(logits: Tensor, label: Tensor, class_weight: Tensor | None = None, known: Tensor | None = None) -> Tensor:
    """CE_w + mean over the foreground classes of w_k (1 - D_k), D_k = (2 TP + 1) / (2 TP + FP + FN + 1); a scalar.

    logits: (B, K, *space). label: (B, *space) class indices, `IGNORE` where unknown. class_weight: w (K,), 1 where not
    given; CE_w is a weighted mean, so that a common factor weighs the Dice alone. known: (B, K) bool, classes that each
    sample's task annotates; the others are merged into its background.

    Wang & Li, NeurIPS 2023. Their code has CE - mean w_k D_k, which is lower by the mean of w over the foreground, a
    constant without gradient: so written, 0 is the best value. D has sums over batch and space together.
    """
    log_probabilities = full_precision(logits).log_softmax(1)
    if known is not None and hidden_classes(known).any():
        log_probabilities, label = merge_unknown(log_probabilities, known), merge_label(label, known)
    ce = negative_log_likelihood(log_probabilities, label, class_weight=class_weight)
    dice = dice_linear(log_probabilities.exp(), label, smooth=1.0)
    return ce + (dice if class_weight is None else class_weight.to(dice) * dice)[1:].mean()
