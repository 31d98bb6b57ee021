"""How good the pseudo-labels were. The one place that opens labels which were hidden from training, after its end."""

from dataclasses import dataclass

import numpy as np

from semivox.data.case import Dataset
from semivox.data.image import read_classes, read_label
from semivox.errors import RunError
from semivox.evaluation.scores import dice_per_class
from semivox.reporting.record import Record

FOLDER = "predictions_unlabelled"
"""Folder of a run with its predictions of the unlabelled training cases."""


@dataclass(frozen=True)
class PseudoLabelDice:
    """Class → mean Dice over `cases`, NaN where no case holds the class, and the number of cases."""

    classes: dict[str, float]
    mean: float
    cases: int


def pseudo_label_dice(record: Record, dataset: Dataset) -> PseudoLabelDice:
    """Scores the saved predictions of unlabelled training cases against the labels that the run hid.

    `dataset` is the whole data set, nothing hidden. Raises RunError where there is nothing to score.
    """
    folder = record.folder / FOLDER
    if not folder.is_dir():
        images = dataset.root / "imagesTr"
        raise RunError(
            f"{record.folder} has no {FOLDER}; make it with: semivox predict {record.folder} {images} --out {folder}"
        )
    seen = {case.id for case in dataset.hide_labels(record.config["data"].get("labelled")).labelled()}
    scores = []
    for case in dataset.labelled():
        file = folder / f"{case.id}{dataset.file_ending}"
        if case.id not in seen and file.is_file():
            prediction = read_label(file)
            reference = read_classes(case, dataset, prediction.grid)
            classes = dataset.labels.to_classes(prediction.array)
            scores.append(dice_per_class(classes, reference.array, dataset.labels))
    if not scores:
        raise RunError(
            f"{folder} holds no prediction of a case whose label the run hid; predict the training images into it"
        )
    names = {name: _mean([score[name] for score in scores]) for name in scores[0]}
    return PseudoLabelDice(names, _mean(list(names.values())), len(scores))


def _mean(values: list[float]) -> float:
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else float("nan")
