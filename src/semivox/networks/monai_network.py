"""Any segmentation network of MONAI by its name."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import monai.networks.nets
import torch
from torch import Tensor, nn

from semivox.errors import SettingError, first_line, unknown
from semivox.networks.layers import cut_to, pad_to_multiple
from semivox.networks.network import Network, NetworkSettings

FROM_DATA = ("spatial_dims", "in_channels", "out_channels", "img_size")
"""Parameters that the adapter fills in itself."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "UNet": {"channels": (16, 32, 64, 128, 256), "strides": (2, 2, 2, 2), "num_res_units": 2},
    "AttentionUnet": {"channels": (16, 32, 64, 128, 256), "strides": (2, 2, 2, 2)},
    "DynUNet": {"kernel_size": (3,) * 5, "strides": (1, 2, 2, 2, 2), "upsample_kernel_size": (2,) * 4},
}
"""Settings without which a network cannot be built, and for which MONAI names no default."""


class MonaiNetwork(Network):
    """A network of `monai.networks.nets`: (B, C, *space) → logits (B, K, *space).

    MONAI's networks are closed boxes: `encode` passes the image on, `decode` runs the network, `head` does nothing. So
    there are no capabilities, and a method that asks for one says so. Images are padded with zeros to the multiple
    that the network wants, found by trial on shapes alone, and the logits cut back; a network built for one image
    size (`img_size`) is given the training patch, and takes no larger image.

    Raises SettingError for a name, a setting, or a size of patch that MONAI cannot take.
    """

    capabilities = frozenset()

    def __init__(
        self,
        name: str,
        dimensions: int,
        channels: int,
        classes: int,
        settings: Mapping[str, Any] | None = None,
        patch: Sequence[int] | None = None,
    ) -> None:
        super().__init__(dimensions, channels, classes, NetworkSettings())
        kind = find_class(name)
        self.name = f"monai:{kind.__name__}"
        self.decoder = self._build(kind, dict(settings or {}), patch)
        self.encoder = self.classifier = nn.Identity()
        self.feature_channels = (channels,)
        self.map_channels = (classes,)
        self.fixed = "img_size" in inspect.signature(kind).parameters
        if self.fixed:
            assert patch is not None
            self.divisor = tuple(patch)
        else:
            self.divisor = (self._find_divisor(max(64, *(patch or (0,)))),) * dimensions
        if patch is not None:
            fault = self._fault([-(-size // factor) * factor for size, factor in zip(patch, self.divisor, strict=True)])
            if fault:
                raise SettingError(f"network '{self.name}' cannot take the patch {tuple(patch)}: {fault}")

    def encode(self, x: Tensor) -> list[Tensor]:
        return [x]

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        (x,) = features
        size = tuple(x.shape[2:])
        if self.fixed and any(length > limit for length, limit in zip(size, self.divisor, strict=True)):
            raise SettingError(f"network '{self.name}' takes images of {self.divisor} voxels, not {size}")
        return [cut_to(logits_of(self.decoder(pad_to_multiple(x, self.divisor))), size)]

    def _build(self, kind: type[nn.Module], settings: dict[str, Any], patch: Sequence[int] | None) -> nn.Module:
        parameters = inspect.signature(kind).parameters
        for key in settings:
            if key not in free_parameters(kind):
                raise unknown(f"setting of network '{self.name}'", key, free_parameters(kind))
        given: dict[str, Any] = {
            "spatial_dims": self.dimensions,
            "in_channels": self.channels,
            "out_channels": self.classes,
        }
        if "img_size" in parameters:
            if patch is None:
                raise SettingError(f"network '{self.name}' is built for one image size; give the patch")
            given["img_size"] = tuple(patch)
        if "spatial_dims" not in parameters and self.dimensions != 3:
            raise SettingError(f"network '{self.name}' is made for 3-D images only; choose another with --network")
        arguments = {key: value for key, value in given.items() if key in parameters}
        arguments |= DEFAULTS.get(kind.__name__, {}) | settings
        missing = [
            key
            for key, parameter in parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            and key not in arguments
        ]
        if missing:
            raise SettingError(f"network '{self.name}' needs the settings {', '.join(missing)}; give them with -s")
        try:
            return kind(**arguments)
        except ImportError as error:  # MONAI's optional packages
            raise SettingError(f"network '{self.name}' needs a further package: {first_line(error)}") from error
        except Exception as error:  # whatever MONAI raises for a value it cannot take
            raise SettingError(f"network '{self.name}' cannot be built so: {first_line(error)}") from error

    def _find_divisor(self, about: int) -> int:
        """The smallest power of two of which sizes must be multiples, by trial on images of `about` so many voxels."""
        for divisor in (1, 2, 4, 8, 16, 32, 64):
            odd = about // divisor | 1  # so that no greater power of two divides the size
            fault = self._fault([divisor * odd] * self.dimensions)
            if fault is None:
                return divisor
        raise SettingError(f"network '{self.name}' gives no segmentation of its input: {fault}")

    def _fault(self, size: Sequence[int]) -> str | None:
        """What goes wrong with an image of `size`; None if logits of that size come out. Computes shapes only."""
        shadow = copy.deepcopy(self.decoder).to("meta")
        try:
            with torch.no_grad():
                logits = logits_of(shadow(torch.zeros(2, self.channels, *size, device="meta")))
        except Exception as error:  # whatever a network raises for a size it cannot take
            return first_line(error)
        expected = (2, self.classes, *size)
        return None if tuple(logits.shape) == expected else f"output {tuple(logits.shape)} where {expected} is due"


def free_parameters(kind: type[nn.Module]) -> dict[str, Any]:
    """The settings that a network of MONAI takes, each with its default; `empty` of inspect where it has none."""
    defaults = DEFAULTS.get(kind.__name__, {})
    return {
        key: defaults.get(key, parameter.default)
        for key, parameter in inspect.signature(kind).parameters.items()
        if key not in FROM_DATA
    }


def network_classes() -> dict[str, type[nn.Module]]:
    """Name → class of what in MONAI has input and output channels, each class once."""
    return {
        name: kind
        for name, kind in vars(monai.networks.nets).items()
        if isinstance(kind, type)
        and issubclass(kind, nn.Module)
        and name == kind.__name__
        and {"in_channels", "out_channels"} <= set(inspect.signature(kind).parameters)
    }


def find_class(name: str) -> type[nn.Module]:
    """The class called `name`; SettingError with the nearest name if there is none."""
    classes = network_classes()
    if name not in classes:
        raise unknown("network", f"monai:{name}", [f"monai:{known}" for known in classes])
    return classes[name]


def logits_of(output: Tensor | Sequence[Tensor]) -> Tensor:
    """The logits among a network's outputs: networks with deep supervision or a second task give them first."""
    return output if isinstance(output, Tensor) else output[0]
