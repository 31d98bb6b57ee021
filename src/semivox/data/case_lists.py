"""Lists of names that say which cases take part, in which split, order and task, whatever cases.csv says."""

from dataclasses import replace

from pydantic import Field

from semivox.data.case import Case, Dataset, Split
from semivox.errors import DataError, unknown
from semivox.settings import Part


class PartialLabels(Part):
    """A task of a data set that annotates more: training cases, or groups, of whose labels some names alone count."""

    labels: tuple[str, ...] = Field(min_length=1)
    train: tuple[str, ...] = Field(min_length=1)


class CaseLists(Part):
    """Split → ids of cases, or of groups with all their cases, in the order in which labels are counted."""

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    tasks: dict[str, PartialLabels] = {}
    """Task → what it annotates in which training cases; labels are counted for each task by itself. Cases of no task
    listed keep all their labels: those that are scored, so that every organ is scored in each of them."""


def assign(dataset: Dataset, lists: CaseLists) -> Dataset:
    """The cases that `lists` names, each in the split and at the place where it is named; others take no part.

    Names of which the data set has no case are passed over. Raises DataError where no case is named, where a case is in
    two splits or two tasks, where a task names a case that is not trained on, or a label that there is not.
    """
    cases_of: dict[str, list[Case]] = {}
    for case in dataset:
        for name in {case.id, case.patient}:
            cases_of.setdefault(name, []).append(case)
    split_of: dict[str, Split] = {}
    cases = []
    splits: tuple[tuple[Split, tuple[str, ...]], ...] = (
        ("train", lists.train),
        ("val", lists.val),
        ("test", lists.test),
    )
    for split, names in splits:
        for name in names:
            for case in cases_of.get(name, ()):
                if split_of.setdefault(case.id, split) != split:
                    raise DataError(
                        f"{dataset.root}: '{name}' is listed for {split_of[case.id]} and for {split}; list it once"
                    )
                cases.append(replace(case, split=split))
    if not cases:
        raise DataError(f"{dataset.root}: has none of the listed cases; name the data set that the lists are of")
    unique = {case.id: case for case in cases}
    task_of = _tasks(dataset, lists, cases_of, unique)
    return replace(
        dataset,
        cases=tuple(replace(case, task=task_of.get(case.id, case.task)) for case in unique.values()),
        tasks={**dataset.tasks, **{name: task.labels for name, task in lists.tasks.items()}},
    )


def _tasks(
    dataset: Dataset, lists: CaseLists, cases_of: dict[str, list[Case]], assigned: dict[str, Case]
) -> dict[str, str]:
    """Case → its task, of those that a task lists. `assigned`: the cases by id, each in its split."""
    task_of: dict[str, str] = {}
    for task, partial in lists.tasks.items():
        for label in partial.labels:
            if label not in dataset.labels.foreground:
                raise DataError(f"{dataset.root}: task '{task}': {unknown('label', label, dataset.labels.foreground)}")
        for name in partial.train:
            for case in cases_of.get(name, ()):
                if case.id not in assigned or assigned[case.id].split != "train":
                    raise DataError(
                        f"{dataset.root}: task '{task}' lists '{name}', which is no training case; leave it out"
                    )
                if task_of.setdefault(case.id, task) != task:
                    raise DataError(
                        f"{dataset.root}: '{name}' is listed for task {task_of[case.id]} and for {task}; list it once"
                    )
    return task_of
