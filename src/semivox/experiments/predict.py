"""`semivox predict`: scans in, label maps out. Needs a run's model folder, never the training data."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from semivox.atomic import atomic_write_text
from semivox.data.case import DEFAULT, modality_name
from semivox.errors import RunError, SettingError, unknown
from semivox.experiments.oracle import OracleLabels
from semivox.inference.inputs import Input, find_inputs
from semivox.inference.pipeline import Oracle, Outputs, folder_names, predict_cases
from semivox.methods.model import Model, inference_state, load_model
from semivox.progress import progress
from semivox.settings import first_fault
from semivox.training.config import InferenceSettings
from semivox.training.cpu import keep_heap, lay_out
from semivox.training.device import choose_device
from semivox.training.windowing import make_windows

ABOUT = "prediction.json"
"""Beside predictions: which labels they hold, and the model that made them."""

TOLD = ("method", "dataset", "step", "selection", "seed", "scored_split")
"""What prediction.json says of the model."""

PREDICTING = {"overlap", "stride", "weighting", "flips", "keep_continuous", "largest_component"}
"""Inference settings that change a prediction."""


def predict(
    run: str | Path,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    ensemble: Sequence[str | Path] = (),
    task: str | None = None,
    modality: str | None = None,
    device: str = "auto",
    method: str | None = None,
    settings: Mapping[str, Any] | None = None,
    probabilities: bool = False,
    each_class: bool = False,
    oracle_prompts: str | Path | None = None,
) -> list[Path]:
    """Predicts scans with a trained model and returns the label files written, in the order of the cases.

    inputs: image files, folders of them (nnU-Net names or one file per case), DICOM series. out: folder; cases that are
    complete there are skipped. ensemble: further runs whose probabilities are averaged in. task: which label set to
    predict, for a model of several; other classes are background then. None predicts all. modality: what the scans were
    scanned with, for a model of several that are prepared differently; a task that was trained on one implies it.
    method: `file.py:Class`, for a model whose method lies in a file. settings: overrides of `InferenceSettings`.
    each_class: writes each class alone as well, into `out`/CLASS/CASE. oracle_prompts: labels whose boxes prompt the
    model, which must take prompts: an upper bound for evaluation, which prediction.json and every score of it say.
    """
    models = load_models(run, ensemble, method)
    first = models[0]
    if task is not None and task not in first.tasks:
        raise unknown("task", task, first.tasks or [DEFAULT])
    modality = chosen_modality(first, task, modality)
    labels = None if oracle_prompts is None else oracle_labels(Path(oracle_prompts), models)
    paths = [inputs] if isinstance(inputs, str | Path) else inputs
    found = find_inputs([Path(path) for path in paths], len(first.channels))
    if labels is not None:
        labels.refuse_absent(found)
    keep_heap()
    return predict_inputs(
        models,
        [replace(item, task=task or DEFAULT, modality=modality) for item in found],
        Path(out),
        device=choose_device(device),
        settings=inference_settings(first, settings or {}),
        probabilities=probabilities,
        each_class=each_class,
        oracle=labels,
    )


def oracle_labels(folder: Path, models: Sequence[Model]) -> OracleLabels:
    """The labels that prompt the one model there is. Raises SettingError where it takes no prompts."""
    if len(models) > 1:
        raise SettingError(f"--oracle-prompts {folder}: prompts one model; leave --ensemble out")
    if not models[0].method.takes_prompts:
        name = models[0].facts["method"]
        raise SettingError(f"--oracle-prompts {folder}: {name} as trained here takes no prompts; leave it out")
    return OracleLabels(folder, models[0].problem.labels)


def load_models(run: str | Path, ensemble: Sequence[str | Path], method: str | None) -> list[Model]:
    """The run's model and those whose probabilities are averaged in. Raises SettingError where one does not fit."""
    models = [_load(Path(folder), method) for folder in (run, *ensemble)]
    for folder, model in zip(ensemble, models[1:], strict=True):
        ours, theirs = models[0].problem, model.problem
        if ours.labels != theirs.labels or ours.plan.preparation != theirs.plan.preparation:
            raise SettingError(
                f"--ensemble {folder}: its labels or preparation differ from those of {run}; leave it out"
            )
    return models


def chosen_modality(model: Model, task: str | None, given: str | None) -> str:
    """The modality that new scans are of: the one given, that of their task, or the only one there is.

    Raises SettingError where it is unknown, or where several are left that are prepared differently.
    """
    of_tasks = {name: tuple(own) for name, own in model.facts.get("modalities", {}).items()}
    known = known_modalities(model)
    if given is not None and given not in known:
        raise unknown("modality", given, known)
    left = [given] if given is not None else list(of_tasks.get(task or "", known))
    prepare = model.problem.plan.preparation.of
    if all(prepare(name) == prepare(left[0]) for name in left):
        return left[0]
    tasks = [f"{name} ({', '.join(own)})" for name, own in of_tasks.items() if name in model.tasks and len(own) == 1]
    raise SettingError(
        f"the model was trained on {', '.join(left)}, which are prepared differently; say which the scans are with"
        " --modality" + (f", or name their task with --task: {', '.join(tasks)}" if task is None and tasks else "")
    )


def known_modalities(model: Model) -> list[str]:
    """What the model was trained on scans of."""
    of_tasks = model.facts.get("modalities", {}).values()
    return list(dict.fromkeys(name for own in of_tasks for name in own)) or [modality_name(model.channels)]


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
    device: str,
    settings: InferenceSettings,
    probabilities: bool = False,
    each_class: bool = False,
    oracle: OracleLabels | None = None,
) -> list[Path]:
    """Predicts `inputs`, each for its task, into `out`, beside a prediction.json that says what made them."""
    first = models[0]
    labels = first.problem.labels
    predicted = set().union(*(first.problem.classes_of(item.task) for item in inputs))
    names = [name for name, indices in labels.scored().items() if predicted.issuperset(indices)]
    outputs = Outputs(
        out,
        first.file_ending,
        keep_continuous=settings.keep_continuous,
        largest_component=settings.largest_component,
        uncertainty=settings.uncertainty,
        probabilities=probabilities,
        class_folders=folder_names(names) if each_class else {},
    )
    # Before anything is written: settings that do not fit are told here.
    predictor = mean_predictor(models, settings, device)
    prompted = None if oracle is None else Oracle(oracle, prompted_predictor(first, settings, device))
    note_model(out, models, inputs, settings, prompts=None if oracle is None else "oracle")
    for name, folder in outputs.class_folders.items():
        note_class(out / folder, first, name)

    with progress("predicting") as report:
        return predict_cases(
            inputs,
            predictor,
            first.problem.plan.preparation,
            first.channels,
            labels,
            outputs,
            device=torch.device(device),
            progress=report,
            oracle=prompted,
        )


def prompted_predictor(
    model: Model, settings: InferenceSettings, device: str
) -> Callable[[Tensor, Tensor, str], Tensor]:
    """The model, brought to `device`, prompted by a label: (scan, label, task) → probabilities."""
    model.method.to(device)
    windows = make_windows(model.problem.plan, settings, model.facts["precision"])
    return lambda volume, label, task: model.method.predict_prompted_volume(volume, label, windows, task)


def mean_predictor(
    models: Sequence[Model], settings: InferenceSettings, device: str
) -> Callable[[Tensor, str], Tensor]:
    """The models, brought to `device`, as one `volume_predictor`: their mean, in which the classes outside a task are
    background."""
    for model in models:
        model.method.to(device)
        if device == "cpu":
            lay_out(model.method)
    volume_predictors = [volume_predictor(model, settings) for model in models]

    def mean(volume: Tensor, task: str) -> Tensor:
        mean = reduce(torch.add, (one(volume, task) for one in volume_predictors))
        if len(models) > 1:
            mean /= len(models)
        for index in classes_outside(models[0], task):
            mean[0] += mean[index]
            mean[index] = 0
        return mean

    return mean


def volume_predictor(model: Model, settings: InferenceSettings) -> Callable[[Tensor, str], Tensor]:
    """A function from a prepared scan (C, X, Y, Z) and its task to probabilities (K, X, Y, Z)."""
    windows = make_windows(model.problem.plan, settings, model.facts["precision"])
    return lambda volume, task: model.method.predict_volume(volume, windows, task)


def classes_outside(model: Model, task: str) -> list[int]:
    """The classes that are background in `task`: all that it does not name, none where it is not one of several."""
    inside = model.problem.classes_of(task)
    return [index for index in range(1, model.problem.classes) if index not in inside]


def note_model(
    out: Path,
    models: Sequence[Model],
    inputs: Sequence[Input],
    settings: InferenceSettings,
    *,
    prompts: str | None = None,
) -> None:
    """Writes prediction.json; refuses a folder whose predictions came from other weights or settings.

    `model.prompts` is there where something else than the model found its prompts. `task`, and `modality` where it
    decides how a scan is prepared, are of all cases, or case by case where they differ.
    """
    first = models[0]
    labels = first.problem.labels
    tasks = {item.case: item.task for item in inputs}
    modalities = {item.case: item.modality for item in inputs}
    inside = {0}.union(*map(first.problem.classes_of, set(tasks.values())))
    named = zip(labels.names, labels.values, strict=True)
    content = {
        "labels": dict(label for index, label in enumerate(named) if index in inside),
        "regions": labels.regions,
        "model": {key: first.facts[key] for key in TOLD} | ({"prompts": prompts} if prompts else {}),
        "weights_sha256": [weights_sha256(model) for model in models],
        "task": one_or_all(tasks),
        "settings": settings.model_dump(mode="json", include=PREDICTING),
    }
    if first.problem.plan.preparation.modalities:
        content["modality"] = one_or_all(modalities)
    path = out / ABOUT
    try:
        if path.exists() and json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(content)):
            raise RunError(f"{out} holds predictions of another model or setting; give another --out, or delete them")
        atomic_write_text(path, json.dumps(content, indent=1))
    except OSError as error:
        raise RunError(f"--out {out}: cannot be written ({error.strerror}); give another folder") from None


def one_or_all(values: Mapping[str, str]) -> str | dict[str, str]:
    """What all cases have in common; else case → its value."""
    different = set(values.values())
    return different.pop() if len(different) == 1 else dict(values)


def note_class(folder: Path, model: Model, name: str) -> None:
    """Writes what the files of one class hold, so that they can be scored like any others."""
    background = model.problem.labels.names[0]
    content = {"labels": {background: 0, name: 1}, "model": {key: model.facts[key] for key in TOLD}}
    atomic_write_text(folder / ABOUT, json.dumps(content, indent=1))


def weights_sha256(model: Model) -> str:
    """SHA-256 of the weights that predict, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(inference_state(model.method).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
