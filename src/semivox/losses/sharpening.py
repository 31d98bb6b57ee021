"""Probabilities made more certain, in the two forms that papers use; of two classes both make the same.

T = 1 changes nothing, T → 0 makes hard labels; the order of the classes stays. Powers are taken of p over the largest,
which cancels, so that no small T gives 0/0.
"""

from torch import Tensor

from semivox.losses.reduction import full_precision


def sharpen(probabilities: Tensor, temperature: float) -> Tensor:
    """s(p) = p^{1/T} / (p^{1/T} + (1 - p)^{1/T}) for every element; same shape, float32.

    Wu et al., MC-Net, MICCAI 2021, with T = 0.1. Of three classes or more the results do not sum to 1. The slope at
    p = ½ is 1/T: a gradient through it is large there.
    """
    p = full_precision(probabilities)
    largest = p.detach().maximum(1 - p.detach())
    power, other = ((value / largest) ** (1 / temperature) for value in (p, 1 - p))
    return power / (power + other)


def sharpen_classes(probabilities: Tensor, temperature: float) -> Tensor:
    """p_c^{1/T} / Σ_k p_k^{1/T} over the classes of (B, K, *space); same shape, sums to 1, float32.

    Berthelot et al., MixMatch, NeurIPS 2019, with T = 0.5.
    """
    p = full_precision(probabilities)
    powers = (p / p.detach().amax(1, keepdim=True)) ** (1 / temperature)
    return powers / powers.sum(1, keepdim=True)
