"""Label names and the values they have in files.

Inside Semivox a label map holds class indices 0..K-1 (0 is background) and `IGNORE` where the truth is unknown. Files
hold whatever values their data set declares. `LabelMap` translates both ways.
"""

from dataclasses import dataclass, field

import numpy as np

from semivox.errors import DataError

IGNORE = 255
"""Class index of voxels that no loss and no metric looks at."""


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

    def __post_init__(self) -> None:
        if len(self.names) != len(self.values):
            raise DataError(f"labels: {len(self.names)} names but {len(self.values)} values")
        if len(set(self.names)) != len(self.names):
            raise DataError(f"labels: a name is declared twice in {list(self.names)}; give each class its own name")
        if len(set(self.values)) != len(self.values):
            raise DataError(f"labels: a value is declared twice in {list(self.values)}; give each class its own value")
        if len(self.names) >= IGNORE:
            raise DataError(f"labels: {len(self.names)} classes; at most {IGNORE - 1} are supported")

    @property
    def count(self) -> int:
        """K, background included."""
        return len(self.names)

    @property
    def foreground(self) -> tuple[str, ...]:
        """Names of the classes 1..K-1."""
        return self.names[1:]

    def scored(self) -> dict[str, tuple[int, ...]]:
        """What metrics are computed for: name → class indices whose union it is. Regions where declared, else classes."""
        return self.regions or {name: (index,) for index, name in enumerate(self.names) if index}

    def undeclared(self, array: np.ndarray) -> list[int]:
        """Values that occur in `array` (file values) but are not declared."""
        known = {*self.values, *([] if self.ignore_value is None else [self.ignore_value])}
        return sorted(int(value) for value in np.unique(array) if value not in known)

    def to_classes(self, array: np.ndarray) -> np.ndarray:
        """File values → class indices, uint8, same shape.

        Raises DataError where a value is not declared.
        """
        undeclared = self.undeclared(array)
        if undeclared:
            raise DataError(
                f"label has undeclared values {undeclared}, declared are {dict(zip(self.names, self.values, strict=True))};"
                " give each value a name under `labels` in dataset.json"
            )
        classes = np.zeros(array.shape, np.uint8)
        for index, value in enumerate(self.values):
            if index:
                classes[array == value] = index
        if self.ignore_value is not None:
            classes[array == self.ignore_value] = IGNORE
        if self.values[0] == 0:
            return classes
        # Background has a value of its own: nothing to do, every voxel not assigned above holds it.
        return classes

    def to_values(self, classes: np.ndarray) -> np.ndarray:
        """Class indices → file values, in the smallest unsigned type that holds them (int32 where one is negative)."""
        extremes = [*self.values, *([] if self.ignore_value is None else [self.ignore_value])]
        if min(extremes) < 0:
            dtype = np.dtype(np.int32)
        else:
            dtype = np.min_scalar_type(max(extremes))
        table = np.zeros(IGNORE + 1, dtype)
        table[: self.count] = self.values
        if self.ignore_value is not None:
            table[IGNORE] = self.ignore_value
        return table[classes]
