"""One case from its file's grid into the store: reorient, crop, normalise, resample."""

import numpy as np

from semivox.data.volume import Volume
from semivox.errors import DataError
from semivox.preparation.cropping import Box, body_box, centre_box, whole_box
from semivox.preparation.normalisation import as_numbers, normalise
from semivox.preparation.orientation import prepared_axes, reorient
from semivox.preparation.placement import Placement, Shape, place
from semivox.preparation.resampling import resample, resample_classes
from semivox.preparation.settings import Preparation


def prepare_image(volume: Volume, preparation: Preparation) -> tuple[np.ndarray, Placement]:
    """The prepared array, float32 (C, X, Y, Z) in the plan's order, and the record of how it came about.

    A label plays no part, so a case is prepared alike with and without one.
    Raises DataError on NaN or infinite voxels or another number of channels than the plan has. The error names neither
    case nor file: the caller knows them.
    """
    channels = len(volume.array)
    if channels != len(preparation.normalisation):
        raise DataError(f"image has {channels} channels, the plan normalises {len(preparation.normalisation)}")
    axes, flips = prepared_axes(volume.grid.affine, preparation.slices_last)
    oriented = reorient(volume.array, axes, flips)
    placement = place(volume.grid, axes, flips, kept_box(oriented, preparation), preparation)
    array = np.empty((channels, *placement.shape), np.float32)
    for channel, values in enumerate(placement.region(volume.array)):
        normalisation = preparation.normalisation[channel]
        if preparation.normalise_after_resampling:
            array[channel] = normalise(resampled(as_numbers(values), placement.shape, preparation), normalisation)
        else:
            array[channel] = resampled(normalise(values, normalisation), placement.shape, preparation)
    return array, placement


def kept_box(oriented: np.ndarray, preparation: Preparation) -> Box:
    """What of a scan (C, X, Y, Z) in RAS order is kept."""
    if preparation.crop == "body":
        return body_box(oriented)
    if preparation.crop_share is not None:
        return centre_box(oriented.shape, preparation.crop_share)
    return whole_box(oriented.shape)


def resampled(values: np.ndarray, shape: Shape, preparation: Preparation) -> np.ndarray:
    """One channel (X, Y, Z) float32 on a grid of `shape`, clipped to the range of `values`, as nnU-Net's is: a cubic
    spline overshoots at edges."""
    found = resample(values, shape, preparation.image_order, preparation.coarse_axis)
    return np.clip(found, values.min(), values.max(), out=found)


def prepare_label(classes: np.ndarray, placement: Placement, preparation: Preparation) -> np.ndarray:
    """Class indices uint8 (X, Y, Z) on the scan's own grid → the same on the prepared grid.

    It needs the image's placement only, so a label may come long after its image.
    Raises DataError where the shape is not the image's.
    """
    cropped = np.ascontiguousarray(placement.region(classes))
    return resample_classes(cropped, placement.shape, preparation.label_order, preparation.coarse_axis)
