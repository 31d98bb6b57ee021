"""How a case is brought from its file into the store: the part of a plan that decides what a store holds."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from semivox.settings import Part

Above0 = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Percentile = Annotated[float, Field(ge=0, le=100)]
AtLeast1 = Annotated[int, Field(ge=1)]


class Normalisation(Part):
    """How the intensities of one channel are normalised."""

    kind: Literal["zscore", "minmax", "ct", "range", "none"] = "zscore"
    """zscore: per case, zero mean and unit variance. minmax: per case, [smallest, largest] → [0, 1]. ct: clip to
    [low, high], then (x - mean) / deviation, the same for all cases. range: [low, high] → [0, 1]. none: as it is."""
    low: float | None = None
    """Where it is given, whatever the kind, what lies below is first set to it; ct and range need it. So with high."""
    high: float | None = None
    low_percentile: Percentile | None = None
    """In place of low: this percentile of the voxels of the case, interpolated linearly. So with high_percentile."""
    high_percentile: Percentile | None = None
    mean: float | None = None
    deviation: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for end in ("low", "high"):
            percentile = f"{end}_percentile"
            if getattr(self, percentile) is None:
                continue
            if getattr(self, end) is not None:
                raise ValueError(f"{end} and {percentile} exclude each other; give one of them")
            if self.kind in ("ct", "range"):
                raise ValueError(f"kind '{self.kind}' is the same for all cases; give {end} in place of {percentile}")
        for low, high in ((self.low, self.high), (self.low_percentile, self.high_percentile)):
            if low is not None and high is not None and low >= high:
                raise ValueError(f"clips to [{low:g}, {high:g}]; the first must be the smaller one")
        return self


class Preparation(Part):
    """How a case is brought from its file into the store. The store's key is made of this and the images."""

    crop: Literal["body", "centre", "none"] = "body"
    """body: cut away a constant background, found in the image alone (never in a label). centre: keep `crop_share`."""
    crop_share: tuple[Share | None, Share | None, Share | None] | None = None
    """For `crop: centre`, how much of X, Y, Z is kept about the middle voxel: n // 2 ± half of it, rounded down; null
    keeps all."""
    slices_last: bool = False
    """Whether Z is across the scan's own slices, in whatever plane it was taken, for networks that see one slice at a
    time; X and Y are then the anatomical axes nearest to the slice's. false: Z is foot-head in every scan."""
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
    modalities: dict[str, tuple[Normalisation, ...]] = {}
    """Modality (the channel names of a data set, joined by +) → what its scans get in place of `normalisation`."""
    normalise_after_resampling: bool = False
    """Whether statistics and clipping are those of the resampled scan, as some published scripts have it."""
    compression: Literal["none", "blosc2"] = "none"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.crop == "centre") != (self.crop_share is not None):
            raise ValueError("crop 'centre' and crop_share belong together; give both or none")
        for modality, own in self.modalities.items():
            if len(own) != len(self.normalisation):
                raise ValueError(
                    f"modalities: '{modality}' has {len(own)} entries where normalisation has"
                    f" {len(self.normalisation)}; give one per channel"
                )
        return self

    def of(self, modality: str) -> "Preparation":
        """As the scans of one modality are prepared."""
        normalisation = self.modalities.get(modality, self.normalisation)
        return self.model_copy(update={"normalisation": normalisation, "modalities": {}})
