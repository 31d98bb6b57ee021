"""Low-rank adaptation: a frozen linear layer that learns a small correction."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoraLinear(nn.Linear):
    """W x + b + B A x with W and b frozen; A (rank, inputs) and B (outputs, rank), which begins at 0, are trained.

    Hu et al., LoRA, ICLR 2022, with its scale α/r = 1. It begins as `source`, whose tensors it takes under their names,
    so that a checkpoint without A and B fits.
    """

    def __init__(self, source: nn.Linear, rank: int) -> None:
        super().__init__(source.in_features, source.out_features, source.bias is not None, device="meta")
        self.weight, self.bias = source.weight, source.bias
        self.requires_grad_(False)
        self.lora_down = nn.Parameter(source.weight.new_empty(rank, source.in_features))
        self.lora_up = nn.Parameter(source.weight.new_zeros(source.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_down, a=5**0.5)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + F.linear(F.linear(input, self.lora_down), self.lora_up)


def add_lora(module: nn.Module, name: str, rank: int) -> None:
    """Freezes `module`, and puts a `LoraLinear` in the place of each linear layer of it that is called `name`."""
    module.requires_grad_(False)
    for parent in list(module.modules()):
        layer = getattr(parent, name, None)
        if isinstance(layer, nn.Linear):
            setattr(parent, name, LoraLinear(layer, rank))


def without_lora(state: dict[str, torch.Tensor]) -> set[str]:
    """The names in a state dict that the frozen layers themselves have."""
    return {key for key in state if not key.endswith(("lora_down", "lora_up"))}
