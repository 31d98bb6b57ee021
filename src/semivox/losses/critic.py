"""What critics of single voxels learn, and which voxels they vouch for.

Peiris et al., Uncertainty-guided dual-views for semi-supervised volumetric medical image segmentation (Co-BioNet),
Nature Machine Intelligence 2023.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from semivox.losses.reduction import batch_mean, full_precision


def taken_for_true(logits: Tensor, weight: Tensor | None = None) -> Tensor:
    """BCE(σ(z), 1) = mean over voxels of ln(1 + e^{-z}): 0 where a critic takes all for true; a scalar.

    logits: z (B, *space). weight: (B, *space) float or bool; 0 if nothing counts.
    """
    return batch_mean(F.softplus(-full_precision(logits)), _counted(logits, weight))


def taken_for_made(logits: Tensor, weight: Tensor | None = None) -> Tensor:
    """BCE(σ(z), 0) = mean over voxels of ln(1 + e^z); else as `taken_for_true`."""
    return batch_mean(F.softplus(full_precision(logits)), _counted(logits, weight))


def vouched_for(
    teacher: Tensor, student: Tensor, threshold: float, doubt: float, weight: Tensor | None = None
) -> Tensor:
    """Voxels at which the teacher may be followed, (B, *space) bool: σ(z_t) > T_m + μ · BCE(σ(z_s), 1); no gradient.

    teacher, student: logits (B, *space) of the critics of the two networks. threshold: T_m. doubt: μ, by which a
    student whose own critic sees through it asks for more. weight: (B, *space), what counts in that mean.
    """
    asked = threshold + doubt * taken_for_true(student.detach(), weight)
    return torch.sigmoid(full_precision(teacher.detach())) > asked


def _counted(logits: Tensor, weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.to(full_precision(logits))
