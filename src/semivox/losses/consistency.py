"""How far two predictions of the same voxels are apart."""

from collections.abc import Sequence

import torch
from torch import Tensor

from semivox.losses.reduction import batch_mean, full_precision


def probability_mse(probabilities: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over voxels and classes of (p - q)²; a scalar.

    probabilities, target: p and q (B, K, *space). weight: (B, *space) float or bool; 0 if nothing counts.
    """
    return batch_mean((full_precision(probabilities) - full_precision(target)).square().mean(1), weight)


def softmax_mse(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over voxels and classes of (softmax(student) - softmax(teacher))²; a scalar.

    student, teacher: logits (B, K, *space); detach the one that is the target. weight: (B, *space) float or bool; 0 if
    nothing counts. Laine & Aila, ICLR 2017, in the form of SSL4MIS: the mean divides by K.
    """
    return probability_mse(full_precision(student).softmax(1), full_precision(teacher).softmax(1), weight)


def mean_softmax_mse(logits: Sequence[Tensor], main: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over k of `softmax_mse(logits[k], main)`; a scalar.

    logits: one or more of (B, K, *space). main: (B, K, *space), with gradient unless it is detached. weight: (B,
    *space). Ouali et al., CCT, CVPR 2020: auxiliary decoders against the main one.
    """
    target = full_precision(main).softmax(1)
    return torch.stack([probability_mse(full_precision(one).softmax(1), target, weight) for one in logits]).mean()
