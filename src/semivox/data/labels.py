"""Label names and the values they have in files.

Inside Semivox a label map holds class indices 0..K-1 (0 is background) and `IGNORE` where the truth is unknown. Files
hold whatever values their data set declares. `LabelMap` translates both ways.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from semivox.errors import DataError, unknown

IGNORE = 255
"""Class index of voxels that no loss and no metric looks at."""

LARGEST_TABLE = 1 << 16
"""Values that lie further apart than this are told apart one by one."""


@dataclass(frozen=True)
class LabelMap:
    """`names[k]` is class k (background first), `values[k]` its value in files.

    `regions` are unions of classes (nnU-Net's region-based labels): training works on the disjoint classes they are
    made of, metrics are given for the regions.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    ignore_value: int | None = None
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    background_values: tuple[int, ...] = ()
    """Further values that files may hold and that are read as background: classes that were left out by name."""

    def __post_init__(self) -> None:
        if len(self.names) != len(self.values):
            raise DataError(f"labels: {len(self.names)} names but {len(self.values)} values")
        if len(set(self.names)) != len(self.names):
            raise DataError(f"labels: a name is declared twice in {list(self.names)}; give each class its own name")
        declared = self.declared
        if len(set(declared)) != len(declared):
            raise DataError(f"labels: a value is declared twice in {list(declared)}; give each class its own value")
        if len(self.names) > IGNORE:
            raise DataError(f"labels: {len(self.names)} classes; at most {IGNORE} are supported, background included")

    @property
    def count(self) -> int:
        """K, background included."""
        return len(self.names)

    @property
    def foreground(self) -> tuple[str, ...]:
        """Names of the classes 1..K-1."""
        return self.names[1:]

    @property
    def declared(self) -> tuple[int, ...]:
        """Every value that a file may hold."""
        return (*self.values, *self.background_values, *([] if self.ignore_value is None else [self.ignore_value]))

    def scored(self) -> dict[str, tuple[int, ...]]:
        """What metrics are computed for: name → class indices whose union it is. Regions if declared, else classes."""
        return self.regions or {name: (index,) for index, name in enumerate(self.names) if index}

    def restrict(self, names: Sequence[str]) -> "LabelMap":
        """Only the classes, or regions, of the given names; the values of all others are read as background.

        Raises SettingError for a name that is neither.
        """
        choices = {name: (index,) for index, name in enumerate(self.names) if index} | self.regions
        for name in names:
            if name not in choices:
                raise unknown("label", name, choices)
        kept = sorted({index for name in names for index in choices[name]})
        position = {index: place for place, index in enumerate(kept, 1)}
        regions = {name: tuple(position[index] for index in choices[name]) for name in names}
        return replace(
            self,
            names=(self.names[0], *(self.names[index] for index in kept)),
            values=(self.values[0], *(self.values[index] for index in kept)),
            regions=regions if self.regions.keys() & set(names) else {},
            background_values=(
                *self.background_values,
                *(self.values[index] for index in range(1, self.count) if index not in kept),
            ),
        )

    def undeclared(self, array: np.ndarray) -> list[int]:
        """Values that occur in `array` (whole numbers, as in files) but are not declared."""
        return sorted(set(values_in(array)) - set(self.declared))

    def to_classes(self, array: np.ndarray) -> np.ndarray:
        """File values → class indices, uint8, same shape.

        Raises DataError where a value is not declared.
        """
        undeclared = self.undeclared(array)
        if undeclared:
            raise DataError(f"label {self.complaint(undeclared)}; {self.mend(undeclared)}")
        class_of = {value: index for index, value in enumerate(self.values)}
        if self.ignore_value is not None:
            class_of[self.ignore_value] = IGNORE
        present = values_in(array)
        if _span(present) > LARGEST_TABLE:
            classes = np.zeros(array.shape, np.uint8)
            for value in present:
                classes[array == value] = class_of.get(value, 0)
            return classes
        table = np.zeros(_span(present), np.uint8)
        for value in present:
            table[value - present[0]] = class_of.get(value, 0)
        return look_up(table, array, first=present[0] if present else 0)

    def to_values(self, classes: np.ndarray) -> np.ndarray:
        """Class indices → file values, in the smallest type that holds all of them."""
        values = [*self.values, *([] if self.ignore_value is None else [self.ignore_value])]
        dtype = np.result_type(np.min_scalar_type(min(values)), np.min_scalar_type(max(values)))
        table = np.full(IGNORE + 1, self.values[0], dtype)
        table[: self.count] = self.values
        if self.ignore_value is not None:
            table[IGNORE] = self.ignore_value
        return look_up(table, classes)

    def complaint(self, undeclared: list[int]) -> str:
        """What is wrong with a label that holds these values."""
        return (
            f"has undeclared values {_few(undeclared)}, declared are {dict(zip(self.names, self.values, strict=True))}"
        )

    @staticmethod
    def mend(undeclared: list[int]) -> str:
        """What to do about them."""
        return f"give {_few(undeclared)} a name under `labels` in dataset.json, or correct the label"


def _few(values: list[int]) -> str:
    shown = ", ".join(str(value) for value in values[:8])
    return f"{shown}, ... ({len(values)} values)" if len(values) > 8 else shown


def look_up(table: np.ndarray, array: np.ndarray, first: int = 0) -> np.ndarray:
    """`table[array - first]`, slab by slab: at once, NumPy would first copy the array as 64-bit indices."""
    found = np.empty_like(array, dtype=table.dtype)
    for slab in _slabs(array):
        found[slab] = table[array[slab].astype(np.int64) - first]
    return found


def values_in(array: np.ndarray) -> list[int]:
    """The distinct values of an integer array, sorted; marked in a table where they allow it, since sorting is slow."""
    if array.size == 0:
        return []
    low, high = int(array.min()), int(array.max())
    if high - low >= LARGEST_TABLE:
        return [int(value) for value in np.unique(array)]
    present = np.zeros(high - low + 1, bool)
    for slab in _slabs(array):
        present[array[slab].astype(np.int64) - low] = True
    return [int(value) + low for value in np.flatnonzero(present)]


def _slabs(array: np.ndarray) -> Iterator[tuple[slice, ...]]:
    """Cuts of about a million voxels, each in one piece of memory."""
    axis = int(np.argmax(array.strides))
    length = array.shape[axis]
    step = max(1, length * (1 << 20) // max(array.size, 1))
    for start in range(0, length, step):
        yield (*[slice(None)] * axis, slice(start, start + step))


def _span(values: list[int]) -> int:
    return values[-1] - values[0] + 1 if values else 0
