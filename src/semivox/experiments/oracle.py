"""Prompts drawn from the reference labels: what a model would reach if somebody drew every box for it.

An upper bound for evaluation, never a result: whatever is made this way says so.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from semivox.data.image import read_classes
from semivox.data.labels import LabelMap
from semivox.data.volume import Grid
from semivox.errors import DataError
from semivox.evaluation.matching import UNNAMED, read_references, same_names
from semivox.inference.inputs import Input

SHOWN = 3
"""Names of scans in a message."""


class OracleLabels:
    """Reference labels by case, as class indices of a model.

    folder: of label files, or of a data set, as `semivox evaluate` takes it. labels: the model's, which also names the
    values of files that nobody describes.
    """

    def __init__(self, folder: Path, labels: LabelMap) -> None:
        described = read_references(folder)
        self.folder = folder
        self.dataset = replace(described, labels=labels) if described.labels is UNNAMED else described
        self.cases = {case.id: case for case in self.dataset if case.label is not None}
        self.table = same_names(self.dataset.labels, labels)
        if not self.table.any():
            raise DataError(
                f"--oracle-prompts {folder}: labels are of {', '.join(self.dataset.labels.foreground)}, the model's of"
                f" {', '.join(labels.foreground)}: no name is in both; give labels of what it was trained on"
            )

    def refuse_absent(self, items: Sequence[Input]) -> None:
        """Raises DataError where a scan has no label."""
        absent = [item.case for item in items if item.case not in self.cases]
        if absent:
            named = ", ".join(absent[:SHOWN]) + (", ..." if len(absent) > SHOWN else "")
            raise DataError(
                f"--oracle-prompts {self.folder}: {len(absent)} of {len(items)} scans have no label there ({named});"
                " leave them out, or add their labels"
            )

    def __call__(self, item: Input, grid: Grid) -> np.ndarray:
        """Classes (X, Y, Z), uint8, of a scan, on the grid of its image; what is unknown is background.

        Raises FaultError as `read_classes` does.
        """
        case = replace(self.cases[item.case], images=item.files)
        return self.table[read_classes(case, self.dataset, grid).array]
