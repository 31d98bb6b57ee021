"""What is asked of a prediction where it and another one disagree."""

import math

from torch import Tensor

from semivox.data.labels import IGNORE
from semivox.losses.reduction import batch_mean, full_precision


def label_mse(logits: Tensor, label: Tensor, counted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Σ_v n w mean_c (p_c - 1[y = c])² / Σ_v n over voxels v with p = softmax(logits); a scalar, 0 if nothing counts.

    logits: (B, K, *space). label: y (B, *space), `IGNORE` does not count. counted: n (B, *space) bool. weight: w
    (B, *space), in the numerator alone. Of two classes this is (p_1 - y)², as in PMT (Gao et al., ECCV 2024); SDCL
    (Song & Wang, MICCAI 2024) has any number.
    """
    p = full_precision(logits).softmax(1)
    # |p|² - 2 p_y + 1 is Σ_c (p_c - 1[y = c])² without a one-hot map.
    chosen = p.gather(1, label.masked_fill(label == IGNORE, 0).unsqueeze(1)).squeeze(1)
    squares = (p.square().sum(1) - 2 * chosen + 1) / p.shape[1]
    return _counted_mean(squares, counted & (label != IGNORE), weight)


def uniform_divergence(logits: Tensor, label: Tensor, counted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Σ_v n e w KL(u ‖ p) / Σ_v n e over voxels v, u = 1/K: what is wrong shall be undecided; a scalar, 0 at best.

    e: 1 where argmax p is not the label, without gradient; else as `label_mse`. Song & Wang, MICCAI 2024, write
    -(1/K) Σ_c ln p_c, which is ln K more.
    """
    log_p = full_precision(logits).log_softmax(1)
    wrong = (log_p.argmax(1) != label) & (label != IGNORE)
    return _counted_mean(-log_p.mean(1) - math.log(log_p.shape[1]), counted & wrong, weight)


def _counted_mean(values: Tensor, counted: Tensor, weight: Tensor | None) -> Tensor:
    return batch_mean(values if weight is None else values * weight, counted.to(values.dtype))
