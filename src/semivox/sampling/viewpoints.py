"""One scan from several sides: the axes of a volume in another order, a picture turned."""

from itertools import permutations

import torch
from torch import Tensor

ORDERS = ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2))
"""Orders of the axes of a volume; the first three put each axis in each place once."""
assert set(ORDERS) == set(permutations(range(3)))

VIEWPOINTS = {2: 4, 3: len(ORDERS)}
"""Dimensions → how many views there are."""


def seen_from(x: Tensor, view: int) -> Tensor:
    """(B, C, *space) from viewpoint number `view`; 0 changes nothing. 3-D: axes permuted; 2-D: turned by view · 90°."""
    if x.ndim == 4:
        return torch.rot90(x, view, (2, 3))
    return x.permute(0, 1, *(2 + axis for axis in ORDERS[view]))


def seen_back(x: Tensor, view: int) -> Tensor:
    """What `seen_from` undoes: `seen_back(seen_from(x, view), view)` is x."""
    if x.ndim == 4:
        return torch.rot90(x, -view, (2, 3))
    order = ORDERS[view]
    return x.permute(0, 1, *(2 + order.index(axis) for axis in range(3)))
