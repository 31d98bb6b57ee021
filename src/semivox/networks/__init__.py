"""The registry of networks: a dictionary written by hand, name → where its class is.

`monai:NAME` is any network of MONAI (see `monai_network`).
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from semivox.errors import SettingError, unknown
from semivox.settings import first_fault

if TYPE_CHECKING:
    from semivox.networks.network import Network, NetworkSettings

NETWORKS = {
    "vnet": "semivox.networks.vnet:VNet",
    "unet": "semivox.networks.unet:UNet",
    "residual_encoder_unet": "semivox.networks.residual_encoder_unet:ResidualEncoderUNet",
    "diffusion_vnet": "semivox.networks.diffusion_vnet:DiffusionVNet",
    "sam2": "semivox.networks.sam2:Sam2",
}

MONAI = "monai:"
"""Prefix of the names that MONAI's networks have here."""


def find_network(name: str) -> "type[Network]":
    """The class of a network by its name; SettingError, with the nearest name, where there is none."""
    if name.startswith(MONAI):
        from semivox.networks.monai_network import MonaiNetwork, find_class

        find_class(name.removeprefix(MONAI))
        return MonaiNetwork
    if name not in NETWORKS:
        raise unknown("network", name, [*NETWORKS, f"{MONAI}UNet", f"{MONAI}SwinUNETR"])
    module, _, attribute = NETWORKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def network_settings(
    name: str,
    dimensions: int,
    settings: Mapping[str, Any] | None = None,
    patch: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> "NetworkSettings":
    """The settings planned for `dimensions`, patch (voxels) and spacing, with those in `settings` put over them.

    Raises SettingError for an unknown setting or a value that it cannot take.
    """
    kind = find_network(name).Settings
    settings = settings or {}
    for key in settings:
        if key not in kind.model_fields:
            raise unknown(f"setting of network '{name}'", key, kind.model_fields)
    try:
        return kind.planned(dimensions, patch, spacing_mm).changed(dict(settings))
    except ValidationError as error:
        raise SettingError(f"network '{name}': {first_fault(error)}") from None


def make_network(
    name: str,
    dimensions: int,
    channels: int,
    classes: int,
    settings: Mapping[str, Any] | None = None,
    patch: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> "Network":
    """A freshly initialised network, (B, channels, *space) → logits (B, classes, *space); torch's generator draws it.

    What `settings` leaves open follows from the training `patch` (voxels) and its voxel size, else is the literature's.
    Raises SettingError for an unknown name or setting.
    """
    if patch is not None and len(patch) != dimensions:
        raise SettingError(f"network '{name}': patch {tuple(patch)} does not have {dimensions} dimensions")
    if name.startswith(MONAI):
        from semivox.networks.monai_network import MonaiNetwork

        return MonaiNetwork(name.removeprefix(MONAI), dimensions, channels, classes, settings, patch)
    kind = find_network(name)
    if dimensions not in kind.dimensionalities:
        raise SettingError(
            f"network '{name}' does not read {dimensions}-D patches; give plan.patch another number of sizes, or choose"
            " another with --network"
        )
    return kind(dimensions, channels, classes, network_settings(name, dimensions, settings, patch, spacing_mm))
