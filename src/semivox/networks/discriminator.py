"""The discriminator of the semi-supervised literature: which of two streams is a map, seen with its image, from?"""

import itertools
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from semivox.networks.layers import CONVOLUTIONS, pad_to_multiple

WIDTHS = (64, 128, 256, 512)
GRID = {2: 2, 3: 1}
"""Dimensions → cells per axis into which the last features are averaged: what the published windows leave of a 2-D
patch of 256² and of 3-D ones of 96³ and 112×112×80."""
STRIDE = 2 ** len(WIDTHS)


class Discriminator(nn.Module):
    """Maps (B, `maps`, *space) and their images (B, `channels`, *space) → logits (B, 2).

    A 4³ convolution of stride 2 on each of the two, summed, then three more to 128, 256 and 512 channels, each followed
    by a leaky ReLU of slope 0.2; a mean over space, and a linear layer. As DAN (Zhang et al., MICCAI 2017) in SSL4MIS
    and SASSNet (Li et al., MICCAI 2020) have it: 11,020,290 parameters for one map and one channel in 3-D.

    Patches of any size: inputs are padded at the end with zeros to multiples of 16, and the mean is over a fixed number
    of equal cells (`GRID`), where the published windows (7², 6³, 7×7×5) fit one size of patch and drop the last two
    rows and columns in 2-D.

    There is no dropout layer: `disturb`, (features, number of the level) → features of that shape, is called after each
    level but the last, so that a method draws its dropout per sample.
    """

    def __init__(self, dimensions: int, maps: int, channels: int) -> None:
        super().__init__()
        make = CONVOLUTIONS[dimensions]
        self.stride = (STRIDE,) * dimensions
        self.maps = make(maps, WIDTHS[0], kernel_size=4, stride=2, padding=1)
        self.image = make(channels, WIDTHS[0], kernel_size=4, stride=2, padding=1)
        self.levels = nn.ModuleList(
            make(inputs, outputs, kernel_size=4, stride=2, padding=1) for inputs, outputs in itertools.pairwise(WIDTHS)
        )
        self.cells = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[dimensions](GRID[dimensions])
        self.classifier = nn.Linear(WIDTHS[-1] * GRID[dimensions] ** dimensions, 2)

    def forward(
        self, maps: Tensor, image: Tensor, disturb: Callable[[Tensor, int], Tensor] = lambda features, level: features
    ) -> Tensor:
        x = self.maps(pad_to_multiple(maps, self.stride)) + self.image(pad_to_multiple(image, self.stride))
        x = F.leaky_relu(x, 0.2)
        for number, level in enumerate(self.levels):
            x = F.leaky_relu(level(disturb(x, number)), 0.2)
        return self.classifier(self.cells(x).flatten(1))
