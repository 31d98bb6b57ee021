"""Protocols: a benchmark as data. Which scans, which plan and training, each method's settings, the papers' figures.

A protocol is one YAML file in the form of `Protocol`; those that are shipped lie in `semivox/protocols`. Sections and
names are those of config.yaml, so that a line can be copied from a run to a protocol and back:

    name: acdc_cpu
    title: ACDC at 128 pixels, for a CPU
    source: Bernard et al., IEEE TMI 37(11), 2018
    data: {folders: [acdc], classes: [RV, MYO, LV], labelled: 3}
    plan: plans/acdc.yaml                     # or the plan itself
    training: {iterations: 1000}
    methods:
      mean_teacher:
        settings: {consistency_weight: 0.1}
        training: {learning_rate: 0.01}       # where this method differs

`based_on: acdc` (a name, or a file) takes all from another protocol; each entry that a section names is then its own.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import Field, PrivateAttr, StringConstraints, ValidationError, model_validator

from semivox.data.case import DEFAULT, Case, Dataset, Split
from semivox.data.case_lists import CaseLists, assign
from semivox.data.joining import prefix_of
from semivox.data.layout import read_dataset
from semivox.errors import DataError, SettingError, first_line, unknown
from semivox.experiments.shipped import SHIPPED, protocol_names
from semivox.methods import ALIASES, method_names, registered_name, split_addition
from semivox.planning.plan import Plan
from semivox.progress import say
from semivox.sampling.views import ViewSettings
from semivox.settings import Part, first_fault, read_yaml
from semivox.training.config import InferenceSettings, MethodChoice, TrainingSettings, UdaSettings, method_settings

ENVIRONMENT = "SEMIVOX_DATA"
"""Environment variable that names the folder in which the data sets lie."""

SHOWN = 3
"""Names in a list of what is missing."""

Labelled = Annotated[int, Field(ge=0)] | dict[str, Annotated[int, Field(ge=0)]]
"""How many groups (patients, else cases) keep their label: a number, or domain → number."""

Section = TypeVar("Section", bound=Part)


Percent = Annotated[float, Field(ge=0, le=100)]
NotNegative = Annotated[float, Field(ge=0)]


class Lists(CaseLists):
    """The published splits of one data set: ids of cases, or of patients, in the published order; empty: not known."""

    domains: dict[Split, tuple[str, ...]] = {}
    """Split → domains of which every case that comes with a label is in it, after the ones it names."""
    unlabelled: bool = False
    """Whether cases that come without a label are training cases too, after the ones named; not those of patients who
    are validated or tested on."""
    groups: dict[str, int] = {}
    """Domain → how many groups with a label the published set has of it."""
    labelled: tuple[tuple[str, ...], ...] = ()
    """For each of `data.rows` those that keep their label, where they are not the first of the training list."""


class ProtocolData(Part):
    """What scans the protocol is about."""

    folders: tuple[str, ...] = Field(min_length=1)
    """Data sets, as folders below the data root (`--data`, $SEMIVOX_DATA, or `root`); several join into one."""
    root: str | None = None
    """The data root, relative to the protocol's file, where neither `--data` nor $SEMIVOX_DATA names one."""
    classes: tuple[str, ...] = Field(min_length=1)
    """Label names that are trained and scored; others are background."""
    labelled: Labelled
    """How many groups keep their label, unless `--labelled` says otherwise."""
    rows: tuple[Labelled, ...] = ()
    """Every number of labelled groups for which the literature has a row."""
    development_groups: int = Field(0, ge=0)
    """How many last training groups are scored with --development, where no validation case has a label."""
    splits: Literal["checked", "assigned"] = "checked"
    """checked: the data set has its splits already, which must be those of the lists. assigned: what its cases.csv says
    is put aside; the lists alone say which cases take part, in which split and order."""
    lists: dict[str, Lists] = {}
    """Folder → its published splits."""
    download: dict[str, str] = {}
    """Folder → which public download it is made of, and the command that converts it."""
    cropped: tuple[str, ...] | None = None
    """Folders whose scans must have been cut around their reference when they were converted; those of all others must
    not. null: either will do."""
    shapes: tuple[tuple[int | None, int | None, int | None], ...] = ()
    """Voxels along X, Y, Z (RAS) that a scan may have, null for any number; empty: any scan."""
    least_shape: tuple[int, int, int] = (1, 1, 1)
    """Voxels along X, Y, Z (RAS) that every scan has at least; one that was cut more closely has fewer."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for folder, lists in self.lists.items():
            if lists.labelled and len(lists.labelled) != len(self.rows):
                raise ValueError(
                    f"lists.{folder}.labelled has {len(lists.labelled)} entries for {len(self.rows)} rows;"
                    " give one for each"
                )
            for name in ("domains", "tasks", "unlabelled"):
                if getattr(lists, name) and self.splits == "checked":
                    raise ValueError(f"lists.{folder}.{name} needs splits: assigned; add it")
        if self.splits == "assigned" and set(self.lists) != set(self.folders):
            raise ValueError("splits: assigned needs lists for every folder; add them")
        return self

    def labelled_names(self, folder: str, labelled: Labelled | None) -> tuple[str, ...]:
        """Those that keep their label in a row for which they are published one by one, else none."""
        names = self.lists[folder].labelled
        return names[self.rows.index(labelled)] if names and labelled in self.rows else ()


class MethodEntry(Part):
    """One method: its settings, and where its recipe differs from that of the protocol, section by section."""

    settings: dict[str, Any] = {}
    """The method's own; see `semivox methods NAME`."""
    plan: dict[str, Any] = {}
    training: dict[str, Any] = {}
    views: dict[str, Any] = {}
    inference: dict[str, Any] = {}
    ablations: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], tuple[str, ...]] = {}
    """Name → settings, as `-s` takes them, of a run that lacks a part of the method or has another in its place."""
    note: str = ""
    """What a reader should know, such as where paper and code differ."""


class Figure(Part):
    """One row of a published table, in the paper's units: shares in %, distances as `published.distances` says."""

    method: str
    """As in `semivox methods`, where it is one of them."""
    labelled: Labelled | Literal["all"]
    dice: Percent | None = None
    jaccard: Percent | None = None
    hd95: NotNegative | None = None
    asd: NotNegative | None = None
    deviations: dict[Literal["dice", "jaccard", "hd95", "asd"], NotNegative] = {}
    """What stands behind ±, over seeds."""
    dice_of: dict[str, Percent] = {}
    """Class → its Dice."""
    source: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    """Who says so."""
    mark: Literal["verified", "third party", "unverified"]
    """verified: in the authors' own log, README or paper. third party: in somebody else's table. unverified: recalled
    only; no more than a hint."""
    selection: Literal["last", "training", "validation", "test", "validation and test", "unknown"]
    """On what the step was chosen whose model was scored; training: on the labelled training scans."""
    note: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dice is None and self.jaccard is None and self.hd95 is None and self.asd is None:
            raise ValueError("holds no number; give dice, jaccard, hd95 or asd")
        return self


class Published(Part):
    """The papers' tables."""

    distances: Literal["mm", "voxel"] = "voxel"
    """Unit of hd95 and asd."""
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """All that a protocol says of one method's runs."""

    plan: Plan
    training: TrainingSettings
    views: ViewSettings
    inference: InferenceSettings
    settings: dict[str, Any]
    """The method's own, where they differ from its defaults."""


class Protocol(Part):
    """A benchmark that anyone can repeat."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    based_on: str | None = None
    """The protocol from which everything is that its file does not say: a name, or a file relative to its own."""
    title: str = Field(min_length=1)
    source: str = Field(min_length=1)
    """Paper or person that the protocol is from."""
    notes: tuple[str, ...] = ()
    """What a reader of the results must know: where this is not quite what the papers did."""
    data: ProtocolData
    plan: Plan
    """In the file: a plan, or the name of a file that holds one, relative to the protocol's. Its `metric_unit` is the
    unit of distances."""
    training: TrainingSettings
    """`selection` says which step's model is scored: the last one unless it says otherwise, such as `test`, the best on
    the test cases, as published."""
    views: ViewSettings = ViewSettings()
    inference: InferenceSettings = InferenceSettings()
    uda: UdaSettings = UdaSettings()
    methods: dict[str, MethodEntry] = {}
    """By their names in `semivox methods`, or as `file.py:Class`, in the file relative to the protocol's."""
    published: Published = Published()

    _file: Path | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("device", "devices", "workers", "init_from"):
            if getattr(self.training, name) != TrainingSettings.model_fields[name].default:
                raise ValueError(f"training.{name} is for the machine or the single run to say; leave it out")
        for entry, named in (
            ("lists", self.data.lists),
            ("download", self.data.download),
            ("cropped", self.data.cropped or ()),
        ):
            for folder in named:
                if folder not in self.data.folders:
                    raise ValueError(f"data.{entry}: {unknown('folder', folder, self.data.folders)}")
        for figure in self.published.figures:
            for name in figure.dice_of:
                if name not in self.data.classes:
                    raise ValueError(f"published.figures: {unknown('class', name, self.data.classes)}")
        for method in self.methods:
            if ".py:" in method:
                continue
            if registered_name(split_addition(method)[0]) not in method_names():
                raise ValueError(f"methods: {unknown('method', method, method_names())}")
            if method in ALIASES:
                raise ValueError(f"methods: write '{ALIASES[method]}' for '{method}'")
        return self

    @property
    def reference(self) -> str:
        """What `read_protocol` finds it by again: its name where it is shipped, else its file."""
        return self.name if self._file is None else str(self._file)

    def entry(self, method: str) -> MethodEntry:
        """What the protocol says of `method`, or of the method below its addition; an empty entry where nothing."""
        names = (whole_name(method), whole_name(split_addition(method)[0]))
        return next((self.methods[name] for name in names if name in self.methods), MethodEntry())

    def recipe(self, method: str) -> Recipe:
        """What the protocol says of `method`, or of the method below its addition; else its general part.

        Raises SettingError for a setting that does not exist or a value that does not fit.
        """
        entry = self.entry(method)
        if entry.settings:
            method_settings(MethodChoice(name=method, settings=entry.settings))
        where = f"methods.{method}"
        return Recipe(
            plan=_merged(self.plan, entry.plan, f"{where}.plan"),
            training=_merged(self.training, entry.training, f"{where}.training"),
            views=_merged(self.views, entry.views, f"{where}.views"),
            inference=_merged(self.inference, entry.inference, f"{where}.inference"),
            settings=entry.settings,
        )

    def figures(self, method: str, labelled: int | dict[str, int] | None) -> Published:
        """The published rows of a method with this many labels, None for all."""
        wanted = "all" if labelled is None else labelled
        rows = (row for row in self.published.figures if (row.method, row.labelled) == (method, wanted))
        return self.published.model_copy(update={"figures": tuple(rows)})

    def dataset_folders(self, root: Path | None = None) -> tuple[Path, ...]:
        """Where its data sets lie: below `root`, else $SEMIVOX_DATA, else what the protocol says.

        Raises DataError where one is not there.
        """
        told = root or os.environ.get(ENVIRONMENT) or self.data.root
        wanted = ", ".join(f"'{folder}'" for folder in self.data.folders)
        if not told:
            raise DataError(
                f"protocol {self.name}: where do its data lie? Give --data ROOT, the folder that holds {wanted}, or set"
                f" {ENVIRONMENT}"
            )
        found = tuple(Path(told).resolve() / folder for folder in self.data.folders)
        for path in found:
            if not path.is_dir():
                raise DataError(
                    f"{path}: there is no such folder; protocol {self.name} wants the data set '{path.name}' in the"
                    f" layout there, name the folder that holds {wanted} with --data or {ENVIRONMENT}"
                )
        return found


def whole_name(method: str) -> str:
    """A method's name as runs record it: registered, or with the whole path of its file."""
    if ".py:" not in method:
        return registered_name(method)
    file, _, name = method.rpartition(":")
    return f"{Path(file).resolve()}:{name}"


def read_protocol(name: str | Path) -> Protocol:
    """The protocol of this name, or in this file. Raises SettingError in one line where it is none."""
    text = str(name)
    path, is_file = _place(text, Path.cwd())
    try:
        protocol = Protocol.model_validate(_content(path))
        for method in protocol.methods:
            if ".py:" not in method:  # a protocol never names code to load: somebody names it with --method
                protocol.recipe(method)
    except ValidationError as error:
        raise SettingError(f"{path}: {first_fault(error, Protocol)}") from None
    except SettingError as error:
        raise SettingError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"{path}: cannot be read as a protocol ({first_line(error)})") from None
    protocol._file = path if is_file else None
    return protocol


def about(protocol: Protocol, folders: Sequence[Path]) -> Protocol:
    """The protocol as it is about some of its data sets alone, those in the folders of these names: for the models of
    fewer tasks beside a joint one. It has no published figures. The same protocol where as many folders are given.

    Raises SettingError for a folder whose name is none of the protocol's.
    """
    if len(folders) >= len(protocol.data.folders):
        return protocol
    names = [folder.name for folder in folders]
    for name in names:
        if name not in protocol.data.folders:
            raise SettingError(
                f"protocol {protocol.name} is about {len(protocol.data.folders)} data sets;"
                f" {unknown('folder', name, protocol.data.folders)}; name all, or some as the protocol does"
            )
    data, sets = protocol.data, [read_dataset(folder) for folder in folders]

    def kept(labelled: Labelled) -> Labelled:
        """`labelled` of these sets: one alone is not joined, so that its domains have the names that it gives them."""
        if isinstance(labelled, int):
            return labelled
        if len(sets) == 1:
            return _within(sets[0], labelled)
        return {domain: n for domain, n in labelled.items() if any(_within(one, {domain: n}) for one in sets)}

    found = data.model_copy(
        update={
            "folders": tuple(names),
            "classes": tuple(name for name in data.classes if any(name in one.labels.foreground for one in sets)),
            "labelled": kept(data.labelled),
            "rows": tuple(map(kept, data.rows)),
            "lists": {name: data.lists[name] for name in names if name in data.lists},
            "cropped": None if data.cropped is None else tuple(name for name in data.cropped if name in names),
        }
    )
    return protocol.model_copy(update={"data": found, "published": Published()})


def check_data(protocol: Protocol, folders: Sequence[Path], labelled: int | dict[str, int] | None) -> None:
    """Says what the data sets in `folders` lack of the protocol's published lists.

    Raises SettingError where they are not as many as the protocol has, DataError as `check_lists` does, or where scans
    were not cut as the protocol's are.
    """
    if len(folders) != len(protocol.data.folders):
        raise SettingError(
            f"protocol {protocol.name} is about {len(protocol.data.folders)} data sets"
            f" ({', '.join(protocol.data.folders)}); {len(folders)} are given"
        )
    for name, folder in zip(protocol.data.folders, folders, strict=True):
        dataset = read_dataset(folder)
        cropped = protocol.data.cropped
        if cropped is not None and dataset.is_cropped != (name in cropped):
            found, expected = ("cut", "whole") if dataset.is_cropped else ("whole", "cut")
            raise DataError(
                f"{folder}: its scans are {found}, those of protocol {protocol.name} are {expected} (around their"
                f" reference, by `convert --crop`); {protocol.data.download.get(name, 'convert them again')}"
            )
        if protocol.data.splits == "assigned":
            dataset = assign(dataset, case_lists(protocol, name, dataset, labelled))
        line = check_lists(protocol, name, dataset, labelled)
        if line is not None:
            say(line)


def settled(
    protocol: Protocol | None, folders: Sequence[Path], labelled: int | dict[str, int] | Literal["all"] | None
) -> tuple[int | dict[str, int] | None, tuple[CaseLists, ...]]:
    """How many groups keep their label, the protocol's number where none is given, None for all; and the lists that
    each of the data sets is brought into. Says what they lack, and raises, as `check_data`."""
    if protocol is not None and labelled is None:
        labelled = protocol.data.labelled
    number = None if labelled == "all" else labelled
    if protocol is None:
        return number, ()
    check_data(protocol, folders, number)
    return number, assigned_lists(protocol, folders, number)


def assigned_lists(
    protocol: Protocol, folders: Sequence[Path], labelled: int | dict[str, int] | None
) -> tuple[CaseLists, ...]:
    """The lists that each of the data sets is brought into (see `assign`); none where each keeps its own splits."""
    if protocol.data.splits == "checked":
        return ()
    named = zip(protocol.data.folders, folders, strict=True)
    return tuple(case_lists(protocol, name, read_dataset(folder), labelled) for name, folder in named)


def case_lists(protocol: Protocol, folder: str, dataset: Dataset, labelled: int | dict[str, int] | None) -> CaseLists:
    """The lists of a folder, its domains and what comes without a label written out as the patients of `dataset`; those
    that keep their label are the first of the training list."""
    data = protocol.data
    lists = data.lists[folder]
    named: dict[Split, list[str]] = {
        "train": [*data.labelled_names(folder, labelled), *lists.train],
        "val": [*lists.val],
        "test": [*lists.test],
    }
    for split, domains in lists.domains.items():
        named[split] += [case.patient for case in dataset if case.domain in domains and case.label is not None]
    if lists.unlabelled:
        held_out = {*named["val"], *named["test"]}
        without = (case for case in dataset if case.label is None)
        named["train"] += [case.patient for case in without if not _names(case) & held_out]
    return CaseLists(tasks=lists.tasks, **{split: tuple(dict.fromkeys(names)) for split, names in named.items()})


def check_scans(protocol: Protocol, shapes: Mapping[str, tuple[int, int, int]]) -> None:
    """Raises DataError where a scan (case → its voxels along X, Y, Z in RAS order) cannot be one of the protocol's."""
    wanted = protocol.data.shapes
    for case, shape in shapes.items():
        if wanted and not any(_fits(shape, allowed) for allowed in wanted):
            expected = " or ".join(" × ".join("any" if size is None else str(size) for size in one) for one in wanted)
            mend = " or ".join(protocol.data.download.values()) or "convert them again"
            raise DataError(
                f"case {case}: has {_times(shape)} voxels, scans of protocol {protocol.name} have {expected}; {mend}"
            )
        least = protocol.data.least_shape
        if any(length < number for length, number in zip(shape, least, strict=True)):
            mend = " or ".join(protocol.data.download.values()) or "convert them again"
            raise DataError(
                f"case {case}: has {_times(shape)} voxels, scans of protocol {protocol.name} have at least"
                f" {_times(least)}: this one was cut more closely around its reference; {mend}"
            )


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _fits(shape: Sequence[int], allowed: Sequence[int | None]) -> bool:
    return all(size in (None, length) for size, length in zip(allowed, shape, strict=True))


def check_lists(protocol: Protocol, folder: str, dataset: Dataset, labelled: int | dict[str, int] | None) -> str | None:
    """What of the published lists a data set has and lacks, in one line; None where it is all there, in its order.

    `labelled`: how many groups are to keep their label. Raises DataError where a case is in another split than the
    published one: a model may have seen what it is scored on.
    """
    lists = protocol.data.lists.get(folder)
    if lists is None:
        return None
    places = {name: case.split for case in dataset for name in _names(case)}
    told, missing = [], []
    for split, names in (("train", lists.train), ("val", lists.val), ("test", lists.test)):
        lacking = [name for name in names if name not in places]
        for name in names:
            if places.get(name, split) != split:
                raise DataError(
                    f"{dataset.root}: '{name}' is a {places[name]} case here and a {split} case in the published lists;"
                    " correct its split in cases.csv"
                )
        if names:
            told.append(f"{len(names) - len(lacking)} of {len(names)} {split}")
        missing += lacking
    for domain, number in lists.groups.items():
        here = len({case.patient for case in dataset if case.domain == domain and case.label is not None})
        told += [f"{here} of {number} of {domain}"]
        missing += [f"{number - here} of {domain}"] if here < number else []
    one_by_one = protocol.data.labelled_names(folder, labelled)
    if one_by_one or (labelled is not None and lists.train):
        own = _within(dataset, labelled) if isinstance(labelled, dict) else labelled
        kept = dataset.hide_labels(own).labelled()
        wanted = one_by_one or _first_of(lists, kept)
        if any(not _names(case) & set(wanted) for case in kept):
            raise DataError(
                f"{dataset.root}: the labelled ones would be {_listed([case.patient for case in kept])}, the published"
                f" ones are {_listed(wanted)}; add what is missing, and bring cases.csv into that order"
            )
    if not missing:
        return None
    return f"{folder}: not the whole published set, {', '.join(told)} are here; missing: {_listed(missing)}"


def _within(dataset: Dataset, labelled: dict[str, int]) -> dict[str, int]:
    """`labelled`, whose domains may be those of several sets joined, as it is about one of these sets."""
    own = {domain: domain for domain in dataset.domains}
    if DEFAULT in own:
        own[prefix_of(dataset.name)] = DEFAULT
    return {own[domain]: number for domain, number in labelled.items() if domain in own}


def _first_of(lists: CaseLists, kept: Sequence[Case]) -> list[str]:
    """As many as are `kept` from the head of the training list; where labels are counted by task, from each one's."""
    tasks = [task.train for task in lists.tasks.values()]
    apart = [[name for name in lists.train if name in task] for task in tasks]
    apart.append([name for name in lists.train if not any(name in task for task in tasks)])
    return [
        name for names in apart for name in names[: len({case.patient for case in kept if _names(case) & set(names)})]
    ]


def _names(case: Case) -> set[str]:
    """By what a published list may call a case."""
    return {case.id, case.patient}


def _listed(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _place(text: str, folder: Path) -> tuple[Path, bool]:
    """The file of a protocol, and whether it was named as one (relative to `folder`) and not as a shipped one."""
    is_file = text.endswith((".yaml", ".yml")) or "/" in text or os.sep in text
    if not is_file and text not in protocol_names():
        raise unknown("protocol", text, protocol_names())
    return ((folder / text).resolve() if is_file else SHIPPED / f"{text}.yaml"), is_file


def _content(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a protocol's file says, and what the one says that it is based on."""
    content = read_yaml(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise SettingError(f"{path}: holds no protocol; begin it with `name:`")
    content = _with_files(content, path)
    if not isinstance(content.get("based_on"), str):
        return content
    base, _ = _place(content["based_on"], path.parent)
    if base in (path, *above):
        raise SettingError(f"{path}: is based on itself, over {base}; leave based_on out of one of them")
    return _entries_replaced(_content(base, (path, *above)), content)


def _entries_replaced(base: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `content` says in its place, entry by entry of each section."""
    merged = {**base, **content}
    for name, entry in content.items():
        if isinstance(entry, dict) and isinstance(base.get(name), dict):
            merged[name] = {**base[name], **entry}
    return merged


def _with_files(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The content with what it names relative to its own file put in place: plan, data root, methods in files."""
    content = dict(content)
    if isinstance(content.get("plan"), str):
        content["plan"] = Plan.load(path.parent / content["plan"]).model_dump(mode="python")
    data = content.get("data")
    if isinstance(data, dict) and isinstance(data.get("root"), str):
        content["data"] = {**data, "root": str(path.parent / data["root"])}
    methods = content.get("methods")
    if isinstance(methods, dict):
        content["methods"] = {
            whole_name(str(path.parent / name)) if ".py:" in str(name) else name: entry
            for name, entry in methods.items()
        }
    return content


def _merged(section: Section, changes: Mapping[str, Any], where: str) -> Section:
    """`section` with `changes`, nested as it is."""
    if not changes:
        return section
    try:
        return type(section).model_validate(_merge(section.model_dump(mode="python"), changes))
    except ValidationError as error:
        raise SettingError(f"{where}: {first_fault(error, type(section))}") from None


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(merged.get(name), Mapping) and isinstance(value, Mapping)
        merged[name] = _merge(merged[name], value) if both else value
    return merged
