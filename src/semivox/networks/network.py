"""The contract of every network: encode → decode → head."""

from abc import ABC, abstractmethod
from typing import ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn


class NetworkSettings(BaseModel):
    """Base of a network's typed settings; an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(nn.Module, ABC):
    """A segmentation network of 2 or 3 dimensions, cut where methods want to reach in.

    `encode(x)` (B, C, *space) → features, fine to coarse. `decode(features)` → maps, coarse to fine; the last one is
    the penultimate map, at the input's resolution. `head(map)` → logits (B, K, *space). Calling it does the three.
    Any input size is accepted: where a size is not a multiple of `divisor`, maps are padded to their skip's size.
    """

    Settings: ClassVar[type[NetworkSettings]] = NetworkSettings
    capabilities: frozenset[str] = frozenset({"features", "maps", "decoder", "head"})
    """What a method may rely on: 'features' and 'maps' (lists as above), 'decoder' and 'head' (`new_decoder`, `new_head`)."""

    def __init__(self, dimensions: int, channels: int, classes: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.channels = channels
        self.classes = classes

    feature_channels: tuple[int, ...]
    """Channels of the features, fine to coarse."""
    map_channels: tuple[int, ...]
    """Channels of the maps, coarse to fine."""
    divisor: tuple[int, ...]
    """Per axis, the total downsampling; patches are planned as multiples of it."""

    @abstractmethod
    def encode(self, x: Tensor) -> list[Tensor]: ...

    @abstractmethod
    def decode(self, features: list[Tensor]) -> list[Tensor]: ...

    @abstractmethod
    def head(self, x: Tensor) -> Tensor: ...

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decode(self.encode(x))[-1])

    def new_decoder(self, **changes: object) -> nn.Module:
        """A freshly initialised decoder of the same shape (features → maps), for methods with several decoders."""
        raise NotImplementedError

    def new_head(self, outputs: int) -> nn.Module:
        """A freshly initialised head (penultimate map → `outputs` channels), for methods with further targets."""
        raise NotImplementedError
