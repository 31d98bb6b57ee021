"""How unsure a prediction is, as something to be lowered."""

from math import log

from torch import Tensor

from semivox.losses.reduction import batch_mean, full_precision


def entropy(log_probabilities: Tensor) -> Tensor:
    """H = -Σ_c p_c ln p_c of each voxel: log-probabilities (B, K, *space) → (B, *space), in nats, from 0 to ln K."""
    return -(log_probabilities.exp() * log_probabilities).sum(1)


def normalised_entropy(logits: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over voxels of H / ln K, p = softmax(logits); a scalar: 1 where all classes are alike, 0 where one is sure.

    logits: (B, K, *space). weight: (B, *space) float or bool; 0 if nothing counts. Grandvalet & Bengio, Semi-supervised
    learning by entropy minimization, NeurIPS 2004. SSL4MIS divides by ln 4 (2-D) or ln 2 (3-D) whatever K is, and adds
    1e-6 inside the logarithm, for which log-softmax has no need.
    """
    return batch_mean(entropy(full_precision(logits).log_softmax(1)) / log(logits.shape[1]), weight)
