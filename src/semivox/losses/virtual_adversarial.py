"""Virtual adversarial training: the small change of a network's input, or of its features, that changes its prediction
most, found without a label; and how far it changes it.

Miyato et al., Virtual adversarial training, TPAMI 2019.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from semivox.losses.dice import dice_soft
from semivox.losses.reduction import full_precision


def adversarial_direction(divergence: Callable[[Tensor], Tensor], start: Tensor, xi: float) -> Tensor:
    """d = ∇_d D(ξ d) / ‖·‖ after one power step from d = start / ‖start‖: of norm 1 over each sample, float32.

    divergence: a change (B, C, *space) → D, scalar in float32, how far the changed prediction is from the unchanged
    one; only the direction of its gradient matters. start: (B, C, *space), a random direction per sample. xi: ξ, how
    far from the unchanged input, where D is flat, the gradient is taken. A sample that D does not depend on has d = 0.

    No weight gets a gradient. D is evaluated with gradient where there is none around it, too.
    """
    with torch.enable_grad():
        d = unit(start).requires_grad_()
        # A sum over voxels has the mean's direction, and is not lost in half precision.
        (gradient,) = torch.autograd.grad(divergence(xi * d) * d[:, 0].numel(), d)
    return unit(gradient)


def unit(x: Tensor) -> Tensor:
    """`x` (B, ...) with norm 1 over each sample, 0 where it is 0; float32, without gradient."""
    x = full_precision(x.detach())
    norm = torch.linalg.vector_norm(x.flatten(1), dim=1).view(-1, *[1] * (x.ndim - 1))
    return x / torch.where(norm > 0, norm, 1)


def smoothness_dice(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over classes of 1 - (2 Σpq + s) / (Σp² + Σq² + s), p = softmax(logits); a scalar, 0 where p = q.

    logits, target: (B, K, *space), q the probabilities without the change. weight: (B, *space) float or bool; 0 if
    nothing counts. Wu et al., SS-Net, MICCAI 2022: their 2-D code is this; in 3-D it has one Dice without squares over
    both classes together, 1 - the mean over voxels of Σ_c p_c q_c, which is best not at p = q but where p is sure.
    """
    return dice_soft(full_precision(logits).softmax(1), target, weight).mean()
