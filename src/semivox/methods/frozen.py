"""Modules that are never trained."""

from typing import Any

from torch import nn


class Frozen(nn.Module):
    """`module` as it is: without a gradient of its own, in evaluation mode whatever surrounds it is in.

    Gradients pass through it to what it is shown.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Leaves the module in evaluation mode."""
        super().train(mode)
        self.module.eval()
        return self

    def forward(self, *inputs: Any) -> Any:
        return self.module(*inputs)
