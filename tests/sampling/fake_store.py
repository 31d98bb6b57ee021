"""A store in memory. In a module of its own name, so that another process finds the class."""

from types import SimpleNamespace

import numpy as np


class FakeStore:
    """Scans of given sizes whose voxels tell their own place: channel 0 holds 1 + the flat index, label 1 a small box.

    Refuses the label of any case that is not in `labelled`.
    """

    def __init__(self, shapes, labelled, spacing_mm=(1.0, 1.0, 1.0)):
        self.shapes = shapes
        self.labelled = set(labelled)
        self.spacing_mm = spacing_mm
        self.touched = []

    def image(self, case_id):
        shape = self.shapes[case_id]
        places = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)
        return np.stack([places, -places])

    def label(self, case_id):
        self.touched.append(case_id)
        if case_id not in self.labelled:
            raise AssertionError(f"the hidden label of {case_id} was opened")
        label = np.zeros(self.shapes[case_id], np.uint8)
        x, y, z = (n // 3 for n in self.shapes[case_id])
        label[x : x + 2, y : y + 2, z : z + 1] = 1
        label[-1, -1, -1] = 2
        return label

    def foreground(self, case_id):
        label = self.label(case_id)
        return {index: np.argwhere(label == index).astype(np.int32) for index in (1, 2)}

    def classes(self, case_id):
        return tuple(index for index, voxels in self.foreground(case_id).items() if len(voxels))

    def placement(self, case_id):
        return SimpleNamespace(spacing_mm=self.spacing_mm)
