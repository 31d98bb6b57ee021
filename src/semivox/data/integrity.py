"""Everything that is wrong with the scans of a data set, all at once: what `semivox inspect` lists.

Labels are opened for the cases that still have one (`Case.label`), so never those hidden by `--labelled N`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from semivox.data import nifti
from semivox.data.case import Case, Dataset
from semivox.data.fault import Fault, FaultError
from semivox.data.image import channel_faults, ending_of, label_faults, read_label, read_volume
from semivox.data.labels import IGNORE
from semivox.data.layout import survey
from semivox.data.volume import Grid, Volume
from semivox.parallel import run_all


def check(
    dataset: Dataset | Path,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    unlabelled: Path | None = None,
) -> list[Fault]:
    """All faults of a data set, errors and warnings: those of its layout first, then case by case.

    A folder is read as `read_dataset` does, with `unlabelled`, but to the end. `workers` above 1 spreads cases over
    processes; a script that asks for it needs `if __name__ == "__main__":`. `progress(done, total)` counts cases.
    """
    faults: list[Fault] = []
    if not isinstance(dataset, Dataset):
        found, faults = survey(dataset, unlabelled)
        if found is None:
            return faults
        dataset = found
    # Workers need what the data set declares, not the list of all its cases with every item.
    examine = partial(_examine, dataset=replace(dataset, cases=()))
    findings = run_all(examine, dataset.cases, workers, progress)
    for finding in findings:
        faults += finding.faults
    faults += _repeated_scans(dataset, [finding.digest for finding in findings])
    return faults + _absent_classes(dataset, [finding.classes for finding in findings])


def check_case(case: Case, dataset: Dataset) -> list[Fault]:
    """All faults in the files of one case."""
    return _examine(case, dataset).faults


@dataclass(frozen=True)
class _Finding:
    faults: list[Fault]
    digest: str | None
    """Of the image's voxels; None where they cannot be read or are all equal."""
    classes: frozenset[int] | None = None
    """In the label of a training case, as the data set counts them; None where there is none to be read."""


def _examine(case: Case, dataset: Dataset) -> _Finding:
    faults: list[Fault] = []
    channels: list[Volume] = []
    for path in case.images:
        volume = _read(read_volume, path, case, faults)
        if volume is not None:
            channels.append(volume)
            faults += _value_faults(case, path, volume)
    if len(channels) == len(case.images):
        faults += channel_faults(case, dataset, channels)
    classes = None
    if case.label is not None:
        label = _read(read_label, case.label, case, faults)
        if label is not None:
            faults += _label_faults(case, dataset, label, channels[0].grid if channels else None)
            if case.split == "train" and not (case.label_map or dataset.labels).undeclared(label.array):
                classes = frozenset(np.unique(dataset.to_classes(case, label.array)).tolist())
    is_whole = len(channels) == len(case.images) and any(np.ptp(channel.array) > 0 for channel in channels)
    return _Finding(faults, _digest(channels) if is_whole else None, classes)


def _read(read: Callable[[Path], Volume], path: Path, case: Case, faults: list[Fault]) -> Volume | None:
    """The file's volume, None where it cannot be used; faults of file and header are added."""
    try:
        volume = read(path)
        header_faults = nifti.header_faults(path) if ending_of(path).lower() in nifti.ENDINGS else []
    except FaultError as error:
        faults.append(replace(error.fault, case=case.id))
        return None
    faults += [replace(fault, case=case.id) for fault in header_faults]
    return volume


def _value_faults(case: Case, path: Path, volume: Volume) -> list[Fault]:
    """What is wrong with the voxels of an image file."""
    array = volume.array
    wrong = array.size - int(np.count_nonzero(np.isfinite(array))) if array.dtype.kind == "f" else 0
    if wrong:
        what = f"has {wrong} voxels that are NaN or infinite"
        return [Fault(case.id, path, what, "replace them by a number, such as the value of the background")]
    if array.min() == array.max():
        what = f"is constant: every voxel is {array.flat[0]:g}"
        return [Fault(case.id, path, what, "export it again from its source, or remove the case")]
    return []


def _label_faults(case: Case, dataset: Dataset, label: Volume, grid: Grid | None) -> list[Fault]:
    """What is wrong with a label that can be read."""
    faults = label_faults(case, dataset, label, grid)
    label_map = case.label_map or dataset.labels
    if not label_map.undeclared(label.array):
        classes = label_map.to_classes(label.array)
        if not ((classes > 0) & (classes < IGNORE)).any():
            mend = "correct it, or remove the file if nobody drew it: the case then counts as unlabelled"
            faults.append(Fault(case.id, case.label, "label is empty: no voxel of any class", mend, is_error=False))
    return faults


def _digest(channels: list[Volume]) -> str:
    """Of shape and voxels, whatever the header says."""
    digest = hashlib.blake2b(digest_size=16)
    for channel in channels:
        digest.update(repr((channel.array.shape, channel.array.dtype.str)).encode())
        digest.update(np.ravel(channel.array, order="K").data)
    return digest.hexdigest()


def _repeated_scans(dataset: Dataset, digests: list[str | None]) -> list[Fault]:
    """The same scan under two ids: an error where it is in two splits, since a score on it would be worth nothing."""
    first: dict[str, Case] = {}
    faults = []
    for case, digest in zip(dataset.cases, digests, strict=True):
        other = first.setdefault(digest, case) if digest else case
        if other is not case:
            what = f"is, voxel for voxel, the scan of case {other.id} ({other.split}; this one {case.split})"
            is_error = case.split != other.split
            faults.append(Fault(case.id, case.images[0], what, "remove one of them", is_error))
    return faults


def _absent_classes(dataset: Dataset, classes: list[frozenset[int] | None]) -> list[Fault]:
    """Classes that no labelled training case has, which cannot be learnt; none where a label could not be read."""
    labelled = [
        found
        for case, found in zip(dataset.cases, classes, strict=True)
        if case.split == "train" and case.label is not None
    ]
    if not labelled or None in labelled:
        return []
    present = frozenset().union(*(found for found in labelled if found is not None))
    absent = [name for index, name in enumerate(dataset.labels.names) if index and index not in present]
    others = [name for name in dataset.labels.foreground if name not in absent]
    mend = "add a label that shows it, keep more with --labelled"
    mend += f", or leave it out: --labels {' '.join(others)}" if others else ""
    what = f"is in none of the {len(labelled)} labelled training cases, so that it cannot be learnt"
    is_joined = any(case.label_map for case in dataset)  # and `root` that of the first set only
    faults = []
    for name in absent:
        tasks = [task for task, names in dataset.tasks.items() if name in names]
        known = f" of task {', '.join(tasks)}" if tasks else ""
        faults.append(Fault("", None if is_joined else dataset.root, f"class '{name}'{known} {what}", mend))
    return faults
