"""Finished runs, read and grouped: those that differ in their seed only are one group, with its scores as an array."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from semivox.data.case import DEFAULT
from semivox.errors import RunError, SettingError
from semivox.evaluation.scores import METRICS
from semivox.reporting.record import NOTHING, Record, flatten, read_record
from semivox.settings import first_fault

UNKNOWN = "unknown method"

BESIDE = (
    *("seed", "protocol", "data.store", "training.iterations"),
    *("training.device", "training.devices", "training.workers"),
)
"""Settings in which runs of one group may differ: the seed, the machine, the steps that its minutes allowed, and
whether a protocol or flags said all the rest."""

SELECTION = ("training.selection", "training.validate_every", "training.patience")
"""Settings that say which step's weights are kept."""

LABELLED = ("data.labelled", "data.lists")
"""Settings that say which training cases keep their label."""


PROMPTS = "prompts"
"""Stands among settings for what prompted the model where it did not find its prompts itself."""


class ClassScores(BaseModel, extra="allow"):
    """Metric → score, and what is empty."""

    empty: str | None
    __pydantic_extra__: dict[str, float | None]


class ScoredCase(BaseModel):
    """A case of metrics.json, as much of it as is read here: class → its scores."""

    case: str
    scores: dict[str, ClassScores]


class Scored(BaseModel):
    """metrics.json, as much of it as is read here."""

    cases: list[ScoredCase]
    unit: str


@dataclass(frozen=True, eq=False)
class RunGroup:
    """Runs that differ in their seed only, and their scores over the cases that all of them have."""

    title: str
    """What tells it from the other groups."""
    records: list[Record]
    settings: dict[str, str]
    """Dotted name → value, but for `BESIDE` and what is none."""
    cases: list[str]
    patients: list[str]
    case_domains: list[str]
    case_tasks: list[str]
    values: np.ndarray
    """(run, case, class, metric), NaN where undefined."""

    @property
    def method(self) -> str:
        return self.records[0].config.get("method", {}).get("name", UNKNOWN)

    @property
    def labelled(self) -> int | dict[str, int] | None:
        """How many groups kept their label, None for all."""
        return self.records[0].config.get("data", {}).get("labelled")

    @property
    def protocol(self) -> str | None:
        return next((found for record in self.records if (found := record.config.get("protocol"))), None)

    @cached_property
    def domains(self) -> "dict[str, RunGroup]":
        """Domain → its cases alone, in order; empty where all are of one, or each domain is a task of its own."""
        return {} if self.case_domains == self.case_tasks else self._parts(self.case_domains)

    @cached_property
    def tasks(self) -> "dict[str, RunGroup]":
        """Task → its cases alone; empty where all are of one."""
        return self._parts(self.case_tasks)

    def _parts(self, part_of: list[str]) -> "dict[str, RunGroup]":
        names = dict.fromkeys(part_of)
        if len(names) < 2:
            return {}
        return {
            name: self.of([case for case, own in zip(self.cases, part_of, strict=True) if own == name])
            for name in names
        }

    def of(self, cases: Sequence[str]) -> "RunGroup":
        """These cases alone, in this order."""
        place_of = {case: place for place, case in enumerate(self.cases)}
        kept = [place_of[case] for case in cases]
        return replace(
            self,
            cases=list(cases),
            patients=[self.patients[place] for place in kept],
            case_domains=[self.case_domains[place] for place in kept],
            case_tasks=[self.case_tasks[place] for place in kept],
            values=self.values[:, kept],
        )

    def without(self, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """Its settings but for those whose dotted names begin like one of `names`."""
        return tuple((key, value) for key, value in self.settings.items() if not key.startswith(tuple(names)))


def group_runs(runs: Sequence[Path]) -> tuple[list[RunGroup], list[str], str]:
    """The groups in the order in which their runs are named, the classes that all runs scored, the unit of distances.

    Raises RunError: not a run, not scored yet or not by `evaluate`, given twice, other units or no class in common.
    """
    records = [read_record(folder) for folder in runs]
    classes, unit = _common(records)
    grouped: dict[frozenset[tuple[str, str]], tuple[dict[str, str], list[Record]]] = {}
    for record, config in zip(records, _whole_configs(records), strict=True):
        # What is none says nothing: a run of an older version lacks the setting.
        told = [(key, value) for key, value in flatten(config) if key not in BESIDE and value != NOTHING]
        if prompts := prompts_of(record):
            told.append((PROMPTS, prompts))
        # A set: versions may have their settings in another order.
        grouped.setdefault(frozenset(told), (dict(told), []))[1].append(record)
    for _, members in grouped.values():
        _check_seeds(members)
    names = titles([settings for settings, _ in grouped.values()])
    groups = [
        _scored(members, settings, classes, title)
        for title, (settings, members) in zip(names, grouped.values(), strict=True)
    ]
    return groups, classes, unit


def titles(settings: Sequence[dict[str, str]]) -> list[str]:
    """The method's name, how many labels it had where that varies, and whatever else it takes to tell groups apart."""
    titles = []
    labelled = [", ".join(value for key, value in own.items() if key.startswith("data.labelled")) for own in settings]
    for own, number in zip(settings, labelled, strict=True):
        method = own.get("method.name", UNKNOWN).rpartition(":")[2]
        titles.append(f"{method}, {number or 'all'} labelled" if len(set(labelled)) > 1 else method)
    told = []
    for own, title in zip(settings, titles, strict=True):
        rivals = [other for other, name in zip(settings, titles, strict=True) if name == title]
        keys = [key for key in own if any(other.get(key) != own[key] for other in rivals)]
        parts = [title, *(f"{key.removeprefix('method.settings.')}={own[key]}" for key in keys if key != PROMPTS)]
        told.append(", ".join([*parts, *([f"{own[PROMPTS]} prompts"] if PROMPTS in own else [])]))
    return told


def prompts_of(record: Record) -> str:
    """What prompted the model, as prediction.json said; empty where it found its prompts itself."""
    return (record.metrics or {}).get("model", {}).get("prompts", "")


def _common(records: list[Record]) -> tuple[list[str], str]:
    """Classes that all runs scored, and the unit of all."""
    if not records:
        raise RunError("nothing to compare; name at least one run folder")
    names: list[str] | None = None
    for record in records:
        if record.metrics is None:
            raise RunError(
                f"{record.folder}: not scored (no metrics.json); run:"
                f" semivox evaluate {record.folder}/predictions LABELS --out {record.folder}/metrics.json"
            )
        try:
            Scored.model_validate(record.metrics)
        except ValidationError as error:
            raise RunError(
                f"{record.folder}/metrics.json: is not as `semivox evaluate` writes it"
                f" ({first_fault(error)}); evaluate the run's predictions again"
            ) from None
        first = records[0].metrics or {}
        if record.metrics["unit"] != first["unit"]:
            raise RunError(
                f"{record.folder}: distances are in {record.metrics['unit']}, those of {records[0].folder} in"
                f" {first['unit']}; evaluate one of them again with the other's --unit"
            )
        found = dict.fromkeys(name for case in record.metrics["cases"] for name in case["scores"])
        names = [name for name in (found if names is None else names) if name in found]
    if not names:
        raise RunError(f"the {len(records)} runs have no class in common; compare runs on the same labels")
    return names, first["unit"]


def _whole_configs(records: list[Record]) -> list[dict[str, Any]]:
    """The configs of the runs. Where some lack settings that others have, being of an older version, with defaults."""
    configs = [record.config for record in records]
    if all(names == _names(configs[0]) for names in map(_names, configs)) and not _lacks_a_setting(configs):
        return configs
    from semivox.training.config import Config, with_every_setting  # with torch and all methods

    whole = []
    for content in configs:
        try:
            config = Config.model_validate(content)
            # A run folder never names code to load.
            known = config if ".py:" in config.method.name else with_every_setting(config)
            whole.append(known.model_dump(mode="json"))
        except (ValidationError, SettingError):
            whole.append(content)
    return whole


def _names(config: dict[str, Any]) -> set[str]:
    """What every config has, whatever the method and the network."""
    return {name for name, _ in flatten(config) if not name.startswith(("method.", "plan.network."))}


def _lacks_a_setting(configs: list[dict[str, Any]]) -> bool:
    """Whether two runs of one method have settings of other names."""
    first: dict[Any, set[str]] = {}
    methods = [config.get("method", {}) for config in configs]
    names = [(method.get("name"), {name for name, _ in flatten(method)}) for method in methods]
    return any(own != first.setdefault(name, own) for name, own in names)


def _check_seeds(members: list[Record]) -> None:
    seen: dict[int, Path] = {}
    for record in members:
        seed = record.config.get("seed", 0)
        if seed in seen:
            raise RunError(
                f"{record.folder}: has the settings and the seed {seed} of {seen[seed]}; name only one of them"
            )
        seen[seed] = record.folder


def _scored(members: list[Record], settings: dict[str, str], classes: list[str], title: str) -> RunGroup:
    entries = [{entry["case"]: entry for entry in record.metrics["cases"]} for record in members if record.metrics]
    cases = [case for case in entries[0] if all(case in run for run in entries)]
    values = np.full((len(members), len(cases), len(classes), len(METRICS)), np.nan)
    for place in np.ndindex(*values.shape):
        run, case, name, metric = place
        score = entries[run][cases[case]]["scores"].get(classes[name], {}).get(METRICS[metric])
        values[place] = np.nan if score is None else score
    first = entries[0]
    return RunGroup(
        title=title,
        records=members,
        settings=settings,
        cases=cases,
        patients=[first[case].get("group") or case for case in cases],
        case_domains=[first[case].get("domain", DEFAULT) for case in cases],
        case_tasks=[first[case].get("task", DEFAULT) for case in cases],
        values=values,
    )
