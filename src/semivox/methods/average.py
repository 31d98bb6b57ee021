"""Exponential moving averages of a network's weights."""

import copy
import math
from typing import Literal

import torch
from torch import Tensor, nn

from semivox.losses.schedules import average_decay


class Average(nn.Module):
    """A copy of `source` that follows it: θ̃ ← α θ̃ + (1 - α) θ with α = min(1 - 1/(step + 1), decay).

    Calling it never records a gradient, and its weights are never trained.

    Two sound policies exist for batch-norm statistics, and papers use both: `mode="eval"` averages the running
    statistics along with the weights and uses them; `mode="train"` averages parameters only and lets the copy normalise
    with the statistics of the batch it sees (and keeps dropout active).
    """

    def __init__(self, source: nn.Module, decay: float, *, mode: Literal["train", "eval"] = "eval") -> None:
        super().__init__()
        self.module = copy.deepcopy(source).requires_grad_(False)
        self.decay = decay
        self.mode = mode
        self._source = (source,)  # a tuple, so that the source is not registered a second time as a submodule
        self.module.train(mode == "train")

    @property
    def source(self) -> nn.Module:
        """What the average follows."""
        return self._source[0]

    def train(self, mode: bool = True) -> "Average":
        """Follows the surrounding module only where the policy is `train`."""
        super().train(mode)
        self.module.train(mode and self.mode == "train")
        return self

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    @torch.no_grad()
    def update(self, step: float = math.inf) -> None:
        """Moves the copy towards the source; at step 0 it becomes the source. Without a step the decay is constant."""
        source = self.source
        weight = 1.0 - average_decay(step, self.decay)
        copies: list[Tensor] = list(self.module.parameters())
        originals = [parameter.detach() for parameter in source.parameters()]
        if self.mode == "eval":
            for target, original in zip(self.module.buffers(), source.buffers(), strict=True):
                if target.is_floating_point():
                    copies.append(target)
                    originals.append(original)
                else:
                    target.copy_(original)
        torch._foreach_lerp_(copies, originals, weight)
