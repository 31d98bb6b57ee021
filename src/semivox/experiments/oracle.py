"""Prompts drawn from the reference labels: what a model would reach if somebody drew every box for it.

An upper bound for evaluation, never a result: whatever is made this way says so.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from semivox.data.fault import Fault, FaultError
from semivox.data.image import read_classes
from semivox.data.labels import LabelMap
from semivox.data.volume import Grid
from semivox.errors import DataError
from semivox.evaluation.matching import UNNAMED, read_references, same_names
from semivox.inference.inputs import Input


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

    def __call__(self, item: Input, grid: Grid) -> np.ndarray:
        """Classes (X, Y, Z), uint8, of a scan, on the grid of its image; what is unknown is background.

        Raises FaultError for a scan without a label, and as `read_classes` does.
        """
        if item.case not in self.cases:
            fault = Fault(item.case, self.folder, "has no label for it", "leave the scan out, or add its label")
            raise FaultError(fault)
        case = replace(self.cases[item.case], images=item.files)
        return self.table[read_classes(case, self.dataset, grid).array]
