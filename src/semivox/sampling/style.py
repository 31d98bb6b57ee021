"""The look of another sample: its contrast, its gain and its shading, on an image that keeps its own content.

Two scanners show the same body in other grey values. A view that has the look of another domain's scan tells a network
that the look does not matter; labels stay as they are. Images are (B, C, *space), masks (B, *space).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from semivox.sampling.draws import generator
from semivox.sampling.geometry import Probability
from semivox.sampling.intensity import Portions, Shares
from semivox.settings import Part

LEVELS = 256
"""Quantiles by which histograms are matched."""
SAMPLES = 65_521
"""Voxels of a patch from which its quantiles are taken; a prime, so that they do not all lie in a few of its planes."""


class StyleSettings(Part):
    """Looks taken from the sample at the same place of the other stream: unlabelled samples get those of labelled ones
    and the other way round, in labelled-only training those of a neighbour. Off unless a probability is given."""

    fourier_probability: Probability = 0.0
    """Of a mix of Fourier amplitudes."""
    fourier_band: Shares = (0.01, 0.1)
    """β: frequencies along each axis, in cycles per voxel, up to which amplitudes are mixed; 0.5 and more is all."""
    fourier_mix: Portions = (0.0, 1.0)
    """λ: share of the other's amplitude; 1 exchanges it."""
    histogram_probability: Probability = 0.0
    """Of histogram matching."""
    histogram_mix: Portions = (0.5, 1.0)
    """How far towards the other's histogram."""
    labelled: bool = True
    """Whether labelled samples get a look too, in all their views but plain ones; strong views always do."""

    @property
    def is_on(self) -> bool:
        """Whether any view gets another look."""
        return self.fourier_probability > 0 or self.histogram_probability > 0


def counterparts(count: int, others: int, clip: int = 1) -> Tensor:
    """For each of a stream's `count` samples the one, of another stream's `others`, at the same place: (count,) int64.

    Slices of a clip go with slices of a clip. Of streams of unlike length several share one or some have none; either
    way a sample's counterpart lies on its own rank.
    """
    row = torch.arange(count)
    place = row // clip * (others // clip) // (count // clip)
    return place * clip + row % clip


def styled(
    images: Tensor, valid: Tensor, looks: Tensor, looks_valid: Tensor, seeds: Sequence[int], settings: StyleSettings
) -> Tensor:
    """Images with, by chance, the look of the other image in their row; what is drawn for row b is a function of
    `seeds[b]`. Voxels that are not valid stay as they are, and do not count."""
    s, result = settings, images.clone()
    rows, drawn = _drawn("fourier", seeds, s.fourier_probability, (s.fourier_band, s.fourier_mix), images)
    if rows:
        result[rows] = mix_amplitudes(result[rows], looks[rows], *drawn)
    rows, drawn = _drawn("histogram", seeds, s.histogram_probability, (s.histogram_mix,), images)
    if rows:
        result[rows] = match_histograms(result[rows], valid[rows], looks[rows], looks_valid[rows], *drawn)
    return torch.where(valid[:, None], result, images)


def mix_amplitudes(images: Tensor, looks: Tensor, band: Tensor, mix: Tensor) -> Tensor:
    """Images with amplitudes (1 - λ) |F(x)| + λ |F(look)| at frequencies up to β along every axis, and their own phase.

    band, mix (B,): β in cycles per voxel, λ. λ = 1 is Fourier domain adaptation (Yang and Soatto, CVPR 2020), whose
    window of half-width ⌊β n⌋ this is; λ drawn from (0, η) with β = 0.5 the amplitude mix of Xu et al. (A Fourier-based
    framework for domain generalization, CVPR 2021).

    Ours: at frequency zero the sums themselves are mixed, for prepared images have either sign, and the sum's phase,
    0 or π, would keep a dark patch dark.
    """
    axes = tuple(range(2, images.dim()))
    own, other = torch.fft.rfftn(images, dim=axes), torch.fft.rfftn(looks, dim=axes)
    mix, band = (value.view(-1, *[1] * (images.dim() - 1)) for value in (mix, band))
    is_low = torch.ones_like(own, dtype=torch.bool)
    for axis in axes:
        frequencies = torch.fft.rfftfreq if axis == axes[-1] else torch.fft.fftfreq
        along = frequencies(images.shape[axis], device=images.device, dtype=images.dtype).abs()
        is_low &= along.view(-1, *[1] * (axes[-1] - axis)) <= band + 1e-6  # 0.3 is meant to hold 3/10
    mixed = torch.polar(own.abs().lerp(other.abs(), mix.to(images)), own.angle())
    is_zero = torch.zeros(own.shape[2:], dtype=torch.bool, device=images.device)
    is_zero.view(-1)[0] = True
    mixed = torch.where(is_zero, own.lerp(other, mix.to(own)), mixed)
    return torch.fft.irfftn(torch.where(is_low, mixed, own), s=images.shape[2:], dim=axes)


def match_histograms(images: Tensor, valid: Tensor, looks: Tensor, looks_valid: Tensor, mix: Tensor) -> Tensor:
    """Images whose intensities are moved by `mix` (B,) towards those of equal rank in the look, channel by channel.

    Ranks are read off `LEVELS` quantiles of the valid voxels, linear between them, as Nyúl and Udupa's
    standardisation does (On standardizing the MR image intensity scale, MRM 1999) with fewer landmarks. Voxels of
    one value, as air has, go to one value. A sample stays as it is where it or the look has no valid voxel.
    """
    own, other = quantiles(images, valid), quantiles(looks, looks_valid)
    values = images.flatten(2)
    matched = _at(other, _rank(own, values)).view_as(images)
    known = (valid.flatten(1).any(1) & looks_valid.flatten(1).any(1)).view(-1, *[1] * (images.dim() - 1))
    mix = mix.view_as(known).to(images)
    return torch.where(known, images.lerp(matched, mix), images)


def quantiles(images: Tensor, valid: Tensor) -> Tensor:
    """(B, C, LEVELS) intensities from the least to the greatest valid one; infinite where no voxel is valid."""
    count = valid[0].numel()
    chosen = torch.arange(min(count, SAMPLES), device=images.device) * count // min(count, SAMPLES)
    kept = valid.flatten(1)[:, None, chosen]
    ordered = images.flatten(2)[..., chosen].masked_fill(~kept, torch.inf).sort(-1).values
    last = (kept.sum(-1, keepdim=True) - 1).clamp_min(0)
    place = torch.linspace(0, 1, LEVELS, device=images.device, dtype=images.dtype) * last
    return _at(ordered, place.expand(*ordered.shape[:2], LEVELS))


def _rank(ordered: Tensor, values: Tensor) -> Tensor:
    """Where values (B, C, n) lie among ordered ones (B, C, m), 0 to m - 1, with fractions between them; the middle of
    several that are equal."""
    ordered, values = ordered.contiguous(), values.contiguous()

    def place(right: bool) -> Tensor:
        low = (torch.searchsorted(ordered, values, right=right) - 1).clamp(0, ordered.shape[-1] - 2)
        below, above = ordered.gather(-1, low), ordered.gather(-1, low + 1)
        width = above - below
        beyond = values >= below if right else values > below
        return low + torch.where(width > 0, (values - below) / width, beyond.to(values)).clamp(0, 1)

    return (place(right=False) + place(right=True)) / 2


def _at(ordered: Tensor, place: Tensor) -> Tensor:
    """What lies at fractional places (B, C, n) of `ordered` (B, C, m)."""
    low = place.floor().long().clamp(0, ordered.shape[-1] - 1)
    high = (low + 1).clamp_max(ordered.shape[-1] - 1)
    below, above = ordered.gather(-1, low), ordered.gather(-1, high)
    return torch.where(place > low, below.lerp(above, place - low), below)


def _drawn(
    name: str, seeds: Sequence[int], probability: float, bounds: Sequence[tuple[float, float]], like: Tensor
) -> tuple[list[int], Tensor]:
    """Rows that get the change, and what they drew: a row of the tensor for each of `bounds`."""
    rows, values = [], []
    for row, seed in enumerate(seeds):
        random = generator(seed, name)
        if random.random() < probability:
            rows.append(row)
            values.append([random.uniform(*pair) for pair in bounds])
    return rows, torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, len(bounds)).T
