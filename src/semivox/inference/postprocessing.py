"""What is done to a predicted label map before it is written."""

import numpy as np
import torch
from torch import Tensor

from semivox.data.volume import Grid
from semivox.inference.prompts import keep_continuous


def cleaned(classes: np.ndarray, grid: Grid, *, continuous: bool, largest: bool) -> np.ndarray:
    """Class indices (X, Y, Z) on a scan's own grid, of which first only what continues over slices is left, then only
    the largest component of each class, as far as either is wanted."""
    if continuous:
        classes = keep_continuous(classes, slice_axis=slice_axis(grid))
    return keep_largest_component(classes) if largest else classes


def slice_axis(grid: Grid) -> int:
    """The axis across a scan's slices: where it has one voxel, as a picture has, else where voxels are longest; of
    equal ones the last."""
    return max(range(3), key=lambda axis: (grid.shape[axis] == 1, round(grid.spacing_mm[axis], 3), axis))


def keep_largest_component(classes: np.ndarray) -> np.ndarray:
    """Each foreground class reduced to its largest connected component; what is cut off becomes background.

    `classes` is (X, Y, Z), class indices; a 2-D picture has one slice. Voxels that share a corner are connected (26
    neighbours, 8 in one slice). Of components of equal size the first in memory order stays; an empty map stays empty.
    """
    result = classes.copy()
    for index in np.unique(classes):
        if index:
            mask = classes == index
            result[mask & ~_largest(mask)] = 0
    return result


def keep_largest_components(classes: Tensor) -> Tensor:
    """The same for a batch of patches (B, *space), each on its own: in 2-D slice by slice. On the CPU."""
    maps = classes.byte().cpu().numpy()
    volumes = maps[..., None] if maps.ndim == 3 else maps
    kept = np.stack([keep_largest_component(volume) for volume in volumes])
    return torch.from_numpy(kept).view(classes.shape).to(classes)


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest component of a mask that is not empty."""
    # Only the mask's bounding box is searched: organs are small in their scans.
    box = tuple(
        slice(int(filled[0]), int(filled[-1]) + 1)
        for filled in (np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    )
    components = _components(mask[box])
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    largest = np.zeros_like(mask)
    largest[box] = components == sizes.argmax()
    return largest


def _components(mask: np.ndarray) -> np.ndarray:
    """Component numbers from 1, in memory order of their first voxel; 0 outside the mask."""
    try:
        import cc3d
    except ImportError:
        from scipy import ndimage

        return ndimage.label(mask, np.ones((3, 3, 3)))[0]
    # Without a rim of zeros some thin masks end in its "maximum length exception": it expects too few components.
    return cc3d.connected_components(np.pad(mask, 1), connectivity=26)[1:-1, 1:-1, 1:-1]
