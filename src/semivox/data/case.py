"""What a data set is: cases, channels and label names. Every setting of Semivox follows from these."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from semivox.data.labels import IGNORE, LabelMap, look_up
from semivox.errors import DataError, unknown

Split = Literal["train", "val", "test"]

DEFAULT = "default"
"""Name of the domain and the task of a data set that names none."""


def modality_name(channels: Sequence[str]) -> str:
    """One name for scans with these channels: "CT", "T1+FLAIR"."""
    return "+".join(channels)


@dataclass(frozen=True)
class Case:
    """One scan: `images` holds one file per channel (or one RGB file), `label` is None where there is none."""

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    domain: str = DEFAULT
    task: str = DEFAULT
    split: Split = "train"
    group: str = ""
    """The patient; cases of one group are never split over train and test. Empty: the case is a group of its own."""
    label_map: LabelMap | None = field(default=None, hash=False)
    """How this case's own label file maps, where that differs from the data set's: in joined sets. Names are shared."""
    channels: tuple[str, ...] = ()
    """Names of its channels, where joined sets call them differently; empty: as the data set has them."""

    @property
    def patient(self) -> str:
        """`group`, or the case's own id where it has none."""
        return self.group or self.id


@dataclass(frozen=True)
class Dataset:
    """Cases that share channels and label names. `cases` keep the published order: `hide_labels` goes by it."""

    name: str
    root: Path
    channels: tuple[str, ...]
    """Names; in joined sets that call a channel differently all of its names, as in "CT / MRI"."""
    labels: LabelMap
    cases: tuple[Case, ...]
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Task → the label names annotated in its cases; a task that is absent annotates all of them."""
    file_ending: str = ".nii.gz"
    """Ending of label files, and so of predictions."""
    is_cropped: bool = False
    """Whether its scans were cut around their reference when they were converted, as published ones are."""

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __getitem__(self, case_id: str) -> Case:
        for case in self.cases:
            if case.id == case_id:
                return case
        raise unknown("case", case_id, [case.id for case in self.cases])

    def split(self, name: Split) -> tuple[Case, ...]:
        """Cases of one split, in order."""
        return tuple(case for case in self.cases if case.split == name)

    def labelled(self) -> tuple[Case, ...]:
        """Training cases with a label."""
        return tuple(case for case in self.split("train") if case.label is not None)

    def unlabelled(self) -> tuple[Case, ...]:
        """Training cases without a label."""
        return tuple(case for case in self.split("train") if case.label is None)

    def development(self, groups: int) -> "Dataset":
        """The data set for choosing settings: without its test cases.

        Where no validation case has a label, the last `groups` labelled training groups become validation cases.
        Raises DataError where there is then nothing to score, or nothing to train on.
        """
        cases = tuple(case for case in self.cases if case.split != "test")
        if not any(case.split == "val" and case.label is not None for case in cases):
            patients = list(dict.fromkeys(case.patient for case in self.labelled()))
            if not 0 < groups < len(patients):
                raise DataError(
                    f"{self.name}: development needs labelled validation cases; mark some as `val` in cases.csv,"
                    f" or name a protocol whose data.development_groups is 1 to {len(patients) - 1}"
                )
            held = set(patients[-groups:])
            cases = tuple(replace(case, split="val") if case.patient in held else case for case in cases)
        return replace(self, cases=cases)

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names in order of first appearance."""
        return tuple(dict.fromkeys(case.domain for case in self.cases))

    def channels_of(self, case: Case) -> tuple[str, ...]:
        """The names of a case's channels."""
        return case.channels or self.channels

    def modality(self, case: Case) -> str:
        """What a case was scanned with: the names of its channels."""
        return modality_name(self.channels_of(case))

    @property
    def modalities(self) -> dict[str, tuple[str, ...]]:
        """Task → the modalities of its cases; both in order of first appearance."""
        found: dict[str, tuple[str, ...]] = {}
        for case in self.cases:
            found[case.task] = tuple(dict.fromkeys((*found.get(case.task, ()), self.modality(case))))
        return found

    def known_classes(self, task: str) -> tuple[bool, ...]:
        """Per class, whether a case of `task` has it annotated; background counts as known only if all others are."""
        names = self.tasks.get(task, self.labels.foreground)
        known = [name in names for name in self.labels.foreground]
        return (all(known), *known)

    def to_classes(self, case: Case, values: np.ndarray) -> np.ndarray:
        """Values in the label file of `case` → class indices of this data set, uint8, same shape.

        What the case's task does not annotate is background, whatever its file says, so that no label counts which the
        task leaves out. Raises DataError where a value is not declared.
        """
        source = case.label_map or self.labels
        annotated = self.tasks.get(case.task, self.labels.foreground)
        table = np.zeros(IGNORE + 1, np.uint8)
        table[IGNORE] = IGNORE
        for index, name in enumerate(source.names):
            if index and name in annotated:
                table[index] = self.labels.names.index(name)
        return look_up(table, source.to_classes(values))

    def restrict(self, names: Sequence[str]) -> "Dataset":
        """The data set with only the classes, or regions, of the given names; all others become background.

        A case whose task annotates none of them becomes unlabelled. Raises SettingError for a name that is neither.
        """
        labels = self.labels.restrict(names)
        tasks = {task: tuple(n for n in known if n in labels.names) for task, known in self.tasks.items()}
        cases = (case if tasks.get(case.task, names) else replace(case, label=None) for case in self.cases)
        return replace(self, labels=labels, tasks=tasks, cases=tuple(cases))

    def check_domain(self, domain: str) -> None:
        """Raises SettingError where no case is of `domain`."""
        if domain not in self.domains:
            raise unknown("domain", domain, self.domains)

    def hide_labels(self, keep: int | dict[str, int] | None) -> "Dataset":
        """The data set in which only the first `keep` labelled groups per domain and task keep their label.

        The others lose the very path of their label file, so that nothing after this can read it. A dictionary sets
        the number for single domains; the domains it does not name keep all labels. 0 hides all: a domain without
        labels is what others are adapted to. None hides nothing.

        Raises DataError where there are fewer groups than asked for, or no training case of a domain that is named.
        """
        if keep is None:
            return self
        if isinstance(keep, dict):
            for domain, groups_kept in keep.items():
                self._check_labels_of(domain, groups_kept)
        kept: dict[tuple[str, str], list[str]] = {}
        cases = []
        for case in self.cases:
            number = keep.get(case.domain) if isinstance(keep, dict) else keep
            if case.split == "train" and case.label is not None and number is not None:
                groups = kept.setdefault((case.domain, case.task), [])
                if case.patient not in groups and len(groups) < number:
                    groups.append(case.patient)
                if case.patient not in groups:
                    case = replace(case, label=None)
            cases.append(case)
        for (domain, task), groups in kept.items():
            number = keep[domain] if isinstance(keep, dict) else keep
            if len(groups) < number:
                where = "" if (domain, task) == (DEFAULT, DEFAULT) else f" in domain '{domain}', task '{task}'"
                raise DataError(
                    f"{self.name}: --labelled {number} asks for more than the {len(groups)} labelled training groups"
                    f"{where}; ask for at most {len(groups)}"
                )
        return replace(self, cases=tuple(cases))

    def _check_labels_of(self, domain: str, number: int) -> None:
        """Raises where `--labelled DOMAIN=NUMBER` is about nothing."""
        self.check_domain(domain)
        training = [case for case in self.split("train") if case.domain == domain]
        if not training:
            raise DataError(
                f"{self.name}: --labelled {domain}={number}, but domain '{domain}' has no training case: it is tested"
                " unseen; leave the number out, or mark some of its cases as `train` in cases.csv"
            )
        if number and not any(case.label for case in training):
            raise DataError(
                f"{self.name}: --labelled {domain}={number} asks for labels where no training case of domain"
                f" '{domain}' has one; give 0, or add files to labelsTr"
            )
