"""Several predictions of the same voxels: their mean, and where it is certain."""

from math import log

from torch import Tensor

from semivox.losses.entropy import entropy
from semivox.losses.reduction import full_precision
from semivox.losses.schedules import sigmoid_ramp


def log_mean(log_probabilities: Tensor) -> Tensor:
    """ln of the mean over N predictions p: ln p (N, B, K, *space) → (B, K, *space)."""
    return log_probabilities.logsumexp(0) - log(len(log_probabilities))


def predictive_entropy(logits: Tensor) -> Tensor:
    """u = -Σ_c μ_c ln μ_c with μ = mean over N passes of softmax(logits), in nats: (N, B, K, *space) → (B, *space).

    UA-MT (Yu et al., MICCAI 2019), whose code adds 1e-6 inside the logarithm.
    """
    return entropy(log_mean(full_precision(logits).log_softmax(2)))


def prediction_variance(probabilities: Tensor) -> Tensor:
    """Mean over classes of the variance over N predictions, from 0 to ¼: (N, B, K, *space) → (B, *space).

    The variance is that of the N values themselves, divided by N.
    """
    return full_precision(probabilities).var(0, unbiased=False).mean(1)


def steadiness(probabilities: Tensor) -> Tensor:
    """1 - 4 · `prediction_variance`: 1 where N predictions are one, 0 where they go from one extreme to the other.

    By which SemiSAM+ (Zhang et al., Medical Image Analysis 2025) weighs what a promptable model says from click to
    click; that it falls with the variance is theirs, how it does is ours.
    """
    return 1 - 4 * prediction_variance(probabilities)


def entropy_threshold(progress: float, classes: int) -> float:
    """H(t) = (0.75 + 0.25 exp(-5 (1 - t/t_max)²)) · U_max, U_max = ln C; `progress` is t/t_max.

    UA-MT (Yu et al., MICCAI 2019): voxels with less predictive entropy are certain. Written there for two classes, as
    ln 2; SSL4MIS keeps ln 2 with four, which masks more.
    """
    return (0.75 + 0.25 * sigmoid_ramp(progress)) * log(classes)
