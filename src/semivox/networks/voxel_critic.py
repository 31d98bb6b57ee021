"""A critic that looks at single voxels of a mask: is this what a true one says, or what a network made?"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semivox.networks.layers import CONVOLUTIONS

WIDTHS = (16, 32, 64)


class VoxelCritic(nn.Module):
    """Masks (B, `maps`, *space), hard or soft → logits (B, *space); above 0 where a voxel is taken for true.

    1³ convolutions without bias to 16, 32, 64 channels and 1, each followed by a scale and a shift per channel, all but
    the last by a leaky ReLU of slope 0.2: the critic of Co-BioNet (Peiris et al., 2023), with its 2,866 parameters for
    one map. There the scales and shifts are batch norm's; what it normalises with is left out here, since true and made
    masks differ in just those statistics, and a voxel's logit must not depend on padding or on other processes. The
    public code has a leaky ReLU after the last one too, which presses the logits of what is made towards 0.
    """

    def __init__(self, dimensions: int, maps: int) -> None:
        super().__init__()
        widths = (maps, *WIDTHS, 1)
        make = CONVOLUTIONS[dimensions]
        self.levels = nn.ModuleList(
            make(inputs, outputs, kernel_size=1, bias=False) for inputs, outputs in itertools.pairwise(widths)
        )
        self.affines = nn.ModuleList(Affine(dimensions, outputs) for outputs in widths[1:])

    def forward(self, masks: Tensor) -> Tensor:
        x = masks
        for level, affine in zip(self.levels, self.affines, strict=True):
            x = affine(level(x))
            if level is not self.levels[-1]:
                x = F.leaky_relu(x, 0.2)
        return x.squeeze(1)


class Affine(nn.Module):
    """A scale, at first 1, and a shift, at first 0, of each channel."""

    def __init__(self, dimensions: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, *[1] * dimensions))
        self.bias = nn.Parameter(torch.zeros(channels, *[1] * dimensions))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias
