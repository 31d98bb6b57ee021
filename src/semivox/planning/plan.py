"""The plan: all that was derived from the data, in one YAML file a person can read and edit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from semivox.atomic import atomic_write_text
from semivox.errors import SettingError, first_line
from semivox.preparation.settings import Preparation
from semivox.settings import Part, first_fault, read_yaml


class BatchSize(Part):
    """Samples of each stream in one step, over all devices."""

    labelled: int = Field(2, ge=1)
    unlabelled: int = Field(2, ge=0)


class NetworkChoice(Part):
    """A network's registered name and its settings."""

    name: str = "vnet"
    """Of a network, as `semivox networks` lists them."""
    settings: dict[str, Any] = {}
    """The network's settings, where they differ from those that its plan makes."""


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
    def axes(self) -> tuple[int, ...]:
        """The axes of the scan (0, 1, 2 for X, Y, Z) that a patch has."""
        return tuple(axis for axis in range(3) if self.dimensions == 3 or axis != self.slice_axis)

    @property
    def patch_spacing_mm(self) -> tuple[float, ...] | None:
        """Voxel size along the patch's axes, None where the plan keeps the scans' own."""
        spacing = self.preparation.spacing_mm
        if self.preparation.resample != "spacing" or spacing is None:
            return None
        along = [spacing[axis] for axis in self.axes]
        return None if None in along else tuple(mm for mm in along if mm is not None)

    @property
    def window(self) -> tuple[int, int, int]:
        """The patch as a box in X, Y, Z: a 2-D patch is one slice thick."""
        return self.box(self.patch)

    def box(self, sizes: Sequence[int]) -> tuple[int, int, int]:
        """Sizes along the patch's axes as those of a box in X, Y, Z: one slice thick for a 2-D patch."""
        whole = list(sizes)
        if self.dimensions == 2:
            whole.insert(self.slice_axis, 1)
        x, y, z = whole
        return x, y, z

    def save(self, path: Path) -> None:
        """Writes the plan as YAML."""
        atomic_write_text(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Reads a plan; a fault in it is one line that names the field."""
        try:
            return cls.model_validate(read_yaml(Path(path).read_text(encoding="utf-8")))
        except ValidationError as error:
            raise SettingError(f"{path}: {first_fault(error, cls)}") from None
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingError(f"{path}: cannot be read as a plan ({first_line(error)})") from None
