"""Prepared scans in memory, in place of a store."""

from pathlib import Path

import pytest
from fake_store import FakeStore

from semivox.data.case import Case, Dataset
from semivox.data.labels import LabelMap
from semivox.planning.plan import BatchSize, Plan
from semivox.preparation.settings import Normalisation, Preparation


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
