"""How far two distributions over the classes are apart, in nats."""

import torch
from torch import Tensor

from semivox.losses.entropy import entropy
from semivox.losses.reduction import batch_mean, full_precision
from semivox.losses.uncertainty import log_mean


def kl_divergence(target: Tensor, logits: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over voxels of KL(q ‖ p) = Σ_c q_c ln(q_c / p_c), q = softmax(target), p = softmax(logits); a scalar.

    target, logits: (B, K, *space); detach the target that is to teach. weight: (B, *space) float or bool; 0 if nothing
    counts.
    """
    log_q, log_p = (full_precision(z).log_softmax(1) for z in (target, logits))
    return batch_mean((log_q.exp() * (log_q - log_p)).sum(1), weight)


def jensen_shannon(first: Tensor, second: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over voxels of H(½ (p + q)) - ½ (H(p) + H(q)), p and q the softmax of the logits; a scalar, 0 to ln 2.

    first, second: logits (B, K, *space). weight: (B, *space) float or bool; 0 if nothing counts. The agreement of deep
    co-training (Qiao et al., ECCV 2018).
    """
    both = torch.stack([full_precision(z).log_softmax(1) for z in (first, second)])
    return batch_mean(entropy(log_mean(both)) - (entropy(both[0]) + entropy(both[1])) / 2, weight)
