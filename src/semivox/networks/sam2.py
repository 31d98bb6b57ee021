"""SAM-2's image encoder as a network of slices and pictures."""

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from semivox.errors import SettingError
from semivox.networks.layers import GroupNorm, Upsampling, convolution, cut_to, pad_to_multiple
from semivox.networks.lora import add_lora, without_lora
from semivox.networks.network import Network, NetworkSettings
from semivox.networks.sam2_architecture import ARCHITECTURES, STRIDE, Size, image_encoder
from semivox.networks.sam2_checkpoint import find, read_checkpoint, read_memory
from semivox.networks.sam2_prompts import Prompter

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

FINE_TUNING_RATE = 0.05
"""5e-6 for a pretrained encoder where all else has 1e-4."""


class Sam2Settings(NetworkSettings):
    """The defaults are SAM-2 hiera-small from random weights."""

    size: Size = "small"
    """tiny, small, base_plus, large: SAM-2's own. miniature: 0.3 million weights, for tests."""
    weights: str | None = None
    """Folder with config.json and model.safetensors, or id of the hub that was fetched before, e.g.
    facebook/sam2.1-hiera-small; SAM-2.0 and 2.1, of images or video. None: random."""
    tuning: Literal["full", "frozen", "lora"] = "full"
    """What of the encoder is trained: all, nothing, or corrections of low rank to the attention."""
    lora_rank: int = Field(default=4, ge=1)
    """r: rank of the corrections."""
    encoder_rate: float | None = Field(default=None, ge=0)
    """Factor on the encoder's learning rate. None: 0.05 with pretrained weights that are trained in full, else 1."""
    intensities: Literal["standardised", "unit"] = "standardised"
    """Of prepared scans. standardised: mean 0, deviation 1 (zscore, ct), where ImageNet's statistics bring photographs
    too; they go in as they are. unit: [0, 1] (minmax, range), brought there by those statistics."""
    decoder_width: int = Field(default=64, ge=1)
    """Channels of each scale in the semantic decoder."""
    map_width: int = Field(default=32, ge=1)
    """Channels of the map before the logits."""
    upsampling: Upsampling = "linear"
    """In the semantic decoder. linear, nearest: interpolation. transposed: a transposed convolution per scale."""

    @classmethod
    def planned(
        cls, dimensions: int, patch: Sequence[int] | None = None, spacing_mm: Sequence[float] | None = None
    ) -> Self:
        return cls()

    def refuse_absent_files(self) -> None:
        if self.weights is not None:
            find(self.weights)


class Sam2(Network):
    """The image encoder of SAM-2 (Ravi et al., ICLR 2025) with a light semantic decoder; reads slices and pictures.

    Features: the image in three colours, which tells the decoder the size, then the encoder's maps at strides 4, 8, 16,
    of the image padded with zeros to multiples of 32. Decoder: 1² convolutions to 64 channels, all brought to stride 4
    and summed, GroupNorm(8), ReLU, 3² convolution to 32 channels, bilinear to the image's size; the head is a 1²
    convolution. As a 1² convolution and interpolation commute, `head(maps[-2])`, interpolated, gives the same logits
    for a sixteenth of the work, up to rounding.

    One channel is repeated thrice, three are taken as colours, other numbers pass a learned 1² convolution that begins
    as averages. Needs the extra `sam`. Weights named in the settings are read by `load_pretrained`, from disk alone.
    `new_prompter` gives the prompt encoder and mask decoder, as modules of whoever wants them.
    """

    Settings = Sam2Settings
    settings: Sam2Settings
    capabilities = frozenset({"features", "maps", "decoder", "head", "prompter"})
    dimensionalities = frozenset({2})

    def __init__(self, dimensions: int, channels: int, classes: int, settings: Sam2Settings) -> None:
        super().__init__(dimensions, channels, classes, settings)
        width = ARCHITECTURES[settings.size].width
        self.feature_channels = (3, width, width, width)
        self.map_channels = (settings.decoder_width, settings.decoder_width, settings.map_width, settings.map_width)
        self.divisor = (STRIDE, STRIDE)
        self.encoder: Encoder = Encoder(channels, settings)
        self.decoder = self.new_decoder()
        self.classifier = self.new_head(classes)
        self.pretrained = False

    @property
    def rates(self) -> dict[nn.Module, float]:
        settings = self.settings
        pretrained = settings.weights is not None and settings.tuning == "full"
        usual = FINE_TUNING_RATE if pretrained else 1.0
        return {self.encoder: usual if settings.encoder_rate is None else settings.encoder_rate}

    def load_pretrained(self) -> None:
        if self.settings.weights is None:
            return
        read = read_checkpoint(self.settings.weights, self.settings.size).vision_encoder.state_dict()
        vision = self.encoder.vision
        if without_lora(vision.state_dict()) != read.keys():
            raise SettingError(f"sam2: weights '{self.settings.weights}' have other layers; give a SAM-2 checkpoint")
        vision.load_state_dict(read, strict=False)
        self.pretrained = True

    def new_decoder(self, **changes: Any) -> nn.Module:
        return Decoder(self.feature_channels[1:], self.settings.changed(changes))

    def new_head(self, outputs: int, level: int = -1) -> nn.Module:
        return convolution(2, self.map_channels[level], outputs, kernel=1)

    def new_prompter(
        self, classes: int = 0, *, masks: bool = False, score: bool = False, memory: bool = False
    ) -> Prompter:
        prompter = Prompter(self.settings.size, classes, masks=masks, score=score, memory=memory)
        if self.pretrained and self.settings.weights is not None:
            prompter.take(read_checkpoint(self.settings.weights, self.settings.size))
            if prompter.memory is not None:
                prompter.memory.take(read_memory(self.settings.weights, self.settings.size))
        return prompter


class Encoder(nn.Module):
    """(B, C, H, W) → the image in three colours (B, 3, H, W), and maps of strides 4, 8, 16 of the padded image."""

    def __init__(self, channels: int, settings: Sam2Settings) -> None:
        super().__init__()
        self.unit = settings.intensities == "unit"
        self.colours = nn.Identity() if channels in (1, 3) else colour_convolution(channels)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION).view(1, 3, 1, 1), persistent=False)
        self.vision = image_encoder(settings.size)
        if settings.tuning == "frozen":
            self.vision.requires_grad_(False)
        elif settings.tuning == "lora":
            add_lora(self.vision, "qkv", settings.lora_rank)

    def forward(self, x: Tensor) -> list[Tensor]:
        image = self.colours(x).expand(-1, 3, -1, -1)
        if self.unit:
            image = (image - self.mean) / self.deviation
        return [image, *self.vision(pad_to_multiple(image, (STRIDE, STRIDE))).fpn_hidden_states]


def colour_convolution(channels: int) -> nn.Module:
    """A 1² convolution to three colours; each begins as the mean of every third channel, or of all if there is none."""
    layer = convolution(2, channels, 3, kernel=1)
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    weight = torch.zeros(3, channels)
    for colour in range(3):
        own = slice(colour, None, 3) if colour < channels else slice(None)
        weight[colour, own] = 1 / len(weight[colour, own])
    with torch.no_grad():
        layer.weight.copy_(weight.view_as(layer.weight))
        layer.bias.zero_()
    return layer


class Decoder(nn.Module):
    """Features, fine to coarse → maps at strides 16, 8, 4 and 1; those of strides 16 and 8 before they are summed."""

    def __init__(self, widths: Sequence[int], settings: Sam2Settings) -> None:
        super().__init__()
        width = settings.decoder_width
        self.laterals = nn.ModuleList(convolution(2, inputs, width, kernel=1) for inputs in widths)
        self.ups = nn.ModuleList(Up(width, factor, settings.upsampling) for factor in (2, 4))
        self.norm = GroupNorm(math.gcd(8, width), width, affine=True)
        self.fuse = convolution(2, width, settings.map_width)
        self.up = Up(settings.map_width, 4, settings.upsampling)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        image, *levels = features
        fine, *coarser = (lateral(level) for lateral, level in zip(self.laterals, levels, strict=True))
        together = fine
        for up, x in zip(self.ups, coarser, strict=True):
            together = together + up(x)
        fused = self.fuse(F.relu(self.norm(together)))
        return [*reversed(coarser), fused, cut_to(self.up(fused), image.shape[2:])]


class Up(nn.Module):
    """`factor` times the resolution."""

    def __init__(self, channels: int, factor: int, upsampling: Upsampling) -> None:
        super().__init__()
        self.factor = factor
        self.mode = "bilinear" if upsampling == "linear" else "nearest"
        transposed = upsampling == "transposed"
        self.convolution = nn.ConvTranspose2d(channels, channels, factor, factor) if transposed else None

    def forward(self, x: Tensor) -> Tensor:
        if self.convolution is not None:
            return self.convolution(x)
        return F.interpolate(x, scale_factor=self.factor, mode=self.mode)
