"""The contract of every network: encode → decode → head."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from semivox.settings import Part


class NetworkSettings(Part):
    """Base of a network's typed settings."""

    @classmethod
    def planned(
        cls, dimensions: int, patch: Sequence[int] | None = None, spacing_mm: Sequence[float] | None = None
    ) -> Self:
        """The settings that suit `dimensions` (2 or 3), a training patch in voxels and the voxel size; pure arithmetic.

        Without a patch: the literature's network. Without a spacing: voxels count as isotropic.
        """
        return cls()

    def refuse_absent_files(self) -> None:
        """Raises SettingError where files that the settings name are not there, before anything is prepared."""

    def changed(self, changes: dict[str, Any]) -> Self:
        """These settings with `changes`, checked again."""
        return self.model_validate({**self.model_dump(), **changes})


class Network(nn.Module):
    """A segmentation network of 2 or 3 dimensions, cut where methods want to reach in.

    `encode(x)` (B, C, *space) → features, fine to coarse. `decode(features)` → maps, coarse to fine; the last one is
    the penultimate map, at the input's resolution. `head(map)` → logits (B, K, *space). Calling it does the three.
    Any input size is accepted: going down rounds sizes up, going up cuts to the skip's size, so that no voxel is lost.

    A subclass builds `encoder`, `decoder` and `classifier` and fills in the attributes without a value below.
    """

    Settings: ClassVar[type[NetworkSettings]] = NetworkSettings
    capabilities: frozenset[str] = frozenset({"features", "maps", "decoder", "head"})
    """What a method may rely on: 'features', 'maps' (lists as above), 'decoder' and 'head' (new_decoder, new_head),
    'diffusion' (new_denoiser), 'prompter' (new_prompter). A network with 'decoder' has a setting `upsampling`:
    transposed, linear or nearest."""

    dimensionalities: ClassVar[frozenset[int]] = frozenset({2, 3})
    """What it can read: slices and pictures (2), volumes (3)."""

    encoder: nn.Module
    decoder: nn.Module
    classifier: nn.Module
    feature_channels: tuple[int, ...]
    """Channels of the features, fine to coarse."""
    map_channels: tuple[int, ...]
    """Channels of the maps, coarse to fine."""
    divisor: tuple[int, ...]
    """Per axis, the total downsampling; patches are planned as multiples of it."""

    def __init__(self, dimensions: int, channels: int, classes: int, settings: NetworkSettings) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.channels = channels
        self.classes = classes
        self.settings = settings

    @property
    def rates(self) -> dict[nn.Module, float]:
        """Parts whose learning rate is the run's times a factor; none by default."""
        return {}

    def load_pretrained(self) -> None:
        """Takes the weights that the settings name, if they name any; until then all are freshly initialised."""

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, *space) → features, fine to coarse; feature i has `feature_channels[i]` channels."""
        return self.encoder(x)

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        """Features → maps, coarse to fine; map i has `map_channels[i]` channels, the last has the input's size."""
        return self.decoder(features)

    def head(self, x: Tensor) -> Tensor:
        """Penultimate map → logits (B, K, *space)."""
        return self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decode(self.encode(x))[-1])

    def new_decoder(self, **changes: Any) -> nn.Module:
        """A freshly initialised decoder, features → maps, for methods with several decoders.

        `changes` override the network's settings, e.g. `upsampling="linear"`.
        """
        raise NotImplementedError

    def new_head(self, outputs: int, level: int = -1) -> nn.Module:
        """A freshly initialised head, map number `level` (default: the penultimate map) → `outputs` channels."""
        raise NotImplementedError

    def new_prompter(
        self, classes: int = 0, *, masks: bool = False, score: bool = False, memory: bool = False
    ) -> nn.Module:
        """What turns this network's features and prompts into masks; see `sam2_prompts.Prompter`."""
        raise NotImplementedError

    def new_denoiser(self) -> "DenoisingBranch":
        """A freshly initialised denoising branch on this network's encoder."""
        raise NotImplementedError


class DenoisingBranch(nn.Module):
    """Image (B, C, *space), noisy label map (B, K, *space), diffusion step (B,) → logits (B, K, *space).

    It shares a network's encoder, which is no part of it; `decoder` and `head` have the parameters of the network's.
    """

    decoder: nn.Module
    head: nn.Module


class Branch(nn.Module):
    """A further decoder of a network and its head: features → logits (B, K, *space).

    `changes` override the network's settings in the decoder.
    """

    def __init__(self, network: Network, **changes: Any) -> None:
        super().__init__()
        self.decoder = network.new_decoder(**changes)
        self.head = network.new_head(network.classes)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.head(self.decoder(features)[-1])
