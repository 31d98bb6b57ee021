"""The U-Net of the semi-supervised literature."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from semivox.networks.layers import (
    LINEAR,
    MAX_POOLS,
    TRANSPOSED,
    Norm,
    Upsampling,
    convolution,
    cut_to,
    halvings,
    normalisation,
    per_level,
)
from semivox.networks.network import Network, NetworkSettings


class UNetSettings(NetworkSettings):
    """The defaults are the 2-D network of SSL4MIS and its successors on ACDC; `planned` has the 3-D one too."""

    width: int = Field(default=16, ge=1)
    """Channels of the finest level; they double with each level."""
    levels: int = Field(default=5, ge=2, le=8)
    """Resolutions; each is half the one before."""
    norm: Norm = "batch"
    slope: float = Field(default=0.01, ge=0, lt=1)
    """Of the leaky ReLU for negative values; 0 is the plain ReLU."""
    block_dropout: tuple[float, ...] = Field(default=(0.05, 0.1, 0.2, 0.3, 0.5), min_length=1)
    """Between the two convolutions of each encoder block, fine to coarse; the last number serves all coarser levels."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """At the bottleneck and before the head."""
    upsampling: Upsampling = "linear"
    """linear, nearest: interpolation. transposed: 2² transposed convolution that halves the channels."""
    reduce: bool = True
    """A 1×1 convolution halves the channels before interpolation."""
    head_kernel: int = Field(default=3, ge=1, le=7)
    """Size of the output convolution."""

    @classmethod
    def planned(
        cls, dimensions: int, patch: Sequence[int] | None = None, spacing_mm: Sequence[float] | None = None
    ) -> Self:
        levels = 5 if patch is None else max(2, 1 + halvings(patch, at_most=4))
        if dimensions == 2:
            return cls(levels=levels)
        return cls(
            levels=levels, norm="instance", slope=0.0, block_dropout=(0.0,), dropout=0.3, reduce=False, head_kernel=1
        )


class UNet(Network):
    """U-Net (Ronneberger et al., MICCAI 2015) as SSL4MIS and most of the field use it.

    In two dimensions: 16-32-64-128-256 channels, two 3×3 convolutions per level (batch norm, leaky ReLU), max-pooling;
    on the way up a 1×1 convolution, bilinear interpolation, *concatenation* [skip, up] and two convolutions; a 3×3
    head. 1,813,764 parameters with one channel and four classes. The public option dictionary says "not bilinear",
    but the option never reaches the decoder, so that bilinear is what every published figure used.

    In three dimensions (`planned(3)`): instance norm, ReLU, trilinear interpolation without the 1³ convolution, dropout
    0.3, a 1³ head; 5,884,050 parameters with one channel and two classes.
    """

    Settings = UNetSettings
    settings: UNetSettings

    def __init__(self, dimensions: int, channels: int, classes: int, settings: UNetSettings) -> None:
        super().__init__(dimensions, channels, classes, settings)
        self.feature_channels = tuple(settings.width * 2**level for level in range(settings.levels))
        self.map_channels = self.feature_channels[-2::-1]
        self.divisor = (2 ** (settings.levels - 1),) * dimensions
        self.encoder = Encoder(dimensions, channels, self.feature_channels, settings)
        self.decoder = self.new_decoder()
        self.classifier = self.new_head(classes)

    def new_decoder(self, **changes: Any) -> nn.Module:
        return Decoder(self.dimensions, self.feature_channels, self.settings.changed(changes))

    def new_head(self, outputs: int, level: int = -1) -> nn.Module:
        return nn.Sequential(
            nn.Dropout(self.settings.dropout),
            convolution(self.dimensions, self.map_channels[level], outputs, kernel=self.settings.head_kernel),
        )


class Encoder(nn.Module):
    """(B, C, *space) → one feature per level, fine to coarse."""

    def __init__(self, dimensions: int, channels: int, widths: Sequence[int], settings: UNetSettings) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            block(dimensions, inputs, outputs, settings, dropout)
            for inputs, outputs, dropout in zip(
                (channels, *widths[:-1]), widths, per_level(settings.block_dropout, len(widths)), strict=True
            )
        )
        self.pool = MAX_POOLS[dimensions](2, ceil_mode=True)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [self.blocks[0](x)]
        for level in self.blocks[1:]:
            features.append(level(self.pool(features[-1])))
        features[-1] = self.dropout(features[-1])
        return features


class Decoder(nn.Module):
    """Features, fine to coarse → maps, coarse to fine."""

    def __init__(self, dimensions: int, widths: Sequence[int], settings: UNetSettings) -> None:
        super().__init__()
        coarse_to_fine = range(len(widths) - 2, -1, -1)
        ups = [Up(dimensions, widths[level + 1], widths[level], settings) for level in coarse_to_fine]
        self.ups = nn.ModuleList(ups)
        self.blocks = nn.ModuleList(
            block(dimensions, widths[level] + up.outputs, widths[level], settings, dropout=0.0)
            for level, up in zip(coarse_to_fine, ups, strict=True)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        maps, x = [], features[-1]
        for up, level, skip in zip(self.ups, self.blocks, features[-2::-1], strict=True):
            x = level(torch.cat([skip, up(x, skip.shape[2:])], dim=1))
            maps.append(x)
        return maps


def block(dimensions: int, inputs: int, outputs: int, settings: UNetSettings, dropout: float) -> nn.Sequential:
    """Two 3×3 convolutions, each normalised and activated, with dropout between them."""

    def half(channels: int) -> tuple[nn.Module, ...]:
        return (
            convolution(dimensions, channels, outputs),
            normalisation(settings.norm, dimensions, outputs),
            nn.LeakyReLU(settings.slope, inplace=True),
        )

    return nn.Sequential(*half(inputs), nn.Dropout(dropout), *half(outputs))


class Up(nn.Module):
    """The resolution of the skip; half the channels unless `reduce` is off."""

    def __init__(self, dimensions: int, inputs: int, outputs: int, settings: UNetSettings) -> None:
        super().__init__()
        self.mode = LINEAR[dimensions] if settings.upsampling == "linear" else settings.upsampling
        # The public 2-D network aligns corners, the 3-D one does not.
        self.align_corners = dimensions == 2 if settings.upsampling == "linear" else None
        self.outputs = outputs
        self.convolution: nn.Module = nn.Identity()
        if self.mode == "transposed":
            self.convolution = TRANSPOSED[dimensions](inputs, outputs, kernel_size=2, stride=2)
        elif settings.reduce:
            self.convolution = convolution(dimensions, inputs, outputs, kernel=1)
        else:
            self.outputs = inputs

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        x = self.convolution(x)
        if self.mode == "transposed":
            return cut_to(x, size)
        return F.interpolate(x, size=tuple(size), mode=self.mode, align_corners=self.align_corners)
