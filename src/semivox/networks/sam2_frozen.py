"""SAM-2 as a tool that others ask: never trained, and no part of what is saved."""

from functools import lru_cache

import torch
from torch import Tensor

from semivox.networks import make_network
from semivox.networks.sam2 import Sam2, Sam2Settings
from semivox.networks.sam2_architecture import library
from semivox.networks.sam2_prompts import Prompter, Prompts
from semivox.progress import say


class FrozenSam2:
    """Image encoder, prompt encoder and mask decoder of SAM-2, for images of `channels` channels and any size.

    It is read from disk when it is first asked, and again after a resume; copies in one process share it. It draws
    nothing from torch's generators.
    """

    def __init__(self, channels: int, settings: Sam2Settings) -> None:
        self.channels = channels
        self.settings = settings

    def refuse_absent_files(self) -> None:
        """Raises SettingError where the extra `sam` or the checkpoint is missing, before either is needed."""
        library()
        self.settings.refuse_absent_files()

    @torch.no_grad()
    def encode(self, image: Tensor) -> list[Tensor]:
        """Features of images (N, C, H, W), see `Sam2.encode`."""
        return self._parts(image.device)[0].encode(image)

    @torch.no_grad()
    def masks(self, features: list[Tensor], prompts: Prompts) -> Tensor:
        """Mask logits (N, P, H, W) float32; see `Prompter`."""
        return self._parts(features[0].device)[1](features, prompts)[0]

    def _parts(self, device: torch.device) -> tuple[Sam2, Prompter]:
        return load(self.channels, self.settings, device)


@lru_cache(maxsize=2)
def load(channels: int, settings: Sam2Settings, device: torch.device) -> tuple[Sam2, Prompter]:
    """Network and prompter, in evaluation mode; random weights, where no others are named, are always the same ones."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        # Its semantic head is not used; two classes are the fewest.
        network = make_network("sam2", 2, channels, 2, settings.model_dump())
        assert isinstance(network, Sam2)
        network.load_pretrained()
        prompter = network.new_prompter()
    if settings.weights is None:
        say("SAM-2 has random weights, which tell nothing of images; name a checkpoint with -s sam.weights=FOLDER")
    for module in (network, prompter):
        module.requires_grad_(False).eval().to(device)
    return network, prompter
