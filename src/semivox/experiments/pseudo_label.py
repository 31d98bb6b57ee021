"""`semivox pseudo-label`: a data set that nnU-Net v2 trains on as it is, true labels and predicted ones together.

    OUT/
      made_from.json         the model, the settings, which cases have a true label; a folder made of others is refused
      imagesTr, labelsTr     every training case, with labels 0, 1, ..., and `ignore` last where it is used
      confidence/CASE        the probability of the chosen class, voxel by voxel; CASE.json goes into labels.csv
      labels.csv             case by case where its label is from, how sure it is, how large each class is
      splits_final.json      where the data set has validation cases: they are nnU-Net's fold 0
      dataset.json           written last: where it is, all is

Labels that the run hid are never opened: their very paths are dropped before anything is read. What is written here
holds case ids and nothing else of a patient; images are the user's own files.
"""

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semivox.atomic import atomic_write_text
from semivox.data.case import Case, Dataset
from semivox.data.description import write_description
from semivox.data.image import map_ending, read_classes, read_image, write_label, write_map
from semivox.data.joining import read_datasets
from semivox.data.labels import IGNORE, LabelMap
from semivox.data.layout import read_dataset
from semivox.data.nnunet import PICTURES, ending_for, label_map, place_images
from semivox.data.volume import Grid
from semivox.errors import DataError, RunError, SettingError
from semivox.experiments.predict import (
    PREDICTING,
    TOLD,
    inference_settings,
    known_modalities,
    load_models,
    mean_predictor,
    weights_sha256,
)
from semivox.inference.inputs import Input
from semivox.inference.pipeline import make_folder, predict_cases
from semivox.inference.postprocessing import cleaned
from semivox.methods.model import Model
from semivox.parallel import run_all
from semivox.preparation.placement import Placement
from semivox.preparation.restore import restore_with_confidence
from semivox.preparation.source import sources_of
from semivox.progress import progress
from semivox.reporting.record import read_record
from semivox.training.config import Config
from semivox.training.cpu import keep_heap
from semivox.training.device import choose_device
from semivox.training.fit import read_data, training_data
from semivox.training.run import RunFolder

ABOUT = "made_from.json"

TRUE, PSEUDO, COMPLETED = "true", "pseudo", "completed"
"""Where a label is from: the data set; the model; the data set, and what that does not annotate from the model."""


def pseudo_label(
    run: str | Path,
    datasets: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    min_confidence: float | None = None,
    ensemble: Sequence[str | Path] = (),
    device: str = "auto",
    method: str | None = None,
    settings: Mapping[str, Any] | None = None,
    link: bool = False,
) -> Dataset:
    """Writes the training cases of `datasets` with a label each to `out`, in the nnU-Net v2 raw layout; returns them.

    datasets: the data sets that the run was trained on, or others of the same kind of scans. A case whose label the run
    was trained with, or in other data sets any case with a label, keeps it; all others get the model's. Of a case
    whose task annotates some classes only the model gives the rest, in what the label calls background. min_confidence:
    voxels whose most probable class has a lower probability become `ignore`. ensemble, device, method, settings: as for
    `predict`. link: images are linked to instead of copied. Continues in an `out` that was begun by the same call.

    Raises SettingError and RunError for what does not fit, DataError where no case lacks a label or a case fails.
    """
    if min_confidence is not None and not 0 < min_confidence < 1:
        raise SettingError(f"--min-confidence {min_confidence}: is a probability; give one between 0 and 1")
    folders = [Path(datasets)] if isinstance(datasets, str | Path) else [Path(path) for path in datasets]
    models = load_models(run, ensemble, method)
    model = models[0]
    dataset = in_classes_of(model, seen_by(Path(run), model, folders))
    chosen = choose_device(device)
    inference = inference_settings(model, settings or {})
    made = TrainingSet(Path(out), dataset, min_confidence, inference.keep_continuous, inference.largest_component, link)
    if all(made.source(case) == TRUE for case in made.cases):
        where = ", ".join(map(str, folders))
        raise DataError(f"{where}: every training case has a label, there is nothing to predict; give unlabelled scans")
    begin(
        made.folder,
        {
            "model": {key: model.facts[key] for key in TOLD},
            "weights_sha256": [weights_sha256(one) for one in models],
            "settings": inference.model_dump(mode="json", include=PREDICTING),
            "min_confidence": min_confidence,
            "labels": {case.id: made.source(case) for case in made.cases},
        },
    )
    keep_heap()
    with progress("copying labels") as report:
        run_all(made.copy, [case for case in made.cases if made.source(case) == TRUE], progress=report)
    with progress("pseudo-labels") as report:
        predict_cases(
            [
                Input(case.id, case.images, modality=dataset.modality(case))
                for case in made.cases
                if made.source(case) != TRUE
            ],
            mean_predictor(models, inference, chosen),
            model.problem.plan.preparation,
            model.channels,
            made.labels,
            made,
            device=torch.device(chosen),
            progress=report,
        )
    made.finish()
    return read_dataset(made.folder)


def seen_by(run: Path, model: Model, folders: Sequence[Path]) -> Dataset:
    """The data sets in `folders`, with the labels that the run may see.

    Of the run's own data sets those it was trained with, as its config.yaml says; of others all.
    """
    file = RunFolder(run).config
    if not file.exists():
        raise RunError(f"{run}: has no config.yaml, which says whose labels are hidden; give the folder of the run")
    config = Config.load(file)
    given, own = {folder.resolve() for folder in folders}, {folder.resolve() for folder in config.data.datasets}
    if given == own:
        return training_data(read_data(config.data), config.data.labelled, config.uda.target_labels)
    if given & own:
        together = ", ".join(map(str, config.data.datasets))
        raise SettingError(f"{run} was trained on {together} together; give all of them, or none")
    dataset = read_datasets(folders)
    known = known_modalities(model)
    for modality in sorted({dataset.modality(case) for case in dataset} - set(known)):
        where = ", ".join(map(str, folders))
        raise SettingError(
            f"{where}: has the channels {modality}, {run} was trained on {', '.join(known)}; give such scans, or"
            " correct `channel_names` in dataset.json"
        )
    refuse_own_scans(run, config, dataset)
    return dataset


def refuse_own_scans(run: Path, config: Config, dataset: Dataset) -> None:
    """Raises SettingError where labelled cases are the run's own, in another folder than it was trained on.

    Some of their labels may be hidden, and only for the folders in config.yaml is it known which. Files are told by
    name and checksum.
    """
    recorded = read_record(run).environment.get("data", {}).get("image_sha256", {})
    checksums: dict[str, set[str]] = {}
    for name, sha256 in recorded.items():
        checksums.setdefault(Path(name).name, set()).add(sha256)
    for case in dataset.labelled():
        for source in sources_of(case.id, [image for image in case.images if image.name in checksums]):
            if source.sha256 in checksums[Path(source.path).name]:
                own = ", ".join(map(str, config.data.datasets))
                raise SettingError(
                    f"{source.path}: {run} was trained with this scan, from {own}; give that folder, or where it was"
                    f" moved correct data.datasets in {RunFolder(run).config}"
                )


def in_classes_of(model: Model, dataset: Dataset) -> Dataset:
    """The data set with the model's classes; each case keeps the map of its own label file. Names it lacks are unknown
    in it, those that only it has are background."""
    labels = model.problem.labels
    return replace(
        dataset,
        labels=labels,
        tasks={task: tuple(name for name in names if name in labels.names) for task, names in dataset.tasks.items()},
        cases=tuple(replace(case, label_map=case.label_map or dataset.labels) for case in dataset),
    )


def begin(folder: Path, made_from: dict[str, Any]) -> None:
    """Makes the folder, or clears one that was begun for going on. Raises where it holds anything else."""
    about = folder / ABOUT
    if folder.is_dir() and any(folder.iterdir()) and not about.exists():
        raise SettingError(f"--out {folder}: holds other files; give a new folder")
    make_folder(folder)
    text = json.dumps(made_from, indent=1)
    if about.exists() and about.read_text(encoding="utf-8") != text:
        raise RunError(
            f"--out {folder}: was made by another model, other settings or of other cases; give a new folder, or delete"
            " this one"
        )
    for leftover in folder.rglob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    (folder / "dataset.json").unlink(missing_ok=True)
    atomic_write_text(about, text)


@dataclass(frozen=True)
class TrainingSet:
    """The data set that is made, in `folder`, of `dataset`, whose classes are the model's."""

    folder: Path
    dataset: Dataset
    min_confidence: float | None
    keep_continuous: bool
    largest_component: bool
    link: bool

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """The training cases, and the validation cases that have a label."""
        return tuple(
            case for case in self.dataset if case.split == "train" or (case.split == "val" and case.label is not None)
        )

    @cached_property
    def ending(self) -> str:
        """Of all images and labels."""
        return ending_for(image for case in self.cases for image in case.images)

    @cached_property
    def labels(self) -> LabelMap:
        """The classes as nnU-Net demands them."""
        source = self.dataset.labels
        own = (case.label_map for case in self.cases if case.label is not None)
        ignores = self.min_confidence is not None or any(one and one.ignore_value is not None for one in own)
        return label_map(source.names, source.regions, ignores)

    def annotated(self, case: Case) -> list[int]:
        """The foreground classes that the label of a case tells from the background."""
        if case.label is None:
            return []
        names = self.dataset.tasks.get(case.task, self.dataset.labels.foreground)
        own = (case.label_map or self.dataset.labels).foreground
        return [i for i, name in enumerate(self.dataset.labels.names) if i and name in names and name in own]

    def source(self, case: Case) -> str:
        """Where the label of a case is from."""
        annotated = len(self.annotated(case))
        return PSEUDO if not annotated else TRUE if annotated == self.dataset.labels.count - 1 else COMPLETED

    def label(self, item: Input) -> Path:
        return self.label_of(item.case)

    def label_of(self, case_id: str) -> Path:
        return self.folder / "labelsTr" / f"{case_id}{self.ending}"

    def record_of(self, case_id: str) -> Path:
        return self.folder / "confidence" / f"{case_id}.json"

    def complete(self, item: Input) -> bool:
        """Whether the label is there, which is written last."""
        return self.label(item).exists()

    def copy(self, case: Case) -> None:
        """Writes a case whose label is true, with a header that holds nothing but the image's grid."""
        if not self.label_of(case.id).exists():
            grid = read_image(case, self.dataset).grid
            self._finish_case(case, read_classes(case, self.dataset, grid).array, grid, {})

    def write(self, item: Input, probabilities: Tensor, placement: Placement, labels: LabelMap) -> None:
        """Writes a case whose label is predicted, in part or all of it."""
        case, grid = self.dataset[item.case], placement.source_grid
        shares = probabilities.numpy()
        for index in self.annotated(case):  # where such a class is, its label says; elsewhere it is not
            shares[0] += shares[index]
            shares[index] = 0
        classes, confidence = restore_with_confidence(shares, placement)
        kept = cleaned(classes, grid, continuous=self.keep_continuous, largest=self.largest_component)
        np.subtract(1, confidence, out=confidence, where=kept != classes)
        classes = kept
        told = (
            read_classes(case, self.dataset, grid).array if self.source(case) == COMPLETED else np.zeros_like(classes)
        )
        decided = told == 0
        figures = {
            "confidence": mean(confidence[decided]),
            "foreground_confidence": mean(confidence[decided & (classes > 0)]),
        }
        if self.min_confidence is not None:
            classes[confidence < self.min_confidence] = IGNORE
        classes[~decided] = told[~decided]
        confidence[~decided] = 1
        write_map(self.folder / "confidence" / f"{case.id}{map_ending(self.label(item))}", confidence, grid)
        self._finish_case(case, classes, grid, figures)

    def _finish_case(self, case: Case, classes: np.ndarray, grid: Grid, figures: dict[str, float | None]) -> None:
        """Writes the images, what labels.csv is made of, and the label, of class indices (X, Y, Z)."""
        place_images(case, self.folder / "imagesTr", self.ending, self.link)
        voxels = {name: int(np.isin(classes, own).sum()) for name, own in self.labels.scored().items()}
        record: dict[str, Any] = {**figures, "ignored": float(np.mean(classes == IGNORE)), "voxels": voxels}
        if self.ending not in PICTURES:
            record["ml"] = {name: count * float(np.prod(grid.spacing_mm)) / 1000 for name, count in voxels.items()}
        atomic_write_text(self.record_of(case.id), json.dumps(record))
        write_label(self.label_of(case.id), self.labels.to_values(classes), grid)

    def finish(self) -> None:
        """Writes what is about all cases, dataset.json last."""
        atomic_write_text(self.folder / "labels.csv", self._table())
        folds = {split: [case.id for case in self.cases if case.split == split] for split in ("train", "val")}
        if folds["val"]:
            atomic_write_text(self.folder / "splits_final.json", json.dumps([folds], indent=1))
        first = f"_0000{self.ending}"
        cases = (Case(case.id, (Path(f"{case.id}{first}"),), self.label_of(case.id)) for case in self.cases)
        write_description(
            replace(
                self.dataset,
                root=self.folder,
                labels=self.labels,
                cases=tuple(cases),
                tasks={},
                file_ending=self.ending,
            )
        )

    def _table(self) -> str:
        """labels.csv: a row per case, in the data set's order; empty where there is no figure."""
        text = io.StringIO()
        rows = [self._row(case) for case in self.cases]
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _row(self, case: Case) -> dict[str, str]:
        record = json.loads(self.record_of(case.id).read_text(encoding="utf-8"))
        figures = {
            "confidence": record.get("confidence"),
            "foreground_confidence": record.get("foreground_confidence"),
            "ignored": record["ignored"],
            **{f"ml/{name}": volume for name, volume in record.get("ml", {}).items()},
        }
        return {
            "case": case.id,
            "domain": case.domain,
            "label": self.source(case),
            **{name: "" if value is None else f"{value:.6g}" for name, value in figures.items()},
            **{f"voxels/{name}": str(count) for name, count in record["voxels"].items()},
        }


def mean(values: np.ndarray) -> float | None:
    """None of no values."""
    return float(values.mean(dtype=np.float64)) if values.size else None
