"""Changes of intensity, batched: each is a function of images (B, C, *space) and numbers per sample.

Blur and low resolution are linear along each axis, so they are products with one small matrix per sample and axis: on a
CPU some ten times faster than a convolution, and without borders to invent.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from semivox.sampling.draws import generator, normal
from semivox.sampling.geometry import Probability
from semivox.settings import Part


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"{list(bounds)} runs backwards; give [low, high]")
    return bounds


def _positive(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] <= 0:
        raise ValueError(f"{list(bounds)} must be above 0")
    return bounds


def _not_negative(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] < 0:
        raise ValueError(f"{list(bounds)} must not be below 0")
    return bounds


def _share(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[1] > 1:
        raise ValueError(f"{list(bounds)} must not be above 1")
    return bounds


Bounds = Annotated[tuple[float, float], AfterValidator(_ordered)]
PositiveBounds = Annotated[Bounds, AfterValidator(_positive)]
Widths = Annotated[Bounds, AfterValidator(_not_negative)]
Shares = Annotated[PositiveBounds, AfterValidator(_share)]
Portions = Annotated[Widths, AfterValidator(_share)]


class StrongSettings(Part):
    """The strong view: each change has a probability and a range, from which every sample draws evenly.

    Brightness, contrast and gamma are drawn for each channel on its own; the rest for the sample.
    """

    contrast_probability: Probability = 0.8
    contrast: PositiveBounds = (0.6, 1.5)
    """Factor on the distance from the channel's mean."""
    brightness_probability: Probability = 0.8
    brightness: Bounds = (-0.5, 0.5)
    """What is added, in standard deviations of the sample's channel."""
    gamma_probability: Probability = 0.3
    gamma: PositiveBounds = (0.7, 1.5)
    """Exponent on intensities scaled to [0, 1]; half of the samples are inverted for it and back."""
    blur_probability: Probability = 0.5
    blur_voxels: Widths = (0.25, 1.5)
    """Standard deviation of the Gaussian, in voxels."""
    resolution_probability: Probability = 0.25
    resolution: Shares = (0.5, 1.0)
    """Share of the voxels kept along each axis by simulated low resolution."""
    noise_probability: Probability = 0.5
    noise: Widths = (0.0, 0.2)
    """Standard deviation of Gaussian noise, in those of the sample's channel."""


class NoisySettings(Part):
    """The noisy view of the mean teacher and its heirs: the weak view plus clip(deviation · N(0, 1), ±limit)."""

    deviation: Annotated[float, Field(ge=0)] = 0.1
    """In units of the prepared image (1 is a standard deviation of a z-scored scan)."""
    limit: Annotated[float, Field(ge=0)] = 0.2


def clipped_noise(images: Tensor, seeds: Sequence[int], deviation: float, limit: float) -> Tensor:
    """images + clip(deviation · N(0, 1), ±limit); the noise of sample b is a function of `seeds[b]`."""
    noise = normal(tuple(images.shape[1:]), tuple(seeds), images.device)
    return noise.mul_(deviation).clamp_(-limit, limit).add_(images)


def relative_noise(images: Tensor, seeds: Sequence[int], deviation: Tensor) -> Tensor:
    """images + deviation · s · N(0, 1), s the standard deviation of the channel; `deviation` (B,)."""
    noise = normal(tuple(images.shape[1:]), tuple(seeds), images.device)
    width = _per_voxel(deviation[:, None], images) * _spread(images)
    return noise.mul_(width).add_(images)


def brightness(images: Tensor, shift: Tensor) -> Tensor:
    """images + shift · s, s the standard deviation of the channel; `shift` (B, C)."""
    return images + _per_voxel(shift, images) * _spread(images)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """m + factor · (images - m), m the mean of the channel; `factor` (B, C)."""
    mean = images.mean(_space(images), keepdim=True)
    factor = _per_voxel(factor, images)
    return images * factor + mean * (1 - factor)


def gamma(images: Tensor, exponent: Tensor, inverted: Tensor) -> Tensor:
    """u ** exponent with u the channel scaled to [0, 1], scaled back; `exponent` (B, C), `inverted` (B,) bool.

    An inverted sample has 1 - (1 - u) ** exponent. A constant channel stays as it is.
    """
    low, high = images.amin(_space(images), keepdim=True), images.amax(_space(images), keepdim=True)
    width = high - low
    scaled = (images - low) / width.clamp_min(torch.finfo(images.dtype).tiny)
    flipped = _per_voxel(inverted[:, None], images)
    scaled = torch.where(flipped, 1 - scaled, scaled).clamp_(0, 1) ** _per_voxel(exponent, images)
    return torch.where(flipped, 1 - scaled, scaled) * width + low


def blur(images: Tensor, deviation: Tensor, axes: Sequence[int]) -> Tensor:
    """Gaussian blur along the space axes `axes` (0 is the first); `deviation` (B,) in voxels, 0 leaves a sample alone.

    The kernel is cut at the border and its weights sum to one there as elsewhere.
    """
    matrices = {}
    for axis in axes:
        place = torch.arange(images.shape[2 + axis], device=images.device, dtype=images.dtype)
        distance = (place[:, None] - place[None, :]) / deviation.clamp_min(1e-3)[:, None, None]
        weights = torch.exp(-0.5 * distance**2)
        matrices[axis] = weights / weights.sum(2, keepdim=True)
    return _along_axes(images, matrices)


def low_resolution(images: Tensor, share: Tensor, axes: Sequence[int]) -> Tensor:
    """Keeps round(share · n) voxels along each of `axes` (the nearest), then interpolates linearly; `share` (B,)."""
    matrices = {}
    for axis in axes:
        size = images.shape[2 + axis]
        kept = (share * size).round().clamp(1, size)[:, None]
        place = torch.arange(size, device=images.device, dtype=images.dtype)[None]
        low = ((place + 0.5) * kept / size - 0.5).clamp_min(0).minimum(kept - 1)
        below = low.floor()
        above = (below + 1).minimum(kept - 1)
        matrix = torch.zeros(len(images), size, size, device=images.device, dtype=images.dtype)
        for point, weight in ((below, 1 - (low - below)), (above, low - below)):
            nearest = ((point + 0.5) * size / kept).floor().long().clamp_(max=size - 1)
            matrix.scatter_add_(2, nearest[..., None], weight[..., None])
        matrices[axis] = matrix
    return _along_axes(images, matrices)


def strong(
    images: Tensor, seeds: Sequence[int], noise_seeds: Sequence[int], axes: Sequence[int], settings: StrongSettings
) -> Tensor:
    """The strong view of images (B, C, *space): contrast, brightness, gamma, blur, low resolution and noise, in turn.

    What is drawn for sample b is a function of `seeds[b]` (the same for the slices of a clip), its noise of
    `noise_seeds[b]`. Blur and low resolution act along the space axes `axes`.
    """
    images = images.clone()
    device, channels = images.device, images.shape[1]

    def drawn(name: str, probability: float, bounds: tuple[float, float], size: tuple[int, ...]) -> tuple:
        """Rows that have the change, and the values (rows, *size) they drew."""
        on, values = [], []
        for row, seed in enumerate(seeds):
            random = generator(seed, name)
            if random.random() < probability:
                on.append(row)
                values.append(random.uniform(*bounds, size=size))
        return on, torch.tensor(np.array(values), dtype=images.dtype, device=device)

    s = settings
    on, value = drawn("contrast", s.contrast_probability, s.contrast, (channels,))
    if on:
        images[on] = contrast(images[on], value)
    on, value = drawn("brightness", s.brightness_probability, s.brightness, (channels,))
    if on:
        images[on] = brightness(images[on], value)
    on, value = drawn("gamma", s.gamma_probability, s.gamma, (channels,))
    if on:
        inverted = torch.tensor([generator(seeds[row], "inverted").random() < 0.5 for row in on], device=device)
        images[on] = gamma(images[on], value, inverted)
    on, value = drawn("blur", s.blur_probability, s.blur_voxels, ())
    if on:
        images[on] = blur(images[on], value, axes)
    on, value = drawn("resolution", s.resolution_probability, s.resolution, ())
    if on:
        images[on] = low_resolution(images[on], value, axes)
    on, value = drawn("noise", s.noise_probability, s.noise, ())
    if on:
        images[on] = relative_noise(images[on], [noise_seeds[row] for row in on], value)
    return images


def _space(images: Tensor) -> tuple[int, ...]:
    return tuple(range(2, images.dim()))


def _per_voxel(values: Tensor, images: Tensor) -> Tensor:
    """(B, C) or (B, 1) → (B, C, 1, ...), to be multiplied with images."""
    return values.reshape(*values.shape, *[1] * (images.dim() - 2))


def _spread(images: Tensor) -> Tensor:
    return images.std(_space(images), keepdim=True, correction=0)


def _along_axes(images: Tensor, matrices: dict[int, Tensor]) -> Tensor:
    """Multiplies along each space axis with a matrix (B, n, n) per sample."""
    letters = "xyz"[: images.dim() - 2]
    for axis, matrix in matrices.items():
        result = letters.replace(letters[axis], "i")
        images = torch.einsum(f"bi{letters[axis]},bc{letters}->bc{result}", matrix, images)
    return images
