"""Prepared scans in memory, in place of a store."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from semivox.data.case import Case, Dataset
from semivox.data.labels import LabelMap
from semivox.planning.plan import BatchSize, Plan
from semivox.preparation.settings import Normalisation, Preparation


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

    def placement(self, case_id):
        return SimpleNamespace(spacing_mm=self.spacing_mm)


def make_dataset(labelled, unlabelled, names=("background", "organ", "corner")):
    cases = [Case(f"l{i}", (Path(f"l{i}.nii.gz"),), label=Path(f"l{i}.nii.gz")) for i in range(labelled)]
    cases += [Case(f"u{i}", (Path(f"u{i}.nii.gz"),), domain="other") for i in range(unlabelled)]
    return Dataset("phantom", Path("."), ("a", "b"), LabelMap(names, tuple(range(len(names)))), tuple(cases))


def make_plan(patch, labelled=2, unlabelled=2, **changes):
    coarse = changes.pop("coarse_axis", None)
    preparation = Preparation(normalisation=(Normalisation(), Normalisation()), coarse_axis=coarse)
    batch = BatchSize(labelled=labelled, unlabelled=unlabelled)
    return Plan(preparation=preparation, patch=patch, batch=batch, **changes)


@pytest.fixture
def world():
    """(labelled, unlabelled, size) → a data set and its store; sizes differ a little from case to case."""

    def make(labelled=3, unlabelled=5, size=(20, 18, 13), spacing_mm=(1.0, 1.0, 1.0), **changes):
        dataset = make_dataset(labelled, unlabelled, **changes)
        shapes = {case.id: (size[0] + i % 2, size[1], size[2] + i % 3) for i, case in enumerate(dataset)}
        return dataset, FakeStore(shapes, [case.id for case in dataset.labelled()], spacing_mm)

    return make


@pytest.fixture
def plan():
    """Makes a plan from a patch."""
    return make_plan
