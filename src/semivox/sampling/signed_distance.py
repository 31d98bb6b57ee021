"""Signed distance maps of label patches: how far each voxel lies from a class's border, and on which side of it.

    sdf = d_out / max(d_out) - d_in / max(d_in)

d_out: the distance, in voxels, of a voxel of the background to the nearest one of the class; d_in: that of a voxel of
the class to the nearest one of the background. Xue et al., Shape-aware organ segmentation by predicting signed distance
maps, AAAI 2020, in the form of Luo et al., DTC, AAAI 2021.
"""

import numpy as np
import torch
from torch import Tensor

from semivox.data.labels import IGNORE
from semivox.sampling.batch import RawStream


def signed_distances(raw: RawStream, classes: int) -> Tensor:
    """The maps (B, K - 1, *patch) float32 of the labelled stream's labels, moved as the weak view is."""
    assert raw.label is not None
    maps = []
    for row, crop in enumerate(raw.crops(raw.label)):
        (label,) = raw.geometry.take(row, crop)
        maps.append(signed_distance(label.numpy(), classes))
    return torch.from_numpy(np.stack(maps))


def signed_distance(label: np.ndarray, classes: int) -> np.ndarray:
    """One map per foreground class of a label (*space): (K - 1, *space) float32, from -1 deep inside to 1 far outside.

    0 on the inner boundary, i.e. on voxels of the class that share a face with the background. The array's border is
    no background, nor is what is unknown (`IGNORE`), which gets 0. A class that is not there has zeros all over, as
    published; one that fills all that is known has -1, the limit of the formula.
    """
    known = label != IGNORE
    maps = np.zeros((classes - 1, *label.shape), np.float32)
    for index in np.unique(label[known & (label > 0)]):
        maps[index - 1] = _signed_distance(label == index, known & (label != index))
    return maps


def _signed_distance(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """The map of one class, `inside`, against its background, `outside`."""
    if not outside.any():
        return np.where(inside, -1.0, 0.0)
    depth = np.where(inside, _distance(outside), 0)
    height = np.where(outside, _distance(inside), 0)
    # The nearest background is one voxel away only across a face.
    return np.where(depth == 1, 0, height / height.max() - depth / depth.max())


def _distance(mask: np.ndarray) -> np.ndarray:
    """Of each voxel to the nearest one of a mask that is not empty, in voxels."""
    try:
        import edt
    except ImportError:
        from scipy.ndimage import distance_transform_edt

        return distance_transform_edt(~mask)
    return edt.edt(np.ascontiguousarray(~mask), black_border=False)
