"""The V-Net of the semi-supervised literature."""

from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from semivox.networks.layers import (
    CONVOLUTIONS,
    DROPOUTS,
    LINEAR,
    TRANSPOSED,
    Norm,
    Upsampling,
    convolution,
    cut_to,
    halvings,
    normalisation,
    pad_to_multiple,
    per_level,
)
from semivox.networks.network import Network, NetworkSettings


class VNetSettings(NetworkSettings):
    """The defaults are the network of UA-MT, DTC, SSL4MIS and their successors."""

    width: int = Field(default=16, ge=1)
    """Channels of the finest level; they double with each level."""
    levels: int = Field(default=5, ge=2, le=8)
    """Resolutions; each is half the one before."""
    convolutions: tuple[PositiveInt, ...] = Field(default=(1, 2, 3), min_length=1)
    """Convolutions per level, fine to coarse, in encoder and decoder; the last number serves all coarser levels."""
    norm: Norm = "batch"
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Whole channels dropped at the bottleneck and before the head, in train mode."""
    upsampling: Upsampling = "transposed"
    """transposed: 2³ transposed convolution. linear, nearest: interpolation and a 3³ convolution (MC-Net's others)."""
    residual: bool = False
    """Adds a block's input to its output where their channels agree, as the first V-Net (Milletari 2016) did."""
    finest_skip: bool = True
    """False: no skip and no block on the finest level going up; its map is what upsampling gives, as in VerSemi."""

    @classmethod
    def planned(
        cls, dimensions: int, patch: Sequence[int] | None = None, spacing_mm: Sequence[float] | None = None
    ) -> Self:
        if patch is None:
            return cls()
        return cls(levels=max(2, 1 + halvings(patch, at_most=4)))


class VNet(Network):
    """V-Net (Milletari et al., 3DV 2016) as UA-MT (Yu et al., MICCAI 2019) and most of the field use it.

    Levels of 16-32-64-128-256 channels with 1-2-3-3-3 convolutions (3³, normalised, ReLU); 2³ convolutions of stride 2
    between them; on the way up transposed convolutions, *addition* of the skip, and 3-3-2-1 convolutions; a 1³ head.
    9,448,866 parameters with batch norm, one channel and two classes. In two dimensions: the same with squares.
    """

    Settings = VNetSettings
    settings: VNetSettings

    def __init__(self, dimensions: int, channels: int, classes: int, settings: VNetSettings) -> None:
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
            DROPOUTS[self.dimensions](self.settings.dropout),
            convolution(self.dimensions, self.map_channels[level], outputs, kernel=1),
        )


class Encoder(nn.Module):
    """(B, C, *space) → one feature per level, fine to coarse; dropout on the coarsest."""

    def __init__(self, dimensions: int, channels: int, widths: Sequence[int], settings: VNetSettings) -> None:
        super().__init__()
        counts = per_level(settings.convolutions, len(widths))
        self.blocks = nn.ModuleList()
        self.downs = nn.ModuleList()
        for level, (width, count) in enumerate(zip(widths, counts, strict=True)):
            self.blocks.append(Block(dimensions, width if level else channels, width, count, settings))
            if level < len(widths) - 1:
                self.downs.append(
                    nn.Sequential(
                        CONVOLUTIONS[dimensions](width, widths[level + 1], kernel_size=2, stride=2),
                        normalisation(settings.norm, dimensions, widths[level + 1]),
                        nn.ReLU(inplace=True),
                    )
                )
        self.dropout = DROPOUTS[dimensions](settings.dropout)
        self.halves = (2,) * dimensions

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [self.blocks[0](x)]
        for down, block in zip(self.downs, self.blocks[1:], strict=True):
            features.append(block(down(pad_to_multiple(features[-1], self.halves))))
        features[-1] = self.dropout(features[-1])
        return features


class Decoder(nn.Module):
    """Features, fine to coarse → maps, coarse to fine."""

    def __init__(self, dimensions: int, widths: Sequence[int], settings: VNetSettings) -> None:
        super().__init__()
        counts = per_level(settings.convolutions, len(widths))
        coarse_to_fine = range(len(widths) - 2, -1, -1)
        self.ups = nn.ModuleList(
            Up(
                dimensions,
                widths[level + 1],
                widths[level],
                settings.upsampling,
                nn.Sequential(normalisation(settings.norm, dimensions, widths[level]), nn.ReLU(inplace=True)),
            )
            for level in coarse_to_fine
        )
        self.blocks = nn.ModuleList(
            Block(dimensions, widths[level], widths[level], counts[level], settings)
            for level in coarse_to_fine
            if level > 0 or settings.finest_skip
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        maps, x = [], features[-1]
        for place, (up, skip) in enumerate(zip(self.ups, features[-2::-1], strict=True)):
            x = up(x, skip.shape[2:])
            if place < len(self.blocks):
                x = self.blocks[place](x + skip)
            maps.append(x)
        return maps


class Block(nn.Module):
    """`count` times 3³ convolution, normalisation, ReLU."""

    def __init__(self, dimensions: int, inputs: int, outputs: int, count: int, settings: VNetSettings) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(count):
            layers += [
                convolution(dimensions, outputs if index else inputs, outputs),
                normalisation(settings.norm, dimensions, outputs),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers[:-1])
        self.activation = layers[-1]
        self.residual = settings.residual and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return self.activation(y + x if self.residual else y)


class Up(nn.Module):
    """Twice the resolution, half the channels, then `finish` (norm and activation), cut to the size of the skip."""

    def __init__(self, dimensions: int, inputs: int, outputs: int, upsampling: Upsampling, finish: nn.Module) -> None:
        super().__init__()
        self.mode = LINEAR[dimensions] if upsampling == "linear" else upsampling
        self.convolution: nn.Module
        if self.mode == "transposed":
            self.convolution = TRANSPOSED[dimensions](inputs, outputs, kernel_size=2, stride=2)
        else:
            self.convolution = convolution(dimensions, inputs, outputs)
        self.finish = finish

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        if self.mode == "transposed":
            return cut_to(self.finish(self.convolution(x)), size)
        return self.finish(self.convolution(F.interpolate(x, size=tuple(size), mode=self.mode)))
