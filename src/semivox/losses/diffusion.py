"""Denoising diffusion of label maps: noise schedule, q-sample, deterministic (DDIM) sampling, fusion of two labellers.

Ho et al., Denoising diffusion probabilistic models, NeurIPS 2020; Song et al., DDIM, ICLR 2021; as in Aggregating &
Decoupling (Wang & Li, NeurIPS 2023), where the network predicts the clean map x_0 itself.

The `diffusers` package was looked at (0.42). Its DDIM scheduler spaces the steps alike (999, 888, ..., 0) but then goes
from t to t - 100, so that it takes ᾱ of 899 where this sampler takes that of 888; its values differ from the published
ones, and what is left to take from it is shorter than its use.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from semivox.data.labels import IGNORE
from semivox.losses.partial import hidden_classes, merge_label
from semivox.losses.reduction import full_precision

STEPS = 1000
"""T: steps of the full schedule, 0..999."""


@cache
def alpha_bars() -> tuple[float, ...]:
    """ᾱ_t = Π_{s ≤ t} (1 - β_s), β from 1e-4 to 0.02 in equal steps: the share of x_0's variance that is left at t."""
    return tuple(torch.cumprod(1 - torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64), 0).tolist())


def sampling_times(steps: int) -> tuple[int, ...]:
    """`steps` steps spread evenly over the full schedule, noisiest first; a single one is the noisiest.

    >>> sampling_times(10)
    (999, 888, 777, 666, 555, 444, 333, 222, 111, 0)
    """
    if steps == 1:
        return (STEPS - 1,)
    return tuple(round((STEPS - 1) * step / (steps - 1)) for step in reversed(range(steps)))


def clean_map(label: Tensor, known: Tensor) -> Tensor:
    """x_0 = 2 · onehot(y) - 1: (B, *space) → (B, K, *space) float32; 0, neither yes nor no, where that is not known.

    Not known is all of a voxel that is `IGNORE`, and in the background whether it is one of the classes that the sample
    does not annotate, so that there the background is 0 too. known: (B, K) bool.
    """
    space = [1] * (label.ndim - 1)
    channels = torch.arange(known.shape[1], device=label.device).view(1, -1, *space)
    label = merge_label(label, known).unsqueeze(1)
    signed = 2.0 * (label == channels) - 1.0
    hidden = hidden_classes(known)
    hidden[:, 0] = hidden.any(1)
    unknown = (label == IGNORE) | (hidden.view(*hidden.shape, *space) & (label == 0))
    return signed.masked_fill(unknown, 0.0)


def q_sample(clean: Tensor, noise: Tensor, times: Sequence[int]) -> Tensor:
    """x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) ε; clean and noise: (B, K, *space), times: t of each of the B samples."""
    kept = clean.new_tensor([alpha_bars()[time] for time in times]).view(-1, *[1] * (clean.ndim - 1))
    return kept.sqrt() * clean + (1 - kept).sqrt() * noise


def ddim_step(noisy: Tensor, estimate: Tensor, alpha_bar: float, previous: float) -> Tensor:
    """One deterministic step (η = 0) towards x_0, from ᾱ_t to ᾱ of the step before it.

    noisy: x_t. estimate: x̂_0. ε̂ = (x_t / √ᾱ_t - x̂_0) / √(1 / ᾱ_t - 1), the result √ᾱ_prev x̂_0 + √(1 - ᾱ_prev) ε̂.
    """
    noise = (noisy / alpha_bar**0.5 - estimate) / (1 / alpha_bar - 1) ** 0.5
    return previous**0.5 * estimate + (1 - previous) ** 0.5 * noise


def ddim(estimate: Callable[[Tensor, int], Tensor], noise: Tensor, steps: int) -> Tensor:
    """x̂_0 of the last of `steps` steps, which begin at pure noise. estimate: (x_t, t) → x̂_0."""
    times = sampling_times(steps)
    kept = [alpha_bars()[time] for time in times]
    x = noise
    for time, alpha_bar, previous in zip(times, kept, [*kept[1:], 1.0], strict=True):
        x = ddim_step(x, estimate(x, time), alpha_bar, previous)
    return x


def gumbel_softmax(logits: Tensor, noise: Tensor | None, temperature: float = 1.0) -> Tensor:
    """softmax((z + g) / τ) over classes, g Gumbel noise or none; (B, K, *space). Jang et al., ICLR 2017 (soft)."""
    logits = full_precision(logits)
    return ((logits if noise is None else logits + noise) / temperature).softmax(1)


def gaussian_smooth(maps: Tensor) -> Tensor:
    """Each channel of (B, K, *space) smoothed by a Gaussian of σ = 1 voxel, cut to 3 voxels a side, zeros around."""
    centre, side = torch.tensor([0.0, -0.5], dtype=torch.float64).exp().div(1 + 2 * torch.e**-0.5).tolist()
    for axis in range(2, maps.ndim):
        smooth = centre * maps
        count = maps.shape[axis] - 1
        smooth.narrow(axis, 1, count).add_(maps.narrow(axis, 0, count), alpha=side)
        smooth.narrow(axis, 0, count).add_(maps.narrow(axis, 1, count), alpha=side)
        maps = smooth
    return maps


def fused_scores(diffused: Tensor, logits: Tensor) -> Tensor:
    """G(p) + softmax(q), whose argmax over classes is the fused pseudo-label; (B, K, *space).

    diffused: p, probabilities of the sampled map, which G, `gaussian_smooth`, smooths. logits: q of the other labeller.
    """
    return gaussian_smooth(full_precision(diffused)) + full_precision(logits).softmax(1)
