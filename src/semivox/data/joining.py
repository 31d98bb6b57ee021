"""Several data sets as one: classes join by name, each set is a domain and, where label names differ, a task."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from semivox.data.case import DEFAULT, Case, Dataset
from semivox.data.case_lists import CaseLists, assign
from semivox.data.labels import IGNORE, LabelMap
from semivox.data.layout import read_dataset
from semivox.data.setting import leave_unseen
from semivox.errors import DataError, unknown

SEPARATOR = "__"
"""Between the name of a set and the id of a case in joined sets."""


def read_datasets(
    paths: Sequence[Path],
    unlabelled: Path | None = None,
    labels: Sequence[str] | None = None,
    lists: Sequence[CaseLists] = (),
    unseen: Sequence[str] = (),
) -> Dataset:
    """One data set, or several joined. `unlabelled` scans are counted to the first.

    `lists`, one for each set or none at all, say which cases take part, see `assign`. `labels` restricts all sets to
    these names; a set need not have every one of them. The domains `unseen` keep no training case. Raises SettingError
    for a name that no set has, FaultError and DataError as `read_dataset`, `assign`, `join` and `leave_unseen`.
    """
    datasets = [read_dataset(path, None if index else unlabelled) for index, path in enumerate(paths)]
    if lists:
        datasets = [assign(dataset, listed) for dataset, listed in zip(datasets, lists, strict=True)]
    if labels is not None:
        names_of = [{*dataset.labels.foreground, *dataset.labels.regions} for dataset in datasets]
        for name in labels:
            if not any(name in names for names in names_of):
                raise unknown("label", name, set().union(*names_of))
        for dataset, names in zip(datasets, names_of, strict=True):
            if not names & set(labels):
                raise DataError(f"{dataset.root}: has none of the labels {', '.join(labels)}; leave this data set out")
        datasets = [
            dataset.restrict([name for name in labels if name in names])
            for dataset, names in zip(datasets, names_of, strict=True)
        ]
    return leave_unseen(join(datasets), unseen)


def join(datasets: Sequence[Dataset]) -> Dataset:
    """The cases of all sets, in order. A single set stays as it is.

    Classes of one name are one class, with values 0..K-1 of their own; each case remembers how its own label file maps,
    and what its set calls its channels where the sets differ in that: CT and MR join.
    Ids and groups get the set's name before them, as in "la__case". Cases that name no domain are of the domain of
    their set. Where the sets' label names differ each set is a task, so that what one does not annotate is unknown and
    not background.

    Raises DataError where sets differ in their number of channels or in their regions, where a set is given twice,
    where two label names differ in case only, or where a task of one name annotates other labels in another set.
    """
    if len(datasets) == 1:
        return datasets[0]
    _check(datasets)
    names = tuple(dict.fromkeys(name for dataset in datasets for name in dataset.labels.foreground))
    first = datasets[0]
    labels = LabelMap(
        names=(first.labels.names[0], *names),
        values=tuple(range(len(names) + 1)),
        ignore_value=IGNORE if any(dataset.labels.ignore_value is not None for dataset in datasets) else None,
        regions={
            region: tuple(sorted(names.index(name) + 1 for name in members))
            for region, members in _regions(first).items()
        },
    )
    has_one_modality = all(dataset.channels == first.channels for dataset in datasets)
    is_one_task = all(set(dataset.labels.foreground) == set(names) and not dataset.tasks for dataset in datasets)
    tasks: dict[str, tuple[str, ...]] = {}
    cases: list[Case] = []
    for dataset, prefix in zip(datasets, _prefixes(datasets), strict=True):
        new_task = {DEFAULT: DEFAULT} if is_one_task else _add_tasks(dataset, prefix, tasks)
        cases += [
            replace(
                case,
                id=f"{prefix}{SEPARATOR}{case.id}",
                group=f"{prefix}{SEPARATOR}{case.group}" if case.group else "",
                domain=prefix if case.domain == DEFAULT else case.domain,
                task=new_task[case.task],
                label_map=case.label_map or dataset.labels,
                channels=() if has_one_modality else dataset.channels_of(case),
            )
            for case in dataset
        ]
    return Dataset(
        name="+".join(dataset.name for dataset in datasets),
        root=first.root,
        channels=tuple(
            " / ".join(dict.fromkeys(names)) for names in zip(*(own.channels for own in datasets), strict=True)
        ),
        labels=labels,
        cases=tuple(cases),
        tasks=tasks,
        file_ending=first.file_ending,
    )


def _check(datasets: Sequence[Dataset]) -> None:
    first = datasets[0]
    spelled: dict[str, tuple[str, Dataset]] = {}
    roots: set[Path] = set()
    for dataset in datasets:
        if dataset.root.resolve() in roots:
            raise DataError(f"{dataset.root}: is given twice; name each data set once")
        roots.add(dataset.root.resolve())
        if len(dataset.channels) != len(first.channels):
            raise DataError(
                f"{dataset.root}: has {len(dataset.channels)} channels where {first.root} has {len(first.channels)};"
                " only sets of equally many channels can be joined"
            )
        if _regions(dataset) != _regions(first):
            raise DataError(
                f"{dataset.root}: declares other regions than {first.root}; declare the same in both, or name the"
                " labels to use with --labels"
            )
        for name in dataset.labels.foreground:
            other, owner = spelled.setdefault(name.casefold(), (name, dataset))
            if other != name:
                raise DataError(
                    f"{dataset.root}: label '{name}' is '{other}' in {owner.root}; spell it the same in both files"
                    " dataset.json if it is the same class, else name it apart"
                )


def _regions(dataset: Dataset) -> dict[str, frozenset[str]]:
    """Region → names of its classes."""
    names = dataset.labels.names
    return {region: frozenset(names[index] for index in members) for region, members in dataset.labels.regions.items()}


def own_id(case_id: str) -> tuple[str, str]:
    """A joined id's set, and the id that the case has there; no set where the id is of no joined one."""
    prefix, joined, own = case_id.partition(SEPARATOR)
    return (prefix, own) if joined else ("", case_id)


def prefix_of(name: str) -> str:
    """What a data set of this name puts before its ids: safe in file names, and without `SEPARATOR`."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.") or "set"


def _prefixes(datasets: Sequence[Dataset]) -> list[str]:
    """The sets' prefixes, each its own."""
    prefixes: list[str] = []
    for dataset in datasets:
        name = prefix_of(dataset.name)
        same = sum(prefix == name or prefix.startswith(f"{name}-") for prefix in prefixes)
        prefixes.append(f"{name}-{same + 1}" if name in prefixes else name)
    return prefixes


def _add_tasks(dataset: Dataset, prefix: str, tasks: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Adds the tasks of one set to `tasks`; returns the set's own task name → its name among all."""
    new_name = {}
    for task in dict.fromkeys([*dataset.tasks, *(case.task for case in dataset)]):
        annotated = dataset.tasks.get(task, dataset.labels.foreground)
        name = prefix if task == DEFAULT else task
        if set(tasks.setdefault(name, annotated)) != set(annotated):
            raise DataError(
                f"{dataset.root}: task '{name}' annotates {', '.join(annotated)}, in another data set"
                f" {', '.join(tasks[name])}; give one of them another name, under `tasks` in dataset.json and in"
                " cases.csv"
            )
        new_name[task] = name
    return new_name
