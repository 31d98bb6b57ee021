"""A critic that looks at single voxels of a mask: is this what a true one says, or what a network made?"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64)


class VoxelCritic(nn.Module):
    """Masks (B, `maps`, *space), hard or soft → logits (B, *space); above 0 where a voxel is taken for true.

    1³ convolutions to 16, 32, 64 channels and 1, each with a scale and a shift per channel, all but the last followed
    by a leaky ReLU of slope 0.2: the critic of Co-BioNet (Peiris et al., 2023), with its 2,866 parameters for one map.
    There the scales and shifts are batch norm's; what it normalises with is left out here, since true and made masks
    differ in just those statistics, and a voxel's logit must not depend on padding or on other processes. The public
    code has a leaky ReLU after the last one too, which presses the logits of what is made towards 0.
    """

    def __init__(self, maps: int) -> None:
        super().__init__()
        widths = (maps, *WIDTHS, 1)
        self.layers = nn.ModuleList(ScaledLinear(inputs, outputs) for inputs, outputs in itertools.pairwise(widths))

    def forward(self, masks: Tensor) -> Tensor:
        *hidden, last = self.layers
        x = masks.movedim(1, -1).flatten(0, -2)
        for layer in hidden:
            x = F.leaky_relu(layer(x), 0.2, inplace=True)
        return last(x).view(len(masks), *masks.shape[2:])


class ScaledLinear(nn.Linear):
    """A linear layer with a scale, at first 1, and a shift, at first 0, of each output."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.scale = nn.Parameter(torch.ones(outputs))
        self.shift = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        # A scale of the weights is one of the outputs, without a pass over them.
        return F.linear(x, self.scale.unsqueeze(1) * self.weight, self.shift)
