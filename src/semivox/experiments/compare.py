"""Several runs side by side: mean and spread over seeds and cases, and paired tests over the cases they share."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ValidationError

from semivox.atomic import atomic_write_text
from semivox.data.case import DEFAULT
from semivox.errors import RunError, SettingError
from semivox.evaluation.evaluate import without_nan
from semivox.evaluation.scores import METRICS
from semivox.evaluation.statistics import Paired, bootstrap_interval, compare_paired, mean_of_defined
from semivox.reporting.record import NOTHING, Record, flatten, read_record

if TYPE_CHECKING:
    from semivox.experiments.protocol import Protocol, Published

UNKNOWN = "unknown method"

MEAN = "mean"
"""Stands for the mean over classes, as in metrics.json."""

BESIDE = (
    *("seed", "protocol", "data.store", "training.iterations"),
    *("training.device", "training.devices", "training.workers"),
)
"""Settings in which runs of one group may differ: the seed, the machine, the steps that its minutes allowed, and
whether a protocol or flags said all the rest."""


@dataclass(frozen=True)
class Spread:
    """A score of a group. Deviations are of n - 1, NaN of a single value."""

    mean: float
    """Over the runs of each run's mean over cases."""
    over_runs: float
    """Standard deviation of the runs' means."""
    over_cases: float
    """Standard deviation of the cases' means over runs."""
    low: float
    high: float
    """95 % bootstrap interval of the mean; draws patients."""
    n: int
    """Cases in which it is defined in at least one run."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only."""

    name: str
    method: str
    labelled: int | dict[str, int] | None
    """How many groups kept their label, None for all."""
    runs: tuple[Path, ...]
    seeds: tuple[int, ...]
    iterations: tuple[int, ...]
    minutes: tuple[float, ...]
    """Of training."""
    scores: dict[str, dict[str, Spread]]
    """Class or "mean" → metric → its spread."""
    domains: dict[str, dict[str, dict[str, Spread]]]
    """Domain → `scores` of its cases; empty where all cases are of one."""
    empty_predictions: int
    """Structures of which nothing was predicted, over all runs."""
    protocol: str | None
    """The one that the runs came from."""
    published: "Published | None"
    """What papers report for this method and number of labels, where the protocol has it."""


@dataclass(frozen=True)
class Pair:
    """The group `second` against `first`: differences are second minus first, over the cases that both have."""

    first: str
    second: str
    scores: dict[str, dict[str, Paired]]
    """Class or "mean" → metric → difference."""
    domains: dict[str, dict[str, dict[str, Paired]]]
    """Domain → `scores` of its cases; empty where all cases are of one."""
    settings: tuple[str, ...]
    """Dotted names of the settings, other than the method's own, that differ."""


@dataclass(frozen=True)
class Comparison:
    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]
    """Every later group against the first."""
    unit: str
    """Of distances, "mm" or "voxel"."""
    notes: tuple[str, ...] = ()
    """What a reader should know of how it was made."""


@dataclass(frozen=True, eq=False)
class _Scored:
    """A group with its scores as an array."""

    records: list[Record]
    settings: dict[str, str]
    cases: list[str]
    patients: list[str]
    case_domains: list[str]
    values: np.ndarray
    """(run, case, class, metric), NaN where undefined."""

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains of its cases, in order; none where all are of one."""
        found = tuple(dict.fromkeys(self.case_domains))
        return found if len(found) > 1 else ()

    def of_domain(self, domain: str) -> "_Scored":
        """The cases of one domain alone."""
        kept = [place for place, own in enumerate(self.case_domains) if own == domain]
        return replace(
            self,
            cases=[self.cases[place] for place in kept],
            patients=[self.patients[place] for place in kept],
            case_domains=[domain] * len(kept),
            values=self.values[:, kept],
        )


def compare(runs: Sequence[Path]) -> Comparison:
    """Reads config.yaml and metrics.json of each run folder, groups runs that differ in their seed only, in the order
    in which they are named, and compares each group with the first.

    Classes are those that all runs scored. A paired score is, per case, the mean over seeds, and over the classes that
    are defined on both sides. p-values are of the Wilcoxon signed-rank test, not corrected for the number of tests.

    Raises RunError: not a run, not scored yet, given twice, other units or no class in common.
    """
    records = [read_record(folder) for folder in runs]
    names, unit = _common(records)
    grouped: dict[tuple[tuple[str, str], ...], list[Record]] = {}
    for record, config in zip(records, _whole_configs(records), strict=True):
        # What is none says nothing: a run of an older version lacks the setting.
        told = ((key, value) for key, value in flatten(config) if key not in BESIDE and value != NOTHING)
        settings = tuple(told)
        grouped.setdefault(settings, []).append(record)
    for members in grouped.values():
        _check_seeds(members)
    scored = [_score(members, dict(settings), names) for settings, members in grouped.items()]
    titles = _titles([group.settings for group in scored])
    protocols, notes = _protocols(records)
    groups = tuple(_summarise(group, title, names, protocols) for group, title in zip(scored, titles, strict=True))
    pairs = tuple(
        _pair(scored[0], group, titles[0], title, names) for group, title in zip(scored[1:], titles[1:], strict=True)
    )
    return Comparison(groups, pairs, unit, notes)


def write_comparison(comparison: Comparison, out: Path, **beside: Any) -> None:
    """Writes all of it, and what is to stand `beside` it, as JSON; null is what is not defined."""
    content = without_nan(beside | asdict(comparison))
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
    atomic_write_text(out, text + "\n")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def _whole_configs(records: list[Record]) -> list[dict[str, Any]]:
    """The configs of the runs. Where some lack settings that others have, being of an older version, with defaults."""
    configs = [record.config for record in records]
    names = [
        {name for name, _ in flatten(config) if not name.startswith(("method.", "plan.network."))} for config in configs
    ]
    if all(own == names[0] for own in names):
        return configs
    from semivox.training.config import Config  # with torch and all methods

    whole = []
    for config in configs:
        try:
            whole.append(Config.model_validate(config).model_dump(mode="json"))
        except ValidationError:
            whole.append(config)
    return whole


def _protocols(records: list[Record]) -> tuple["dict[str, Protocol]", tuple[str, ...]]:
    """The protocols that the runs came from, by their names in the configs; and which of them are gone."""
    found, notes = {}, []
    for name in dict.fromkeys(record.config.get("protocol") for record in records):
        if name is not None:
            from semivox.experiments.protocol import read_protocol  # with torch and all methods

            try:
                found[name] = read_protocol(name)
            except SettingError as error:
                notes.append(f"no published figures: {error}")
    return found, tuple(notes)


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


def _check_seeds(members: list[Record]) -> None:
    seen: dict[int, Path] = {}
    for record in members:
        seed = record.config.get("seed", 0)
        if seed in seen:
            raise RunError(
                f"{record.folder}: has the settings and the seed {seed} of {seen[seed]}; name only one of them"
            )
        seen[seed] = record.folder


def _score(members: list[Record], settings: dict[str, str], names: list[str]) -> _Scored:
    entries = [{entry["case"]: entry for entry in record.metrics["cases"]} for record in members if record.metrics]
    cases = [case for case in entries[0] if all(case in run for run in entries)]
    values = np.full((len(members), len(cases), len(names), len(METRICS)), np.nan)
    for place in np.ndindex(*values.shape):
        run, case, name, metric = place
        score = entries[run][cases[case]]["scores"].get(names[name], {}).get(METRICS[metric])
        values[place] = np.nan if score is None else score
    patients = [entries[0][case].get("group") or case for case in cases]
    domains = [entries[0][case].get("domain", DEFAULT) for case in cases]
    return _Scored(members, settings, cases, patients, domains, values)


def _spreads(group: _Scored, names: list[str]) -> dict[str, dict[str, Spread]]:
    """Class or "mean" → metric → its spread."""
    scores = {}
    for name, values in _by_class(group.values, names).items():  # (run, case, metric)
        run_means, case_means = mean_of_defined(values, axis=1), mean_of_defined(values, axis=0)
        low, high = bootstrap_interval(case_means, group.patients)
        scores[name] = {
            metric: Spread(
                mean=float(mean_of_defined(run_means[:, column], axis=0)),
                over_runs=_deviation(run_means[:, column]),
                over_cases=_deviation(case_means[:, column]),
                low=float(low[column]),
                high=float(high[column]),
                n=int((~np.isnan(case_means[:, column])).sum()),
            )
            for column, metric in enumerate(METRICS)
        }
    return scores


def _summarise(group: _Scored, title: str, names: list[str], protocols: "dict[str, Protocol]") -> Group:
    empty = [
        score["empty"] == "prediction"
        for record in group.records
        for entry in (record.metrics or {})["cases"]
        for score in entry["scores"].values()
    ]
    config = group.records[0].config
    method, labelled = config.get("method", {}).get("name", UNKNOWN), config.get("data", {}).get("labelled")
    protocol = next((found for record in group.records if (found := record.config.get("protocol"))), None)
    return Group(
        name=title,
        method=method,
        labelled=labelled,
        runs=tuple(record.folder for record in group.records),
        seeds=tuple(record.config.get("seed", 0) for record in group.records),
        iterations=tuple(record.config.get("training", {}).get("iterations", 0) for record in group.records),
        minutes=tuple(record.log.minutes for record in group.records),
        scores=_spreads(group, names),
        domains={domain: _spreads(group.of_domain(domain), names) for domain in group.domains},
        empty_predictions=sum(empty),
        protocol=protocol,
        published=protocols[protocol].figures(method, labelled) if protocol in protocols else None,
    )


def _pair(first: _Scored, second: _Scored, first_title: str, title: str, names: list[str]) -> Pair:
    shared = [domain for domain in first.domains if domain in second.domains]
    return Pair(
        first=first_title,
        second=title,
        scores=_paired(first, second, names),
        domains={domain: _paired(first.of_domain(domain), second.of_domain(domain), names) for domain in shared},
        settings=_differing(first.settings, second.settings),
    )


def _paired(first: _Scored, second: _Scored, names: list[str]) -> dict[str, dict[str, Paired]]:
    common = [case for case in first.cases if case in second.cases]
    a, b = (
        mean_of_defined(group.values, axis=0)[[group.cases.index(case) for case in common]] for group in (first, second)
    )
    both = ~np.isnan(a) & ~np.isnan(b)
    a, b = np.where(both, a, np.nan), np.where(both, b, np.nan)
    patients = [first.patients[first.cases.index(case)] for case in common]
    sides = _by_class(a[None], names), _by_class(b[None], names)
    return {
        name: {
            metric: compare_paired(sides[1][name][0, :, column], sides[0][name][0, :, column], patients)
            for column, metric in enumerate(METRICS)
        }
        for name in sides[0]
    }


def _by_class(values: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """(run, case, class, metric) → class → (run, case, metric), and the mean over classes."""
    return {name: values[:, :, index] for index, name in enumerate(names)} | {MEAN: mean_of_defined(values, axis=2)}


def _deviation(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if known.size > 1 else float("nan")


def _differing(first: dict[str, str], second: dict[str, str]) -> tuple[str, ...]:
    keys = dict.fromkeys([*first, *second])
    return tuple(key for key in keys if not key.startswith("method.") and first.get(key) != second.get(key))


def _titles(settings: list[dict[str, str]]) -> list[str]:
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
        told.append(", ".join([title, *(f"{key.removeprefix('method.settings.')}={own[key]}" for key in keys)]))
    return told
