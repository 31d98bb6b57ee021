"""Test-time augmentation: the mean prediction over mirrored copies of the input."""

from collections.abc import Callable, Sequence
from itertools import combinations

from torch import Tensor

Predictor = Callable[[Tensor], Tensor]
"""(B, C, *space) patches → (B, K, *space) probabilities."""


def flip_average(function: Predictor, axes: Sequence[int]) -> Predictor:
    """A predictor that averages `function` over every combination of flips along `axes`, the unflipped one included.

    `axes` count the spatial axes of the patch from 0; n axes cost 2ⁿ calls. Without axes it is `function` itself.
    """
    if not axes:
        return function
    # Tensor dimensions: batch and channel come first.
    flips = [[axis + 2 for axis in chosen] for n in range(len(axes) + 1) for chosen in combinations(axes, n)]

    def averaged(patch: Tensor) -> Tensor:
        total = function(patch)
        for dims in flips[1:]:
            total = total + function(patch.flip(dims)).flip(dims)
        return total / len(flips)

    return averaged
