"""A U-Net with a residual encoder and a light decoder, its strides and kernels planned from the data."""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from semivox.errors import SettingError
from semivox.networks.layers import (
    AVERAGE_POOLS,
    LINEAR,
    TRANSPOSED,
    Norm,
    Upsampling,
    convolution,
    cut_to,
    normalisation,
    pad_to_multiple,
    per_level,
)
from semivox.networks.network import Network, NetworkSettings

Axes = tuple[int, ...]
"""One number per axis."""

COARSE = 2.0
"""An axis counts as coarse where its voxels are this many times longer than those of the finest axis."""


class ResidualEncoderUNetSettings(NetworkSettings):
    """Strides and kernels follow from patch and spacing, see `planned`; the defaults here are those of large cubes."""

    width: int = Field(default=32, ge=1)
    """Channels of the finest stage; they double with each stage up to `max_width`."""
    max_width: int = Field(default=320, ge=1)
    strides: tuple[Axes, ...] = Field(default=((1, 1, 1), *[(2, 2, 2)] * 5), min_length=2)
    """Per stage, fine to coarse, by what each axis is reduced on entering it (1 or 2)."""
    kernels: tuple[Axes, ...] = ((3, 3, 3),) * 6
    """Per stage, the convolutions' size along each axis (1 or 3)."""
    blocks: tuple[PositiveInt, ...] = Field(default=(1, 3, 4, 6), min_length=1)
    """Residual blocks per stage of the encoder; the last number serves all coarser stages."""
    decoder_convolutions: int = Field(default=1, ge=1)
    """Convolutions per stage of the decoder."""
    norm: Norm = "instance"
    upsampling: Upsampling = "transposed"
    """transposed: a transposed convolution as large as its stride. linear, nearest: interpolation and a convolution."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """At the bottleneck and before the head."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(self.strides) != len(self.kernels):
            raise ValueError(f"{len(self.strides)} strides but {len(self.kernels)} kernels; give one of each per stage")
        if any(size not in (1, 3) for kernel in self.kernels for size in kernel):
            raise ValueError("kernels must be 1 or 3 along each axis")
        if any(step not in (1, 2) for stride in self.strides for step in stride):
            raise ValueError("strides must be 1 or 2 along each axis")
        return self

    @classmethod
    def planned(
        cls, dimensions: int, patch: Sequence[int] | None = None, spacing_mm: Sequence[float] | None = None
    ) -> Self:
        strides, kernels = plan_stages(patch or (128,) * dimensions, spacing_mm or (1.0,) * dimensions)
        return cls(max_width=512 if dimensions == 2 else 320, strides=strides, kernels=kernels)


def plan_stages(
    patch: Sequence[int], spacing_mm: Sequence[float], smallest: int = 4, at_most: int = 6
) -> tuple[tuple[Axes, ...], tuple[Axes, ...]]:
    """(strides, kernels) per stage for a patch in voxels of a given size, by nnU-Net's rule (Isensee et al., 2021).

    An axis is halved while `smallest` voxels remain and its voxels are less than `COARSE` times as long as the finest
    of the axes that can still be halved; kernels span an axis (3, not 1) once its voxels are no longer coarse. There
    are at least two stages and `at_most` of them.

    >>> plan_stages((20, 256, 224), (5.0, 1.4, 1.4))[0]
    ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    """
    sizes, spacing = list(patch), list(spacing_mm)
    axes = range(len(sizes))
    kernel = [1] * len(sizes)
    strides: list[Axes] = [(1,) * len(sizes)]
    kernels: list[Axes] = []
    while True:
        finest = min(spacing)
        kernel = [3 if kernel[axis] == 3 or spacing[axis] < COARSE * finest else 1 for axis in axes]
        kernels.append(tuple(kernel))
        able = [axis for axis in axes if sizes[axis] >= 2 * smallest]
        if len(strides) == at_most or (not able and len(strides) >= 2):
            return tuple(strides), tuple(kernels)
        # A patch too small to halve gets one halving of its longest axis: a U-Net has two stages at the least.
        able = able or [sizes.index(max(sizes))]
        finest = min(spacing[axis] for axis in able)
        halved = [axis for axis in able if spacing[axis] < COARSE * finest]
        strides.append(tuple(2 if axis in halved else 1 for axis in axes))
        for axis in halved:
            sizes[axis] = -(-sizes[axis] // 2)
            spacing[axis] *= 2


class ResidualEncoderUNet(Network):
    """A residual-encoder U-Net in the manner of nnU-Net's (Isensee et al., nnU-Net revisited, MICCAI 2024).

    A stem convolution, then stages of residual blocks (two convolutions, instance norm, leaky ReLU); the first block of
    a stage reduces, its shortcut by average pooling and a 1³ convolution. The decoder is light: a transposed
    convolution, concatenation and one convolution per stage.
    """

    Settings = ResidualEncoderUNetSettings
    settings: ResidualEncoderUNetSettings

    def __init__(self, dimensions: int, channels: int, classes: int, settings: ResidualEncoderUNetSettings) -> None:
        super().__init__(dimensions, channels, classes, settings)
        if any(len(axes) != dimensions for axes in (*settings.strides, *settings.kernels)):
            raise SettingError(
                f"network 'residual_encoder_unet': strides and kernels need {dimensions} numbers per stage"
            )
        self.feature_channels = tuple(
            min(settings.width * 2**stage, settings.max_width) for stage in range(len(settings.strides))
        )
        self.map_channels = self.feature_channels[-2::-1]
        self.divisor = tuple(math.prod(steps) for steps in zip(*settings.strides, strict=True))
        self.encoder = Encoder(dimensions, channels, self.feature_channels, settings)
        self.decoder = self.new_decoder()
        self.classifier = self.new_head(classes)

    def new_decoder(self, **changes: Any) -> nn.Module:
        return Decoder(self.dimensions, self.feature_channels, self.settings.changed(changes))

    def new_head(self, outputs: int, level: int = -1) -> nn.Module:
        head = convolution(self.dimensions, self.map_channels[level], outputs, kernel=1)
        return initialise(nn.Sequential(nn.Dropout(self.settings.dropout), head))


class Encoder(nn.Module):
    """(B, C, *space) → one feature per stage, fine to coarse."""

    def __init__(
        self,
        dimensions: int,
        channels: int,
        widths: Sequence[int],
        settings: ResidualEncoderUNetSettings,
    ) -> None:
        super().__init__()
        self.stem = normalised(dimensions, channels, widths[0], settings.kernels[0], settings.norm)
        self.stages = nn.ModuleList()
        inputs = widths[0]
        for width, stride, kernel, count in zip(
            widths, settings.strides, settings.kernels, per_level(settings.blocks, len(widths)), strict=True
        ):
            blocks = [ResidualBlock(dimensions, inputs, width, kernel, stride, settings.norm)]
            blocks += [
                ResidualBlock(dimensions, width, width, kernel, (1,) * dimensions, settings.norm)
                for _ in range(count - 1)
            ]
            self.stages.append(nn.Sequential(*blocks))
            inputs = width
        self.dropout = nn.Dropout(settings.dropout)
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        features[-1] = self.dropout(features[-1])
        return features


class Decoder(nn.Module):
    """Features, fine to coarse → maps, coarse to fine."""

    def __init__(
        self,
        dimensions: int,
        widths: Sequence[int],
        settings: ResidualEncoderUNetSettings,
    ) -> None:
        super().__init__()
        self.ups = nn.ModuleList()
        self.blocks = nn.ModuleList()
        for stage in range(len(widths) - 2, -1, -1):
            width, stride, kernel = widths[stage], settings.strides[stage + 1], settings.kernels[stage]
            if settings.upsampling == "transposed":
                self.ups.append(TRANSPOSED[dimensions](widths[stage + 1], width, stride, stride))
            else:
                mode = LINEAR[dimensions] if settings.upsampling == "linear" else settings.upsampling
                up = convolution(dimensions, widths[stage + 1], width, kernel)
                self.ups.append(nn.Sequential(Interpolation(stride, mode), up))
            counts = [2 * width, *[width] * (settings.decoder_convolutions - 1)]
            self.blocks.append(
                nn.Sequential(*(normalised(dimensions, inputs, width, kernel, settings.norm) for inputs in counts))
            )
        initialise(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        maps, x = [], features[-1]
        for up, block, skip in zip(self.ups, self.blocks, features[-2::-1], strict=True):
            x = block(torch.cat([cut_to(up(x), skip.shape[2:]), skip], dim=1))
            maps.append(x)
        return maps


class Interpolation(nn.Module):
    """`stride` times the size of each axis."""

    def __init__(self, stride: Axes, mode: str) -> None:
        super().__init__()
        self.factors = tuple(float(step) for step in stride)
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.factors, mode=self.mode)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut round them; the first convolution reduces."""

    def __init__(self, dimensions: int, inputs: int, outputs: int, kernel: Axes, stride: Axes, norm: Norm) -> None:
        super().__init__()
        self.first = normalised(dimensions, inputs, outputs, kernel, norm, stride)
        self.second = nn.Sequential(
            convolution(dimensions, outputs, outputs, kernel),
            normalisation(norm, dimensions, outputs, affine_instance=True),
        )
        shortcut: list[nn.Module] = []
        if any(step > 1 for step in stride):
            shortcut.append(AveragePool(dimensions, stride))
        if inputs != outputs:
            shortcut.append(convolution(dimensions, inputs, outputs, kernel=1))
            shortcut.append(normalisation(norm, dimensions, outputs, affine_instance=True))
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.second(self.first(x)) + self.shortcut(x))


class AveragePool(nn.Module):
    """Average pooling that rounds sizes up; torch's own refuses an axis shorter than the stride."""

    def __init__(self, dimensions: int, stride: Axes) -> None:
        super().__init__()
        self.stride = stride
        self.pool = AVERAGE_POOLS[dimensions](stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(pad_to_multiple(x, self.stride))


def normalised(
    dimensions: int, inputs: int, outputs: int, kernel: Axes, norm: Norm, stride: int | Axes = 1
) -> nn.Sequential:
    """Convolution, normalisation, leaky ReLU."""
    return nn.Sequential(
        convolution(dimensions, inputs, outputs, kernel, stride),
        normalisation(norm, dimensions, outputs, affine_instance=True),
        nn.LeakyReLU(0.01, inplace=True),
    )


def initialise(module: nn.Module) -> nn.Module:
    """He's normal initialisation for leaky ReLU, zero biases: activations keep their size through deep stages."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(layer.weight, a=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module
