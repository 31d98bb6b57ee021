"""The plan: all that was derived from the data, in one YAML file a person can read and edit."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from semivox.atomic import atomic_write_text
from semivox.errors import SettingError, first_line


class Part(BaseModel):
    """Base of every part of a plan or config: an unknown name is an error, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Normalisation(Part):
    """How the intensities of one channel are normalised."""

    kind: Literal["zscore", "ct", "range", "none"] = "zscore"
    """zscore: per case, zero mean and unit variance. ct: clip to [low, high], then (x - mean) / deviation, the same for
    all cases. range: [low, high] → [0, 1]. none: as it is."""
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    deviation: float | None = None


class Preparation(Part):
    """How a case is brought from its file into the store. The store's key is made of this and the images."""

    crop: Literal["body", "none"] = "body"
    """body: cut away a constant background, found in the image alone (never in a label)."""
    resample: Literal["spacing", "size", "none"] = "spacing"
    spacing_mm: tuple[float | None, float | None, float | None] | None = None
    """Target voxel size along X, Y, Z (RAS) for `resample: spacing`; null keeps the scan's own on that axis."""
    size: tuple[int | None, int | None, int | None] | None = None
    """Target number of voxels along X, Y, Z for `resample: size`; null keeps the scan's own."""
    image_order: Literal[0, 1, 3] = 3
    """Spline order for images: 0 nearest, 1 linear, 3 cubic."""
    label_order: Literal[0, 1] = 1
    """0 nearest; 1 linear interpolation of each class's mask, then the largest."""
    coarse_axis: int | None = None
    """Axis with much thicker slices; interpolated with order 0 there."""
    normalisation: tuple[Normalisation, ...]
    """One per channel."""
    compression: Literal["none", "blosc2"] = "none"


class BatchSize(Part):
    """Samples of each stream in one step, over all devices."""

    labelled: int = Field(2, ge=1)
    unlabelled: int = Field(2, ge=0)


class NetworkChoice(Part):
    """A network's registered name and its settings."""

    name: str = "vnet"
    settings: dict[str, Any] = {}


class Plan(Part):
    """What training and prediction need to know about the data.

    `patch` has two numbers for a 2-D network, which then sees slices across `slice_axis`; three for a 3-D one.
    """

    preparation: Preparation
    patch: tuple[int, ...]
    slice_axis: int = 2
    """For a 2-D plan: the axis (in RAS order) across which slices are cut."""
    batch: BatchSize = BatchSize()
    network: NetworkChoice = NetworkChoice()
    metric_unit: Literal["mm", "voxel"] = "mm"
    notes: tuple[str, ...] = ()
    """Sentences that say why the plan is as it is, for the reader and the report."""

    @model_validator(mode="after")
    def _check(self) -> "Plan":
        if len(self.patch) not in (2, 3) or min(self.patch) < 1:
            raise ValueError(f"patch is {list(self.patch)}; give two numbers (2-D) or three (3-D), each at least 1")
        if self.slice_axis not in (0, 1, 2):
            raise ValueError(f"slice_axis is {self.slice_axis}; give 0, 1 or 2")
        return self

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.patch)

    @property
    def window(self) -> tuple[int, int, int]:
        """The patch as a box in X, Y, Z: a 2-D patch is one slice thick."""
        if self.dimensions == 3:
            x, y, z = self.patch
            return x, y, z
        sizes = list(self.patch)
        sizes.insert(self.slice_axis, 1)
        return sizes[0], sizes[1], sizes[2]

    def save(self, path: Path) -> None:
        """Writes the plan as YAML."""
        atomic_write_text(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Reads a plan; a fault in it is one line that names the field."""
        try:
            return cls.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
        except ValidationError as error:
            raise SettingError(f"{path}: {first_fault(error)}") from None
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingError(f"{path}: cannot be read as a plan ({first_line(error)})") from None


def first_fault(error: ValidationError) -> str:
    """The first fault of a validation as one line: field, what is wrong, what was given."""
    fault = error.errors()[0]
    name = ".".join(str(part) for part in fault["loc"]) or "value"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{name}: {message[0].lower()}{message[1:]}"
