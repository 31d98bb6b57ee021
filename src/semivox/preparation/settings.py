"""How a case is brought from its file into the store: the part of a plan that decides what a store holds."""

from typing import Annotated, Literal

from pydantic import Field

from semivox.settings import Part

Above0 = Annotated[float, Field(gt=0)]
AtLeast1 = Annotated[int, Field(ge=1)]


class Normalisation(Part):
    """How the intensities of one channel are normalised."""

    kind: Literal["zscore", "minmax", "ct", "range", "none"] = "zscore"
    """zscore: per case, zero mean and unit variance. minmax: per case, [smallest, largest] → [0, 1]. ct: clip to
    [low, high], then (x - mean) / deviation, the same for all cases. range: [low, high] → [0, 1]. none: as it is."""
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    deviation: float | None = None


class Preparation(Part):
    """How a case is brought from its file into the store. The store's key is made of this and the images."""

    crop: Literal["body", "none"] = "body"
    """body: cut away a constant background, found in the image alone (never in a label)."""
    resample: Literal["spacing", "size", "none"] = "spacing"
    spacing_mm: tuple[Above0 | None, Above0 | None, Above0 | None] | None = None
    """Target voxel size along X, Y, Z (RAS) for `resample: spacing`; null keeps the scan's own on that axis."""
    size: tuple[AtLeast1 | None, AtLeast1 | None, AtLeast1 | None] | None = None
    """Target number of voxels along X, Y, Z for `resample: size`; null keeps the scan's own."""
    image_order: Literal[0, 1, 3] = 3
    """Spline order for images: 0 nearest, 1 linear, 3 cubic."""
    label_order: Literal[0, 1] = 1
    """0 nearest; 1 linear interpolation of each class's mask, then the largest."""
    coarse_axis: Literal[0, 1, 2] | None = None
    """Axis with much thicker slices; interpolated with order 0 there."""
    normalisation: tuple[Normalisation, ...]
    """One per channel."""
    compression: Literal["none", "blosc2"] = "none"
