"""`semivox predict`: scans in, label maps out. Needs a run's model folder, never the training data."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from semivox.atomic import atomic_write_text
from semivox.data.case import DEFAULT
from semivox.errors import RunError, SettingError, unknown
from semivox.inference.inputs import Input, find_inputs
from semivox.inference.pipeline import Outputs, predict_cases
from semivox.methods.model import Model, inference_state, load_model
from semivox.progress import progress
from semivox.settings import first_fault
from semivox.training.config import InferenceSettings
from semivox.training.cpu import keep_heap, lay_out
from semivox.training.device import choose_device
from semivox.training.windowing import make_windows

TOLD = ("method", "dataset", "step", "selection", "seed", "scored_split")
"""What prediction.json says of the model."""

PREDICTING = {"overlap", "stride", "weighting", "flips", "largest_component"}
"""Inference settings that change a prediction."""


def predict(
    run: str | Path,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    ensemble: Sequence[str | Path] = (),
    task: str | None = None,
    device: str = "auto",
    method: str | None = None,
    settings: Mapping[str, Any] | None = None,
    probabilities: bool = False,
) -> list[Path]:
    """Predicts scans with a trained model and returns the label files written, in the order of the cases.

    inputs: image files, folders of them (nnU-Net names or one file per case), DICOM series. out: folder; cases that are
    complete there are skipped. ensemble: further runs whose probabilities are averaged in. task: which label set to
    predict, for a model of several; other classes are background then. method: `file.py:Class`, for a model whose
    method lies in a file. settings: overrides of `InferenceSettings`.
    """
    models = [_load(Path(folder), method) for folder in (run, *ensemble)]
    first = models[0]
    for folder, model in zip(ensemble, models[1:], strict=True):
        ours, theirs = first.problem, model.problem
        if ours.labels != theirs.labels or ours.plan.preparation != theirs.plan.preparation:
            raise SettingError(
                f"--ensemble {folder}: its labels or preparation differ from those of {run}; leave it out"
            )
    if task is not None and task not in first.tasks:
        raise unknown("task", task, first.tasks or [DEFAULT])
    paths = [inputs] if isinstance(inputs, str | Path) else inputs
    found = find_inputs([Path(path) for path in paths], len(first.channels))
    keep_heap()
    return predict_inputs(
        models,
        found,
        Path(out),
        task=task or DEFAULT,
        device=choose_device(device),
        settings=inference_settings(first, settings or {}),
        probabilities=probabilities,
    )


def _load(folder: Path, method: str | None) -> Model:
    """A model with all facts that prediction needs. Raises RunError as `load_model` does."""
    model = load_model(folder, method)
    for fact in (*TOLD, "precision", "inference"):
        if fact not in model.facts:
            raise RunError(f"{folder}: its model.json lacks the fact '{fact}'; copy the model again from its source")
    return model


def inference_settings(model: Model, overrides: Mapping[str, Any]) -> InferenceSettings:
    """The settings the model was trained with, with `overrides` set."""
    for name in overrides:
        if name not in InferenceSettings.model_fields:
            raise unknown("inference setting", name, InferenceSettings.model_fields)
    try:
        return InferenceSettings(**{**model.facts["inference"], **overrides})
    except ValidationError as error:
        raise SettingError(f"setting {first_fault(error)}") from None


def predict_inputs(
    models: Sequence[Model],
    inputs: Sequence[Input],
    out: Path,
    *,
    task: str,
    device: str,
    settings: InferenceSettings,
    probabilities: bool = False,
) -> list[Path]:
    """Predicts `inputs` into `out`, beside a prediction.json that says which labels and model made them."""
    first = models[0]
    for model in models:
        model.method.to(device)
        if device == "cpu":
            lay_out(model.method)
    volume_predictors = [volume_predictor(model, settings, task) for model in models]
    note_model(out, models, task, settings)
    outputs = Outputs(
        out,
        first.file_ending,
        largest_component=settings.largest_component,
        uncertainty=settings.uncertainty,
        probabilities=probabilities,
    )

    outside = classes_outside(first, task)

    def mean(volume: Tensor) -> Tensor:
        mean = reduce(torch.add, (one(volume) for one in volume_predictors))
        if len(models) > 1:
            mean /= len(models)
        for index in outside:
            mean[0] += mean[index]
            mean[index] = 0
        return mean

    with progress("predicting") as report:
        return predict_cases(
            inputs,
            mean,
            first.problem.plan.preparation,
            first.channels,
            first.problem.labels,
            outputs,
            device=torch.device(device),
            progress=report,
        )


def volume_predictor(model: Model, settings: InferenceSettings, task: str) -> Callable[[Tensor], Tensor]:
    """A function from a prepared scan (C, X, Y, Z) to probabilities (K, X, Y, Z)."""
    windows = make_windows(model.problem.plan, settings, model.facts["precision"])
    return lambda volume: model.method.predict_volume(volume, windows, task)


def classes_outside(model: Model, task: str) -> list[int]:
    """The classes that are background in `task`: all that it does not name, none where it is not one of several."""
    names = model.problem.labels.names
    inside = model.tasks.get(task, names)
    return [index for index, name in enumerate(names) if index and name not in inside]


def note_model(out: Path, models: Sequence[Model], task: str, settings: InferenceSettings) -> None:
    """Writes prediction.json; refuses a folder whose predictions came from other weights or settings."""
    first = models[0]
    labels, outside = first.problem.labels, classes_outside(first, task)
    named = zip(labels.names, labels.values, strict=True)
    content = {
        "labels": dict(label for index, label in enumerate(named) if index not in outside),
        "regions": labels.regions,
        "model": {key: first.facts[key] for key in TOLD},
        "weights_sha256": [weights_sha256(model) for model in models],
        "task": task,
        "settings": settings.model_dump(mode="json", include=PREDICTING),
    }
    path = out / "prediction.json"
    try:
        if path.exists() and json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(content)):
            raise RunError(f"{out} holds predictions of another model or setting; give another --out, or delete them")
        atomic_write_text(path, json.dumps(content, indent=1))
    except OSError as error:
        raise RunError(f"--out {out}: cannot be written ({error.strerror}); give another folder") from None


def weights_sha256(model: Model) -> str:
    """SHA-256 of the weights that predict, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(inference_state(model.method).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
