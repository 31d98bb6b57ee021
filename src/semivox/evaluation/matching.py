"""Which prediction belongs to which reference label, and which of their classes are the same: by name, not by value."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from semivox.data.case import Case, Dataset
from semivox.data.description import read_description
from semivox.data.fault import Fault, FaultError
from semivox.data.image import ENDINGS, read_classes, read_label
from semivox.data.labels import IGNORE, LabelMap
from semivox.data.layout import survey
from semivox.data.scans import natural_order
from semivox.data.volume import Volume
from semivox.errors import DataError

ABOUT = "prediction.json"
"""Lies beside predictions: `labels` (name → value, background first), `regions` (name → class indices) and `model`."""

UNCERTAINTY = "_uncertainty"
"""Ends the name of a map that lies beside the prediction it belongs to."""

UNNAMED = LabelMap(("background",), (0,))
"""Stands for label names that nobody has told."""


@dataclass(frozen=True, eq=False)
class Matching:
    """Predictions and references of the same cases."""

    reference: Dataset
    """The cases that can be scored, each with its `label`."""
    predictions: dict[str, Path]
    """Case id → file, for just these cases."""
    predicted: LabelMap
    """What the values in the prediction files mean."""
    model: dict[str, Any]
    unscored: tuple[str, ...]
    """Predictions without a reference."""
    unpredicted: tuple[str, ...]
    """References without a prediction."""

    def names(self, case: Case) -> list[str]:
        """What is scored of this case: all that its task annotates and the model can predict."""
        known = self.reference.known_classes(case.task)
        labels = self.reference.labels
        return [
            name
            for name, classes in labels.scored().items()
            if all(known[index] and labels.names[index] in self.predicted.foreground for index in classes)
        ]

    @property
    def unpredictable(self) -> tuple[str, ...]:
        """Names that the references have and the model does not know."""
        labels = self.reference.labels
        missing = {index for index, name in enumerate(labels.names) if index and name not in self.predicted.foreground}
        return tuple(name for name, classes in labels.scored().items() if missing.intersection(classes))

    def read(self, case: Case) -> tuple[np.ndarray, Volume]:
        """Prediction (X, Y, Z) and reference volume of a case, both as the reference's class indices, uint8.

        Raises FaultError: a file that cannot be read, undeclared values, grids that differ.
        """
        path = self.predictions[case.id]
        reference = read_classes(case, self.reference)
        try:
            prediction = read_label(path)
        except FaultError as error:
            raise FaultError(replace(error.fault, case=case.id)) from None
        difference = reference.grid.difference(prediction.grid)
        if difference:
            mend = "predict the case again, or resample the prediction to its label by nearest neighbour"
            raise FaultError(Fault(case.id, path, f"prediction has {difference}, as its label has", mend))
        undeclared = self.predicted.undeclared(prediction.array)
        if undeclared:
            mend = f"name the values the model was trained with in a {ABOUT} beside the predictions, under `labels`"
            raise FaultError(Fault(case.id, path, f"prediction {self.predicted.complaint(undeclared)}", mend))
        return same_names(self.predicted, self.reference.labels)[self.predicted.to_classes(prediction.array)], reference


def match(predictions: Path, labels: Path | Dataset) -> Matching:
    """Pairs the files of the folder `predictions` with reference labels by the case's name.

    `labels` is a data set, its folder, or a folder of label files. A data set names its classes, and so does a
    dataset.json in or above a folder of label files. What the values of the predictions mean is said by a
    prediction.json or dataset.json beside them. Where only one side says it, it holds for both; where none does,
    every value found is a class of its own. Raises DataError where nothing can be scored.
    """
    predictions = Path(predictions)
    files = label_files(predictions)
    for case in list(files):
        if case.endswith(UNCERTAINTY) and case.removesuffix(UNCERTAINTY) in files:
            del files[case]
    dataset = labels if isinstance(labels, Dataset) else read_references(Path(labels))
    references = {case.id: case for case in dataset if case.label is not None}
    cases = tuple(case for case in references.values() if case.id in files)
    if not cases:
        there = ", ".join(list(files)[:3]) or "none"
        where = dataset.root if isinstance(labels, Dataset) else labels
        raise DataError(
            f"no prediction in {predictions} has a label in {where} (predicted cases: {there});"
            " a prediction must have the name of its label file"
        )
    predicted, model = _about(predictions)
    if dataset.labels is UNNAMED:
        scored = [path for case in cases for path in (case.label, files[case.id]) if path]
        dataset = replace(dataset, labels=predicted or _values_as_names(scored))
    splits = {case.split for case in cases}
    matching = Matching(
        reference=replace(dataset, cases=cases),
        predictions={case.id: files[case.id] for case in cases},
        predicted=predicted or dataset.labels,
        model=model,
        unscored=tuple(case for case in files if case not in references),
        unpredicted=tuple(case.id for case in references.values() if case.id not in files and case.split in splits),
    )
    if len(matching.unpredictable) == len(dataset.labels.scored()):
        raise DataError(
            f"predictions in {predictions} are of {', '.join(matching.predicted.foreground)}, labels of"
            f" {', '.join(dataset.labels.scored())}: no name is in both; rename one of them where it is declared"
        )
    return matching


def same_names(source: LabelMap, target: LabelMap) -> np.ndarray:
    """Class of `source` → class of `target` of the same name, background where there is none; a table of uint8."""
    table = np.zeros(IGNORE + 1, np.uint8)
    for index, name in enumerate(source.names):
        if name in target.foreground:
            table[index] = target.names.index(name)
    return table


def label_files(folder: Path) -> dict[str, Path]:
    """Case id → file, for all label files in `folder`, in natural order. Raises FaultError for two of one case."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FaultError(Fault("", folder, "there is no such folder", "check the path"))
    files: dict[str, Path] = {}
    for case, path in sorted(_named(folder), key=lambda item: natural_order(item[0])):
        if case in files:
            raise FaultError(Fault(case, path, f"there is {files[case].name} too", "keep one file per case"))
        files[case] = path
    return files


def _named(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.iterdir():
        ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)
        if ending and path.is_file() and not path.name.startswith("."):
            yield path.name[: -len(ending)], path


def read_references(folder: Path) -> Dataset:
    """The data set in `folder`, or the label files there as one, as a dataset.json in or above it describes them; its
    labels are `UNNAMED` where none does."""
    files = label_files(folder)
    root = next((root for root in (folder, folder.absolute().parent) if (root / "dataset.json").is_file()), None)
    if root is None:
        cases = tuple(Case(case, (), path) for case, path in files.items())
        return Dataset(folder.name, folder, (), UNNAMED, cases)
    dataset, faults = survey(root)
    if dataset is None:
        raise FaultError(faults[0])
    if not files:
        return dataset
    described = {case.id: case for case in dataset}
    published = [case for case in described if case in files] + [case for case in files if case not in described]
    cases = tuple(replace(described.get(case, Case(case, ())), label=files[case]) for case in published)
    return replace(dataset, cases=cases)


def _about(predictions: Path) -> tuple[LabelMap | None, dict[str, Any]]:
    """What the files beside the predictions say of their labels (None: nothing) and of the model."""
    file = predictions / ABOUT
    if file.is_file():
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            labels, regions = content["labels"], content.get("regions", {})
            members = {name: tuple(map(int, classes)) for name, classes in regions.items()}
            return LabelMap(tuple(labels), tuple(map(int, labels.values())), regions=members), content.get("model", {})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            mend = 'write it as {"labels": {"background": 0, "organ": 1}, "model": {}}, or remove it'
            raise FaultError(Fault("", file, "does not say what the predictions hold", mend)) from None
    if (predictions / "dataset.json").is_file():
        return read_description(predictions).labels, {}
    return None, {}


def _values_as_names(paths: list[Path]) -> LabelMap:
    """Where nobody names the classes: each value that occurs is one, with the number as its name."""
    values = sorted({int(value) for path in paths for value in np.unique(read_label(path).array)} - {0})
    return LabelMap(("background", *map(str, values)), (0, *values))
