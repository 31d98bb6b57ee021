"""Clicks as a person would place them who corrects a mask."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from semivox.inference.postprocessing import keep_largest_component

ON, OFF, NONE = 1, 0, -1
"""Kinds of click: on the object, beside it, and none, since nothing is wrong."""


def next_clicks(wanted: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Where each mask `found` is most wrong: the centre of the largest region in which it differs from `wanted`.

    wanted, found: (..., H, W) bool. Gives (x, y) in pixels (..., 2) float32, x along the last axis, and the kind (...)
    int64: `ON` where something is missing, `OFF` where there is too much, `NONE` where the two agree. A region's pixels
    share a corner at least; its centre is the pixel farthest from its border, the first of equals.
    """
    wrong, asked = ((wanted != found).cpu().numpy(), wanted.cpu().numpy())
    places = np.zeros((*wrong.shape[:-2], 2), np.float32)
    kinds = np.full(wrong.shape[:-2], NONE, np.int64)
    for index in np.ndindex(kinds.shape):
        if wrong[index].any():
            y, x = centre(wrong[index])
            places[index] = x, y
            kinds[index] = ON if asked[index][y, x] else OFF
    return torch.from_numpy(places).to(wanted.device), torch.from_numpy(kinds).to(wanted.device)


def centre(mask: np.ndarray) -> tuple[int, int]:
    """Row and column of the pixel farthest from the border of the largest component of a mask (H, W) with any."""
    largest = keep_largest_component(mask[..., None].astype(np.uint8))[..., 0]
    # What lies outside the image is not of the region.
    depth = ndimage.distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(np.argmax(depth), depth.shape)
    return int(row), int(column)
