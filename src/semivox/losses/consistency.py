"""How far two predictions of the same voxels are apart."""

from torch import Tensor

from semivox.losses.reduction import batch_mean, full_precision


def softmax_mse(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over voxels and classes of (softmax(student) - softmax(teacher))²; a scalar.

    student, teacher: logits (B, K, *space); detach the one that is the target. weight: (B, *space) float or bool; 0 if
    nothing counts. Laine & Aila, ICLR 2017, in the form of SSL4MIS: the mean divides by K.
    """
    difference = full_precision(student).softmax(1) - full_precision(teacher).softmax(1)
    return batch_mean(difference.square().mean(1), weight)
