"""A trained model on disk: `model.safetensors` and `model.json`, all that prediction needs and nothing that runs.

The JSON names a registered method; it never names code to load. A method from a file must be named again by whoever
loads the model.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from semivox.atomic import atomic_path, atomic_write_text
from semivox.data.labels import LabelMap
from semivox.errors import ResourceError, RunError, SettingError, first_line
from semivox.methods import find_method
from semivox.methods.method import Method, MethodSettings
from semivox.methods.problem import Problem
from semivox.planning.plan import Plan
from semivox.settings import first_fault

FORMAT = 1


@dataclass(frozen=True)
class Model:
    """A method ready to predict, in evaluation mode, and what it was trained for."""

    method: Method
    problem: Problem
    channels: tuple[str, ...]
    file_ending: str
    facts: dict[str, Any]
    """What is known of its training: method name, steps, selection, seed, inference settings."""

    @property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """The problem's."""
        return self.problem.tasks


def build_method(name: str, settings: MethodSettings, problem: Problem) -> Method:
    """A freshly initialised method; torch's generator decides its weights. What weighs the problem's classes is part of
    it, the last one: prediction has no use for it."""
    Kind = find_method(name)
    method = Kind(settings)
    method.build(problem)
    if problem.class_weighting is not None:
        problem.class_weighting.watch(method)
        method.class_weighting = problem.class_weighting
    return method


def save_model(
    folder: Path,
    method: Method,
    problem: Problem,
    *,
    channels: tuple[str, ...],
    file_ending: str,
    facts: dict[str, Any],
) -> None:
    """Writes the weights of `method.inference_modules()` and the description."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in inference_state(method).items()}
    with atomic_path(folder / "model.safetensors") as temporary:
        try:
            save_file(weights, temporary)
        except SafetensorError as error:
            raise ResourceError(f"{folder}: cannot be written ({first_line(error)}); free some space") from None
    description = {
        "format": FORMAT,
        "method_settings": method.settings.model_dump(mode="json"),
        "plan": problem.plan.model_dump(mode="json"),
        "channels": channels,
        "labels": {
            "names": problem.labels.names,
            "values": problem.labels.values,
            "ignore_value": problem.labels.ignore_value,
            "regions": problem.labels.regions,
        },
        "tasks": problem.tasks,
        "file_ending": file_ending,
        "facts": facts,
    }
    atomic_write_text(folder / "model.json", json.dumps(description, indent=1))


def inference_state(method: Method) -> dict[str, torch.Tensor]:
    """The part of the method's state that prediction needs, under the names of the whole."""
    wanted = {id(module) for module in method.inference_modules()}
    prefixes = tuple(f"{name}." for name, module in method.named_modules() if id(module) in wanted)
    return {name: tensor for name, tensor in method.state_dict().items() if name.startswith(prefixes)}


def load_model(folder: Path, method_name: str | None = None) -> Model:
    """Loads what `save_model` wrote (`folder` is the model folder or the run that holds it).

    `method_name`: needed for a model whose method came from a file (`file.py:Class`); refused for others where it
    differs. Raises RunError in one line where the folder is no model or a damaged one.
    """
    folder = folder / "model" if (folder / "model" / "model.json").is_file() else folder
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        plan = Plan.model_validate(description["plan"])
        labels = LabelMap(
            names=tuple(description["labels"]["names"]),
            values=tuple(description["labels"]["values"]),
            ignore_value=description["labels"]["ignore_value"],
            regions={name: tuple(parts) for name, parts in description["labels"]["regions"].items()},
        )
        facts = description["facts"]
        name = facts["method"]
        channels = tuple(description["channels"])
        tasks = {task: tuple(names) for task, names in description["tasks"].items()}
        file_ending, given_settings = description["file_ending"], dict(description["method_settings"])
        weights = load_file(folder / "model.safetensors")
    except FileNotFoundError as error:
        if not folder.exists():
            raise RunError(f"{folder}: there is no such folder; give the folder of a run") from None
        missing = Path(str(error.filename or "model.safetensors")).name
        raise RunError(
            f"{folder} holds no trained model ({missing} is missing); finish the run with `semivox train --resume`"
        ) from None
    except ValidationError as error:
        raise RunError(f"{folder / 'model.json'}: {first_fault(error)}") from None
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise RunError(f"{folder}: is damaged or not a Semivox model ({first_line(error)})") from None
    if description.get("format") != FORMAT:
        raise RunError(f"{folder}: was made by another version of Semivox (format {description.get('format')})")
    name = _method_to_load(folder, name, method_name)
    try:
        settings = find_method(name).Settings(**given_settings)
    except ValidationError as error:
        raise RunError(f"{folder / 'model.json'}: method settings: {first_fault(error)}") from None
    problem = Problem(plan=plan, channels=len(channels), labels=labels, tasks=tasks, pretrained=False)
    method = build_method(name, settings, problem)
    expected = inference_state(method)
    if {key: value.shape for key, value in expected.items()} != {key: value.shape for key, value in weights.items()}:
        raise RunError(f"{folder}: its weights do not belong to its description; train anew")
    method.load_state_dict(weights, strict=False)
    return Model(method.eval(), problem, channels, file_ending, facts)


def _method_to_load(folder: Path, recorded: str, given: str | None) -> str:
    """The method to build: the recorded one, unless it lies in a file, which the user must name himself."""
    if ".py:" not in recorded:
        if given is not None and find_method(given) is not find_method(recorded):
            raise SettingError(f"--method {given}: the model in {folder} was trained with '{recorded}'; leave it out")
        return recorded
    if given is None:
        class_name = recorded.rpartition(":")[2]
        raise SettingError(
            f"the model in {folder} was trained with a method of your own; name it again with"
            f" --method path/to/file.py:{class_name} (a model never names code to load)"
        )
    return given
