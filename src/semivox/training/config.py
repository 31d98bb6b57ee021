"""Everything that is decided before a run, in one typed, readable record: train again from it alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PositiveInt, ValidationError

from semivox.atomic import atomic_write_text
from semivox.data.case_lists import CaseLists
from semivox.errors import RunError, SettingError, first_line, unknown
from semivox.methods import ADDITIONS, find_method
from semivox.methods.class_weighting import ClassWeightingKind
from semivox.methods.method import MethodSettings
from semivox.planning.plan import Plan
from semivox.sampling.order import Fork
from semivox.sampling.views import ViewSettings
from semivox.settings import Part, first_fault, read_yaml


class DataSettings(Part):
    """Which scans, and which of their labels may be seen."""

    datasets: tuple[Path, ...] = Field(min_length=1)
    unlabelled: Path | None = None
    """A folder of further scans without labels."""
    lists: tuple[CaseLists, ...] = ()
    """For each data set which cases take part, in which split and order, as a protocol says; empty: as cases.csv."""
    labelled: int | dict[str, int] | None = None
    """How many groups keep their label, per domain and task; null: all."""
    unseen: tuple[str, ...] = ()
    """Domains whose training cases take no part, so that their test cases are of domains never seen."""
    labels: tuple[str, ...] | None = None
    """Only these label names; null: all."""
    development: int | None = Field(None, ge=0)
    """Test cases take no part, validation cases are scored in their stead; where there are none, this many last
    training groups are taken out to be them. null: off."""
    score_test: bool = True
    """Whether the cases that are scored are predicted at the end; else the run, resumed or not, leaves them alone."""
    store: Path
    """Folder in which stores lie."""


class MethodChoice(Part):
    """A method's name and its settings, defaults included."""

    name: str
    settings: dict[str, Any] = {}


class BalanceSettings(Part):
    """What comes equally often in sampling, however many cases or voxels of it there are."""

    tasks: bool = False
    """Every task of a stream; else every case. With `domains` too every domain of a task."""
    domains: bool = False
    """Every domain of a stream; else every case."""
    classes: bool = False
    """Every class among the labelled crops that must contain foreground, each drawn from all cases that have it, or
    with `tasks` or `domains` from all cases of the one whose turn it is."""

    @property
    def forks(self) -> tuple[Fork, ...]:
        """What comes equally often before cases do, the first above the second."""
        asked: tuple[tuple[Fork, bool], ...] = (("tasks", self.tasks), ("domains", self.domains))
        return tuple(fork for fork, is_asked in asked if is_asked)


class TrainingSettings(Part):
    """How the engine trains, whatever the method."""

    iterations: int = Field(ge=1)
    """Optimiser steps of the run."""
    optimiser: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    """For sgd."""
    nesterov: bool = False
    schedule: Literal["poly", "step", "constant", "cosine"] = "poly"
    """Learning rate over the run: (1 - t/N)^0.9, a tenth after every `step_every` steps, constant, or half a cosine."""
    step_every: int = Field(2500, ge=1)
    """Steps between two falls of the learning rate, for the schedule `step`."""
    warmup_share: float = Field(0.02, ge=0, le=1)
    """Share of the run over which the learning rate grows linearly from 0."""
    gradient_clip: float = Field(12.0, ge=0)
    """Largest L2 norm of the gradient; 0 does not clip."""
    foreground_share: float = Field(0.5, ge=0, le=1)
    """Share of labelled crops that must contain foreground."""
    balance: BalanceSettings = BalanceSettings()
    class_weighting: ClassWeightingKind | None = None
    """What weighs the classes in supervised terms; null: nothing, they count alike."""
    resampling: float | None = Field(None, gt=0, le=1)
    """CReST's α, 1/3 in the paper: how much more often those unlabelled scans come whose stored pseudo-labels hold rare
    classes; null: all come alike."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = Field(1, ge=1)
    """Processes (one per GPU, or CPU processes)."""
    precision: Literal["auto", "32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware computes it, else 32."""
    init_from: Path | None = None
    """A run whose network's weights training starts from; null: from random ones."""
    compile: bool = False
    workers: int = Field(0, ge=0)
    """Processes that read patches beside the training process."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between checkpoints."""
    log_every: int = Field(10, ge=1)
    """Steps between rows of log.csv."""
    selection: Literal["last", "validation", "test"] = "last"
    """Which weights are kept: those of the last step, or the last stage's best on the validation cases, or on the test
    cases themselves: as many papers publish it, too good by as much as luck varies over steps; every table says so."""
    validate_every: int = Field(0, ge=0)
    """Steps between validations; 0: a tenth of the run, where `selection` is not last."""
    patience: int = Field(0, ge=0)
    """Validations without improvement after which training stops; 0: never."""


class UdaSettings(Part):
    """Unsupervised domain adaptation: what training may know of the targets."""

    target_labels: bool = False
    """Whether the labels of a target's validation cases choose the weights (`training.selection=validation`), as papers
    often have it. Else they are not read."""


class InferenceSettings(Part):
    """How a trained model predicts a scan."""

    overlap: float = Field(0.5, ge=0, lt=1)
    """Share of a window that its neighbour covers too."""
    stride: tuple[PositiveInt, ...] | None = None
    """Voxels between windows along each axis of the patch, as published protocols give them; null: by `overlap`."""
    weighting: Literal["gaussian", "uniform"] = "gaussian"
    """What a voxel of a window counts where windows overlap: less towards its border, or the same everywhere."""
    flips: tuple[int, ...] = ()
    """Axes (of the patch) along which mirrored predictions are averaged in."""
    keep_continuous: bool = False
    """Keep only what continues from slice to slice: each class's components of some pixels that overlap with others in
    one of the next two slices. Comes before `largest_component`."""
    largest_component: bool = False
    """Keep only the largest connected component of each class."""
    uncertainty: bool = False
    """Write the entropy of the prediction (0 to 1) beside it."""
    batch: int = Field(4, ge=1)
    """Windows per forward pass."""


class Config(Part):
    """One run."""

    data: DataSettings
    plan: Plan
    method: MethodChoice
    training: TrainingSettings
    views: ViewSettings = ViewSettings()
    inference: InferenceSettings = InferenceSettings()
    uda: UdaSettings = UdaSettings()
    seed: int = Field(0, ge=0, lt=2**63)
    protocol: str | None = None
    """The protocol from which all this came, for published figures; nothing is read from it again."""

    def save(self, path: Path) -> None:
        """Writes the config as YAML."""
        atomic_write_text(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))

    @classmethod
    def load(cls, path: Path) -> "Config":
        """Reads a run's config.yaml. Raises RunError in one line where it is not one."""
        try:
            return cls.model_validate(read_yaml(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(
                f"{path.parent} is not a run folder: it has no {path.name}; where a run was stopped before it was"
                " planned, give its first command again"
            ) from None
        except ValidationError as error:
            raise RunError(f"{path}: {first_fault(error, cls)}") from None
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunError(f"{path}: cannot be read ({first_line(error)})") from None


def method_settings(choice: MethodChoice) -> MethodSettings:
    """The typed settings of the chosen method, checked. A dotted name sets a field of a nested part."""
    Settings = find_method(choice.name).Settings
    for name in choice.settings:
        first = name.partition(".")[0]
        if first in ADDITIONS and first not in Settings.model_fields:
            raise SettingError(
                f"method '{choice.name}' goes without {first}; put it on with --method {choice.name}+{first}, then its"
                " settings are there"
            )
        if first not in Settings.model_fields:
            sections: dict[str, type[Part]] = {"training": TrainingSettings, "inference": InferenceSettings}
            elsewhere = [f"{section}.{name}" for section, Kind in sections.items() if name in Kind.model_fields]
            raise unknown(f"setting of method '{choice.name}'", name, elsewhere or Settings.model_fields)
    try:
        return Settings(**_nested(choice.settings))
    except ValidationError as error:
        raise SettingError(f"method '{choice.name}': {first_fault(error, Settings)}") from None


def with_every_setting(config: Config) -> Config:
    """The config with all settings of its method: a run of a version that lacked one was made with its default.

    Raises SettingError where the method has lost a setting since.
    """
    settings = method_settings(config.method).model_dump(mode="json")
    return config.model_copy(update={"method": config.method.model_copy(update={"settings": settings})})


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    """Dotted names → nested dictionaries; what is given dotted wins over what is given whole."""
    content: dict[str, Any] = {}
    for name in sorted(values, key=lambda name: name.count(".")):
        *parents, last = name.split(".")
        place = content
        for parent in parents:
            inner = place.get(parent)
            place[parent] = dict(inner) if isinstance(inner, dict) else {}
            place = place[parent]
        place[last] = values[name]
    return content


def parse_assignments(assignments: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits `dotted.name=value` texts into settings of the method and settings of the config, values read as YAML.

    A name whose first part is no section of the config is a setting of the method.
    """
    method: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals or not name:
            raise SettingError(f"-s {assignment}: give name=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise SettingError(f"-s {assignment}: the value is not YAML; quote it") from None
        name = name.removeprefix("method.settings.")
        if name.partition(".")[0] in Config.model_fields:
            config[name] = value
        else:
            method[name] = value
    return method, config


def override(config: Config, values: dict[str, Any]) -> Config:
    """`config` with each dotted name of `values` set.

    Raises SettingError for an unknown name (with the nearest one) or a value of the wrong type.
    """
    content = config.model_dump(mode="python")
    for name, value in values.items():
        *parents, last = name.split(".")
        place: Any = content
        for parent in parents:
            if not isinstance(place, dict) or parent not in place:
                raise unknown("setting", name, _dotted(content))
            place = place[parent]
        # A network's settings are checked when it is made; every other name must be there.
        if not isinstance(place, dict) or (last not in place and parents != ["plan", "network", "settings"]):
            raise unknown("setting", name, _dotted(content))
        place[last] = value
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise SettingError(f"setting {first_fault(error)}") from None


def _dotted(content: dict, prefix: str = "") -> list[str]:
    """Every dotted name of a nested dictionary."""
    names = []
    for key, value in content.items():
        names.append(prefix + key)
        if isinstance(value, dict):
            names += _dotted(value, f"{prefix}{key}.")
    return names
