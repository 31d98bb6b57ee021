"""The diffusion V-Net of Aggregating & Decoupling: a V-Net whose encoder a denoising branch can share."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from semivox.networks.layers import (
    CONVOLUTIONS,
    DROPOUTS,
    Norm,
    Upsampling,
    convolution,
    halvings,
    normalisation,
    pad_to_multiple,
    per_level,
)
from semivox.networks.network import DenoisingBranch, Network, NetworkSettings
from semivox.networks.vnet import Up

SINUSOIDS, TIME_WIDTH = 128, 512
"""Sizes of a step's sinusoidal embedding and of what is learned from it."""


class DiffusionVNetSettings(NetworkSettings):
    """The defaults are the published network."""

    width: int = Field(default=32, ge=1)
    """F: channels of the finest level; they double with each level."""
    levels: int = Field(default=5, ge=2, le=8)
    """Resolutions; each is half the one before."""
    convolutions: tuple[PositiveInt, ...] = Field(default=(1, 2, 3), min_length=1)
    """Convolutions per level, fine to coarse, in encoder and decoder; the last number serves all coarser levels."""
    norm: Norm = "batch"
    block_dropout: tuple[float, ...] = Field(default=(0.1,), min_length=1)
    """Whole channels dropped after each convolution, fine to coarse; the last number serves all coarser levels."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Whole channels dropped at the bottleneck and before the head, in train mode."""
    upsampling: Upsampling = "transposed"
    """transposed: 2³ transposed convolution. linear, nearest: interpolation and a 3³ convolution."""

    @classmethod
    def planned(
        cls, dimensions: int, patch: Sequence[int] | None = None, spacing_mm: Sequence[float] | None = None
    ) -> Self:
        if patch is None:
            return cls()
        return cls(levels=max(2, 1 + halvings(patch, at_most=4)))


class DiffusionVNet(Network):
    """The V-Net of Aggregating & Decoupling (Wang & Li, NeurIPS 2023), whose encoder also serves a denoising branch.

    Levels of 32-64-128-256-512 channels with 1-2-3-3-3 convolutions (3³, ReLU *before* batch norm, channel dropout); 2³
    convolutions of stride 2 between them; on the way up transposed convolutions, *addition* of the skip, and 3-3-2-1
    convolutions; a 1³ head; no residuals. Called on an image it is what predicts: 37,777,730 parameters with one
    channel and two classes. `new_denoiser` gives the diffusion half.

    The published model also allocates time layers that no pass goes through (after each block's last convolution, and
    an embedding in the image's stem); they are not made here.
    """

    Settings = DiffusionVNetSettings
    settings: DiffusionVNetSettings
    capabilities = Network.capabilities | {"diffusion"}
    encoder: "Encoder"

    def __init__(self, dimensions: int, channels: int, classes: int, settings: DiffusionVNetSettings) -> None:
        super().__init__(dimensions, channels, classes, settings)
        self.feature_channels = tuple(settings.width * 2**level for level in range(settings.levels))
        self.map_channels = self.feature_channels[-2::-1]
        self.divisor = (2 ** (settings.levels - 1),) * dimensions
        self.encoder = Encoder(dimensions, channels, self.feature_channels, settings)
        self.decoder = self.new_decoder()
        self.classifier = self.new_head(classes)

    def new_decoder(self, **changes: Any) -> "Decoder":
        return Decoder(self.dimensions, self.feature_channels, self.settings.changed(changes))

    def new_head(self, outputs: int, level: int = -1) -> nn.Module:
        return nn.Sequential(
            DROPOUTS[self.dimensions](self.settings.dropout),
            convolution(self.dimensions, self.map_channels[level], outputs, kernel=1),
        )

    def new_denoiser(self) -> "Denoiser":
        return Denoiser(self)


class Denoiser(DenoisingBranch):
    """The diffusion half: image, noisy label map and step → logits of the clean label map, on a network's own encoder.

    It has a stem for [image, x_t], the embedding of t, one layer of it for each place where encoder and decoder take
    the time, a decoder and a head. The network's encoder beyond its stem is shared, and no part of this module.
    """

    def __init__(self, network: DiffusionVNet) -> None:
        super().__init__()
        self._network = (network,)  # a tuple, so that the network is not registered a second time as a submodule
        settings, width = network.settings, network.feature_channels[0]
        inputs, count = network.channels + network.classes, settings.convolutions[0]
        self.stem = Block(network.dimensions, inputs, width, count, settings.block_dropout[0], settings.norm)
        self.embedding = nn.Sequential(
            nn.Linear(SINUSOIDS, TIME_WIDTH), nn.SiLU(), nn.Linear(TIME_WIDTH, TIME_WIDTH), nn.SiLU()
        )
        self.decoder = decoder = network.new_decoder()
        self.head = network.new_head(network.classes)
        self.encoder_times = times_of(network.encoder.body.time_channels)
        self.decoder_times = times_of(decoder.time_channels)

    def forward(self, image: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        """image (B, C, *space), x_t (B, K, *space), t (B,) of the full schedule → logits (B, K, *space)."""
        (network,) = self._network
        time = self.embedding(time_embedding(times))
        # The image's part of the first convolution could be kept over the steps of a sampling, as it is linear. It was
        # tried: that convolution is bound by memory, so the addition takes longer than what it saves (by 7 to 14 %).
        features = network.encoder.body(
            self.stem(torch.cat([image, noisy], dim=1)), [layer(time) for layer in self.encoder_times]
        )
        return self.head(self.decoder(features, [layer(time) for layer in self.decoder_times])[-1])


def times_of(channels: Sequence[int]) -> nn.ModuleList:
    """One layer for each place that takes the time: (B, TIME_WIDTH) → a bias of each of its channels."""
    return nn.ModuleList(nn.Linear(TIME_WIDTH, width) for width in channels)


def time_embedding(times: Tensor, size: int = SINUSOIDS) -> Tensor:
    """[sin(t f_i), cos(t f_i)] with f_i = exp(-ln(10000) i / (size/2 - 1)): (B,) → (B, size) float32 or float64."""
    half = size // 2
    times = times.to(torch.promote_types(times.dtype, torch.float32))
    steps = torch.arange(half, device=times.device, dtype=times.dtype)
    angles = times[:, None] * torch.exp(-math.log(10000) * steps / (half - 1))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Encoder(nn.Module):
    """(B, C, *space) → one feature per level, fine to coarse: an image's stem, and the body that it shares."""

    def __init__(self, dimensions: int, channels: int, widths: Sequence[int], settings: DiffusionVNetSettings) -> None:
        super().__init__()
        count, dropout = settings.convolutions[0], settings.block_dropout[0]
        self.stem = Block(dimensions, channels, widths[0], count, dropout, settings.norm)
        self.body = Body(dimensions, widths, settings)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.body(self.stem(x))


class Body(nn.Module):
    """What a stem gave → features, fine to coarse, itself the first; dropout on the coarsest."""

    time_channels: tuple[int, ...]
    """Channels of each place that takes the time, in order: after going down, after each convolution but the last."""

    def __init__(self, dimensions: int, widths: Sequence[int], settings: DiffusionVNetSettings) -> None:
        super().__init__()
        counts = per_level(settings.convolutions, len(widths))[1:]
        dropouts = per_level(settings.block_dropout, len(widths))[1:]
        self.downs = nn.ModuleList(
            nn.Sequential(
                CONVOLUTIONS[dimensions](inputs, width, kernel_size=2, stride=2),
                *finish(settings.norm, dimensions, width),
            )
            for inputs, width in pairwise(widths)
        )
        self.blocks = nn.ModuleList(
            Block(dimensions, width, width, count, dropout, settings.norm)
            for width, count, dropout in zip(widths[1:], counts, dropouts, strict=True)
        )
        self.time_channels = sum(((width,) * count for width, count in zip(widths[1:], counts, strict=True)), ())
        self.dropout = DROPOUTS[dimensions](settings.dropout)
        self.halves = (2,) * dimensions

    def forward(self, x: Tensor, times: Sequence[Tensor] | None = None) -> list[Tensor]:
        features, left = [x], iter(times) if times else None
        for down, block in zip(self.downs, self.blocks, strict=True):
            features.append(block(timed(down(pad_to_multiple(features[-1], self.halves)), left), left))
        features[-1] = self.dropout(features[-1])
        return features


class Decoder(nn.Module):
    """Features, fine to coarse → maps, coarse to fine."""

    time_channels: tuple[int, ...]
    """As of `Body`: after going up, after each convolution but a block's last."""

    def __init__(self, dimensions: int, widths: Sequence[int], settings: DiffusionVNetSettings) -> None:
        super().__init__()
        counts = per_level(settings.convolutions, len(widths))
        dropouts = per_level(settings.block_dropout, len(widths))
        coarse_to_fine = range(len(widths) - 2, -1, -1)
        self.ups = nn.ModuleList(
            Up(
                dimensions,
                widths[level + 1],
                widths[level],
                settings.upsampling,
                nn.Sequential(*finish(settings.norm, dimensions, widths[level])),
            )
            for level in coarse_to_fine
        )
        self.blocks = nn.ModuleList(
            Block(dimensions, widths[level], widths[level], counts[level], dropouts[level], settings.norm)
            for level in coarse_to_fine
        )
        self.time_channels = sum(((widths[level],) * counts[level] for level in coarse_to_fine), ())

    def forward(self, features: list[Tensor], times: Sequence[Tensor] | None = None) -> list[Tensor]:
        maps, x, left = [], features[-1], iter(times) if times else None
        for up, block, skip in zip(self.ups, self.blocks, features[-2::-1], strict=True):
            x = block(timed(up(x, skip.shape[2:]), left) + skip, left)
            maps.append(x)
        return maps


class Block(nn.Module):
    """`count` times 3³ convolution, ReLU, normalisation, channel dropout; between them the time, where it is given."""

    def __init__(self, dimensions: int, inputs: int, outputs: int, count: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                convolution(dimensions, outputs if index else inputs, outputs),
                *finish(norm, dimensions, outputs),
                DROPOUTS[dimensions](dropout),
            )
            for index in range(count)
        )

    def forward(self, x: Tensor, times: Iterator[Tensor] | None = None) -> Tensor:
        *layers, last = self.layers
        for layer in layers:
            x = timed(layer(x), times)
        return last(x)


def finish(norm: Norm, dimensions: int, channels: int) -> tuple[nn.Module, nn.Module]:
    """What follows every convolution: ReLU, then the normalisation."""
    return nn.ReLU(inplace=True), normalisation(norm, dimensions, channels)


def timed(x: Tensor, times: Iterator[Tensor] | None) -> Tensor:
    """`x` (B, C, *space) with the next of the biases (B, C) added; `x` itself where no time is given."""
    if times is None:
        return x
    bias = next(times)
    return x + bias.view(*bias.shape, *[1] * (x.ndim - 2))
