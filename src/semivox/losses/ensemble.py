"""Pseudo-labels from two teachers and the student they teach.

Zhao et al., Alternate diverse teaching for semi-supervised medical image segmentation (AD-MT), ECCV 2024. Every
function acts on each voxel alone, so that maps may as well be mixed before as after.
"""

from math import log

import torch
from torch import Tensor

from semivox.losses.entropy import entropy
from semivox.losses.reduction import full_precision


def entropy_weighted_ensemble(first: Tensor, second: Tensor) -> Tensor:
    """ψ = w₁ p₁ + w₂ p₂ with w_k = e^{-H_k} / (e^{-H₁} + e^{-H₂}): probabilities (B, K, *space).

    first, second: the teachers' logits (B, K, *space). H_k: entropy in bits. The surer teacher has the greater say.
    """
    log_1, log_2 = (full_precision(logits).log_softmax(1) for logits in (first, second))
    weight = torch.sigmoid((entropy(log_2) - entropy(log_1)) / log(2)).unsqueeze(1)
    return weight * log_1.exp() + (1 - weight) * log_2.exp()


def combat_conflicts(ensemble: Tensor, first: Tensor, second: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Label and confidence (B, *space): the ensemble's, or the student's where the teachers quarrel and it is surer.

    ensemble: ψ, probabilities; first, second, student: logits of the two teachers and the student; all (B, K, *space).
    The student has its way where the teachers name different classes, it names another class than ψ, and its
    confidence is above that of ψ.
    """
    confidence, label = full_precision(ensemble).max(1)
    own_confidence, own_label = full_precision(student).softmax(1).max(1)
    conflict = first.argmax(1) != second.argmax(1)
    surer = conflict & (own_label != label) & (own_confidence > confidence)
    return torch.where(surer, own_label, label), torch.where(surer, own_confidence, confidence)
