"""Several predictions of one image, each drawn towards the sharpened others."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from semivox.losses.reduction import batch_mean, full_precision
from semivox.losses.sharpening import sharpen


def mutual_mse(
    logits: Sequence[Tensor],
    temperature: float,
    weight: Tensor | None = None,
    detach: bool = False,
    sharpening: Callable[[Tensor, float], Tensor] = sharpen,
) -> Tensor:
    """Σ over ordered pairs i ≠ j of the mean over voxels and classes of (p_i - s(p_j))²; a scalar.

    logits: two or more of (B, K, *space); p = softmax, s = `sharpening` with T = `temperature`. weight: (B, *space)
    float or bool; 0 if nothing counts. detach: whether s(p_j) is a target without gradient. Wu et al., MC-Net, MICCAI
    2021, and MC-Net+, MedIA 2022, with `sharpen` and without detaching it.
    """
    predicted = [full_precision(z).softmax(1) for z in logits]
    sharpened = [sharpening(p.detach() if detach else p, temperature) for p in predicted]
    squares = [(predicted[i] - sharpened[j]).square() for i, j in itertools.permutations(range(len(predicted)), 2)]
    return batch_mean(torch.stack(squares).sum(0).mean(1), weight)
