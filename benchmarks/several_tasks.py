"""One model for several data sets, or one for each? The tasks of protocol four_sets_cpu together and apart.

    python -m benchmarks.several_tasks ../shared/data runs/several-tasks --seeds 1

Every model has the same labels, plan and steps: VerSemi, its first stage alone (labelled scans only), VerSemi that
leaves out what another task's prompt claims, DoDNet and labelled-only training on all tasks at once; and for each task
a labelled-only and a semi-supervised model of its own. Each test scan is predicted for its own task. Finished runs are
kept. Writes docs/several-tasks.md.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import yaml

from benchmarks.cells import ROOT, Cell, is_done, train_all
from semivox.atomic import atomic_write_text
from semivox.evaluation.statistics import compare_paired
from semivox.experiments.protocol import Protocol, read_protocol

PAGE = ROOT / "docs" / "several-tasks.md"
REMARKS = ROOT / "benchmarks" / "remarks" / "several-tasks.md"
"""What follows from the figures, in words."""
PROTOCOL = "four_sets_cpu"

FIRST_STAGE = "VerSemi, first stage alone"
JOINT = {
    "labelled-only, classes of all tasks": ("supervised",),
    "DoDNet": ("dodnet",),
    FIRST_STAGE: ("versemi", "pretraining_share=1"),
    "VerSemi": ("versemi",),
    "VerSemi, other tasks' organs left out": ("versemi", "exclude_other_tasks=0.5"),
}
"""Row → method, and its settings."""
LABELLED_ONLY = "labelled-only, a model for each task"
APART = {LABELLED_ONLY: "supervised", "UniMatch, a model for each task": "unimatch"}
"""Row → method."""


@dataclass(frozen=True)
class Task:
    """What one group annotated: classes of one data set, in some or all of its training cases."""

    name: str
    folder: str
    classes: tuple[str, ...]
    train: tuple[str, ...]


def tasks_of(protocol: Protocol, data: Path) -> tuple[Task, ...]:
    """The tasks of a protocol, in order: those that its lists assign, else each data set."""
    found = []
    for folder in protocol.data.folders:
        lists = protocol.data.lists[folder]
        for name, task in lists.tasks.items():
            found.append(Task(name, folder, task.labels, task.train))
        if not lists.tasks:
            labels = json.loads((data / folder / "dataset.json").read_text(encoding="utf-8"))["labels"]
            classes = tuple(name for name in protocol.data.classes if name in labels)
            found.append(Task(folder, folder, classes, lists.train))
    return tuple(found)


def own_protocol(protocol: Protocol, task: Task, out: Path) -> Path:
    """The protocol of one task alone, as a file."""
    lists = protocol.data.lists[task.folder]
    content = {
        "name": f"{PROTOCOL}_{task.name}",
        "based_on": PROTOCOL,
        "data": {
            "folders": [task.folder],
            "classes": list(task.classes),
            "lists": {task.folder: {"train": list(task.train), "val": list(lists.val), "test": list(lists.test)}},
        },
        "training": {"balance": {"classes": protocol.training.balance.classes}},
    }
    path = out / "protocols" / f"{task.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, yaml.safe_dump(content, sort_keys=False))
    return path


def cells(protocol: Protocol, tasks: Sequence[Task], data: Path, out: Path, seeds: int) -> Iterator[Cell]:
    """Seed by seed, so that a benchmark that is stopped early has whole comparisons."""
    for seed in range(seeds):
        for task, (row, method) in product(tasks, APART.items()):
            path = own_protocol(protocol, task, out)
            arguments = (str(data / task.folder), "--protocol", str(path), "--method", method)
            yield Cell(own_run(out, row, task, seed), (*arguments, "--seed", str(seed)))
        folders = [str(data / folder) for folder in protocol.data.folders]
        for row, (method, *settings) in JOINT.items():
            chosen = ("-s", *settings) if settings else ()
            arguments = (*folders, "--protocol", PROTOCOL, "--method", method, "--seed", str(seed), *chosen)
            yield Cell(joint_run(out, row, seed), arguments)


def joint_run(out: Path, row: str, seed: int) -> Path:
    return out / f"{'-'.join(re.findall('[a-z]+', row.lower()))}-seed{seed}"


def own_run(out: Path, row: str, task: Task, seed: int) -> Path:
    return out / f"apart-{APART[row]}-{task.name}-seed{seed}"


@dataclass(frozen=True)
class Scores:
    """Dice of a task's test cases, the mean over its classes, and over seeds."""

    dice: np.ndarray
    patients: tuple[str, ...]


def scores(runs: Sequence[Path], task: Task) -> Scores:
    """Of runs that differ in their seed."""
    found = []
    for run in runs:
        cases = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["cases"]
        found.append(
            {
                # Joined sets put their name before a case's.
                case["case"].rpartition("__")[2]: (case["scores"], (case["group"] or case["case"]).rpartition("__")[2])
                for case in cases
                if set(task.classes) <= case["scores"].keys()
            }
        )
    names = sorted(found[0])
    values = [[[own[name][0][label]["dice"] for label in task.classes] for name in names] for own in found]
    return Scores(np.array(values, float).mean((0, 2)), tuple(found[0][name][1] for name in names))


def table(out: Path, tasks: Sequence[Task], seeds: int) -> list[str]:
    """Dice of every row on every task, over the seeds for which all is done, and what the joint models gain."""
    done = [seed for seed in range(seeds) if all(is_done(run) for run in runs_of(out, tasks, seed))]
    rows = {row: [scores([own_run(out, row, task, seed) for seed in done], task) for task in tasks] for row in APART}
    for row in JOINT:
        rows[row] = [scores([joint_run(out, row, seed) for seed in done], task) for task in tasks]
    named = [
        f"{task.name.replace('_', ' ')} ({len(own.dice)})" for task, own in zip(tasks, rows[LABELLED_ONLY], strict=True)
    ]
    heads = ("", *named, "mean over tasks", "cases against labelled-only models apart", "against VerSemi's first stage")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    first_stage = rows[FIRST_STAGE]
    for row, own in rows.items():
        means = [task.dice.mean() for task in own]
        figures = " | ".join(f"{value:.3f}" for value in (*means, np.mean(means)))
        lines.append(f"| {row} | {figures} | {gain(own, rows[LABELLED_ONLY])} | {gain(own, first_stage)} |")
    return [f"Seeds {', '.join(map(str, done))}; test cases of each task in brackets.", "", *lines]


def runs_of(out: Path, tasks: Sequence[Task], seed: int) -> list[Path]:
    return [
        *(joint_run(out, row, seed) for row in JOINT),
        *(own_run(out, row, task, seed) for row in APART for task in tasks),
    ]


def gain(own: Sequence[Scores], other: Sequence[Scores]) -> str:
    """The paired difference over all cases of all tasks, with its interval and p; intervals draw patients."""
    if own is other:
        return ""
    first, second = (np.concatenate([task.dice for task in each]) for each in (own, other))
    found = compare_paired(first, second, [patient for task in own for patient in task.patients])
    return f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}], p {found.p_value:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, each on one thread")
    parser.add_argument("--page-only", action="store_true")
    chosen = parser.parse_args()
    protocol, data, out = read_protocol(PROTOCOL), chosen.data.resolve(), chosen.out.resolve()
    tasks = tasks_of(protocol, data)
    if not chosen.page_only:
        train_all(cells(protocol, tasks, data, out, chosen.seeds), chosen.jobs)
    lines = [
        "# Several tasks in one model",
        "",
        f"Protocol `{PROTOCOL}`: {protocol.title}; {protocol.data.labelled} labelled scans of each task,"
        f" {protocol.training.iterations} steps for every model, the ones apart too. Dice on test scans, each predicted"
        " for its own task, as mean over a task's classes and cases. Differences are paired over all cases of all"
        " tasks, with 95 % bootstrap intervals that draw patients, and Wilcoxon's p. Written by"
        f" `python -m benchmarks.several_tasks DATA RUNS --seeds {chosen.seeds}`; not typed.",
        "",
        *table(out, tasks, chosen.seeds),
        "",
        REMARKS.read_text(encoding="utf-8").rstrip() if REMARKS.exists() else "",
        "",
    ]
    atomic_write_text(PAGE, "\n".join(lines))


if __name__ == "__main__":
    main()
