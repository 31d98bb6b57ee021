"""All that is decided before a training starts: from what was asked for and what the data are like to a config."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from semivox.data.case import Dataset, Split, modality_name
from semivox.data.setting import SUPERVISED, describe, listed, one_sided_tasks, recognise
from semivox.errors import DataError, ResourceError, SettingError
from semivox.experiments.protocol import Protocol
from semivox.methods import find_method
from semivox.methods.method import MethodSettings
from semivox.networks import MONAI, network_settings
from semivox.planning.cost import estimate
from semivox.planning.fingerprint import Fingerprint
from semivox.planning.plan import NetworkChoice, Plan
from semivox.planning.planner import installed_memory_gib, make_plan
from semivox.progress import say
from semivox.settings import first_fault
from semivox.training.config import (
    Config,
    DataSettings,
    MethodChoice,
    TrainingSettings,
    UdaSettings,
    method_settings,
    override,
    parse_assignments,
)
from semivox.training.device import AUTOCAST, choose_device, choose_precision
from semivox.training.fit import open_store, seconds_per_step
from semivox.training.windowing import make_windows

DEFAULT_MINUTES = 60.0
"""Budget of a run that names none."""

SPLITS: tuple[tuple[Split, str], ...] = (("train", "training"), ("val", "validation"))
"""Splits whose labels training could read, and what a reader calls them."""

ARGUMENTS = {
    "data": "DATASET, --labelled, --unlabelled and --labels",
    "data.datasets": "DATASET",
    "data.labelled": "--labelled",
    "data.unlabelled": "--unlabelled",
    "data.unseen": "--unseen",
    "data.labels": "--labels",
    "data.development": "--development",
    "data.score_test": "--no-test",
    "method": "--method",
    "method.name": "--method",
    "training.iterations": "--iterations",
    "training.device": "--device",
    "training.precision": "--precision",
    "training.init_from": "--init-from",
    "protocol": "--protocol",
}
"""Fields of the config on which plan and checks rest before there is a config: they are arguments, not settings."""


@dataclass(frozen=True)
class Budget:
    """`iterations`, or `minutes` that are turned into iterations once, after some timed steps."""

    iterations: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.iterations is not None and self.minutes is not None:
            raise SettingError("--iterations and --max-minutes exclude each other; give one of them")
        if self.iterations is not None and self.iterations < 1:
            raise SettingError(f"--iterations {self.iterations}: give at least 1")
        if self.minutes is not None and not self.minutes > 0:
            raise SettingError(f"--max-minutes {self.minutes}: give more than 0")

    @property
    def limit_minutes(self) -> float | None:
        """Minutes to turn into iterations, None where those are given."""
        return None if self.iterations is not None else self.minutes or DEFAULT_MINUTES


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line, before anything is derived from the data."""

    data: DataSettings
    method: str
    budget: Budget
    network: str | None = None
    plan: Path | None = None
    protocol: Protocol | None = None
    init_from: Path | None = None
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    precision: str = "auto"
    settings: tuple[str, ...] = ()


def configure(request: Request, dataset: Dataset, prints: Fingerprint) -> Config:
    """All that is decided before training, resolved: defaults, protocol, plan, overrides."""
    of_method, of_config = given_settings(request)
    settings = chosen_settings(request, of_method)
    demand = find_method(request.method).demand(settings)
    device = choose_device(request.device)
    precision = choose_precision(asked_precision(request), device)
    computed = AUTOCAST[precision] or torch.float32
    plan = given_plan(request) or make_plan(
        dataset,
        prints,
        demand,
        network=request.network or find_method(request.method).preferred_network,
        settings=of_network(of_config),
        minutes=request.budget.limit_minutes,
        device=device,
        autocast=computed,
    )
    config = resolve(request, plan, device, precision)
    refuse_contradictions(config, dataset)
    refuse_idle_settings(config)
    refuse_lengths_of_pictures(config, prints)
    refuse_absent_files(config)
    cost = estimate(
        config.plan,
        demand,
        len(dataset.channels),
        dataset.labels.count,
        fingerprint=prints,
        device=device,
        autocast=computed,
    )
    memory_gib = installed_memory_gib(device)
    if cost.peak_gib > memory_gib:
        batch = config.plan.batch
        raise ResourceError(
            f"training needs about {cost.peak_gib:.0f} GiB of memory, there are {memory_gib:.0f}; lower"
            " plan.batch.unlabelled, plan.batch.labelled or plan.patch"
            f" (now {batch.labelled}+{batch.unlabelled} patches of {list(config.plan.patch)})"
        )
    for note in config.plan.notes:
        say(f"plan: {note}")
    there = list(dict.fromkeys(modality_name(scan.channels) for scan in prints.scans))
    for name in config.plan.preparation.modalities:
        if name not in there:
            say(f"plan: no scan is of the modality '{name}' that it names; there are: {', '.join(there)}")
    say(
        f"plan: about {cost.peak_gib:.1f} GiB of memory, {cost.step_s:.2g} s a step,"
        f" {cost.store_gib:.2g} GiB of disk for prepared scans"
    )
    return config


def resolve(request: Request, plan: Plan, device: str, precision: str) -> Config:
    """The config of a request, once its plan and machine are known. A flag wins over the protocol, `-s` over both."""
    of_method, of_config = given_settings(request)
    settings = chosen_settings(request, of_method).model_dump(mode="json")
    told = {
        "iterations": request.budget.iterations or 1,
        "device": device,
        "precision": precision,
        "init_from": request.init_from,
    }
    sections: dict[str, Any] = {"training": TrainingSettings(**told)}
    if request.protocol is not None:
        recipe = request.protocol.recipe(request.method)
        sections = {
            "training": recipe.training.model_copy(update=told),
            "views": recipe.views,
            "inference": recipe.inference,
            "uda": request.protocol.uda,
            "protocol": request.protocol.reference,
        }
    choice = MethodChoice(name=request.method, settings=settings)
    config = Config(data=request.data, plan=plan, method=choice, **sections)
    return override(config, {"seed": request.seed, "training.devices": request.devices} | of_config)


def given_settings(request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `-s` sets: settings of the method, settings of the config."""
    of_method, of_config = parse_assignments(request.settings)
    for name in of_config:
        if name in ARGUMENTS:
            raise SettingError(f"-s {name}: plan and checks rest on it; give {ARGUMENTS[name]} instead")
    return of_method, of_config


def chosen_settings(request: Request, given: dict[str, Any]) -> MethodSettings:
    """The method's settings: defaults, the protocol's, those that are given."""
    of_protocol = request.protocol.recipe(request.method).settings if request.protocol is not None else {}
    return method_settings(MethodChoice(name=request.method, settings=of_protocol | given))


def asked_precision(request: Request) -> str:
    """The precision that is asked for on the command line, else by the protocol."""
    if request.protocol is None or request.precision != "auto":
        return request.precision
    return request.protocol.recipe(request.method).training.precision


def asked_uda(request: Request) -> UdaSettings:
    """What `-s`, else the protocol, says of domain adaptation, which must be known before there is a config."""
    _, of_config = given_settings(request)
    base = UdaSettings() if request.protocol is None else request.protocol.uda
    given = {name.removeprefix("uda."): value for name, value in of_config.items() if name.startswith("uda.")}
    try:
        return UdaSettings.model_validate(base.model_dump() | given)
    except ValidationError as error:
        raise SettingError(f"setting uda: {first_fault(error, UdaSettings)}") from None


def given_plan(request: Request) -> Plan | None:
    """The plan of the file or the protocol that was named; None where it is to be made from the data."""
    if request.protocol is not None:
        plan = request.protocol.recipe(request.method).plan
        network = request.network
        return plan if network is None else plan.model_copy(update={"network": NetworkChoice(name=network)})
    if request.plan is None:
        return None
    if request.network is not None:
        raise SettingError(f"--network {request.network}: the plan {request.plan} names its network; leave it out")
    return Plan.load(request.plan)


def of_network(values: dict[str, Any]) -> dict[str, Any]:
    """The network's settings among dotted names of the config; a plan is made around them."""
    prefix = "plan.network.settings"
    whole = values.get(prefix)
    return (whole if isinstance(whole, dict) else {}) | {
        name.removeprefix(f"{prefix}."): value for name, value in values.items() if name.startswith(f"{prefix}.")
    }


def tell_setting(method: str, whole: Dataset, dataset: Dataset) -> None:
    """Says which setting the cases make, which labels it leaves aside, and whether the method was made for it.

    `dataset` is what training sees of `whole`.
    """
    setting = recognise(dataset)
    say(f"setting: {describe(dataset)}")
    for sentence in one_sided_tasks(dataset):
        say(sentence)
    readable = {case.id for case in dataset if case.label}
    for domain in setting.targets + setting.unseen:
        ignored = [case.split for case in whole if case.domain == domain and case.label and case.id not in readable]
        counts = [f"{ignored.count(split)} {word}" for split, word in SPLITS if split in ignored]
        if counts:
            use = "; -s uda.target_labels=true chooses weights by them" if domain in setting.targets else ""
            use = use if "val" in ignored else ""
            say(f"{domain}: labels that are not read: {', '.join(counts)}{use}")
    foreign = [name for name in setting.names if name not in (SUPERVISED, *find_method(method).covers)]
    if foreign:
        say(f"{method} is not made for {' and '.join(foreign)}: it takes the unlabelled scans of all domains alike")


def refuse_idle_settings(config: Config) -> None:
    """Raises where a setting that any method may have would do nothing for this one."""
    settings = method_settings(config.method)
    Kind = find_method(config.method.name)
    if config.training.resampling is not None and not any(stage.pseudo for stage in Kind(settings).stages()):
        raise SettingError(
            f"training.resampling goes by stored pseudo-labels, which method '{config.method.name}' has none of; use"
            " --method self_training or self_training_plus, or -s training.balance.classes=true for labelled scans"
        )
    if config.training.class_weighting is not None and Kind.weighs_classes:
        raise SettingError(
            f"training.class_weighting: method '{config.method.name}' weighs the classes of its supervised terms"
            " itself; leave it out"
        )
    style, views = config.views.style, Kind.demand(settings).views
    if style.is_on and not style.labelled and "strong" not in views.labelled + views.unlabelled:
        raise SettingError(
            f"views.style: method '{config.method.name}' has no strong view to get a look; set"
            " views.style.labelled=true, so that labelled scans do"
        )


def refuse_contradictions(config: Config, dataset: Dataset) -> None:
    """Raises where plan, method and data cannot go together."""
    make_windows(config.plan, config.inference, config.training.precision)
    labelled, unlabelled = dataset.labelled(), dataset.unlabelled()
    if not labelled:
        raise DataError(
            f"{dataset.name}: no training case has a label; add label files to labelsTr or raise --labelled"
        )
    demand = find_method(config.method.name).demand(method_settings(config.method))
    if demand.views.unlabelled and not unlabelled:
        raise DataError(
            f"{dataset.name}: method '{config.method.name}' learns from unlabelled scans; there are none. Hide labels"
            " with --labelled N, add scans with --unlabelled DIR, or use --method supervised"
        )
    normalised = len(config.plan.preparation.normalisation)
    if normalised != len(dataset.channels):
        raise SettingError(
            f"plan.preparation.normalisation has {normalised} entries but the data set has {len(dataset.channels)}"
            " channels; give one per channel"
        )
    devices, batch = config.training.devices, config.plan.batch
    if batch.labelled % devices or batch.unlabelled % devices:
        raise SettingError(
            f"a batch of {batch.labelled}+{batch.unlabelled} cannot be shared by {devices} devices; make"
            " plan.batch.labelled and plan.batch.unlabelled multiples of --devices"
        )
    setting = recognise(dataset)
    if config.uda.target_labels and not setting.targets:
        raise SettingError(
            "uda.target_labels is true but no domain is a target, which has training cases without labels and is"
            " tested; leave it out, or hide the labels of one with --labelled DOMAIN=0"
        )
    if config.training.selection == "validation" and not any(case.label for case in dataset.split("val")):
        foreign = [case.domain for case in dataset.split("val") if case.domain in setting.targets + setting.unseen]
        only = f" (those of {listed(tuple(dict.fromkeys(foreign)))} do not count)" if foreign else ""
        raise SettingError(
            f"training.selection is 'validation' but no validation case has a label{only}; mark some with split `val`"
            " in cases.csv, or leave the setting out"
        )


def refuse_absent_files(config: Config) -> None:
    """Refuses a network whose pretrained weights are not there, before scans are prepared."""
    network = config.plan.network
    if not network.name.startswith(MONAI):
        network_settings(network.name, config.plan.dimensions, network.settings).refuse_absent_files()


def refuse_lengths_of_pictures(config: Config, prints: Fingerprint) -> None:
    """Raises where distances in mm will be wanted of scans and of pictures, which have none."""
    scored = [scan for scan in prints.scans if scan.split == "test"]
    scored = scored or [scan for scan in prints.scans if scan.split == "val"]
    if config.plan.metric_unit == "mm" and len({scan.is_picture for scan in scored}) > 1:
        raise SettingError(
            f"the {scored[0].split} cases are scans and pictures, which have no mm; score all in voxels:"
            " -s plan.metric_unit=voxel"
        )


def settle_budget(budget: Budget, config: Config, dataset: Dataset) -> Config:
    """Turns minutes into iterations: from here on the run is `--iterations N`."""
    minutes = budget.limit_minutes
    if minutes is None:
        return config
    store = open_store(config, dataset)
    say("timing a few steps")
    seconds = seconds_per_step(config, dataset, store)
    iterations = max(int(minutes * 60 / seconds), 1)
    say(f"a step takes {seconds:.2f} s: {iterations} iterations fit in {minutes:g} minutes")
    training = config.training.model_copy(update={"iterations": iterations})
    return config.model_copy(update={"training": training})
