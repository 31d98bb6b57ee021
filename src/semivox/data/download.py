"""What the converters of public downloads share: cases found on disk, written in the layout."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semivox.atomic import atomic_folder, atomic_write_text
from semivox.data import nifti
from semivox.data.case import DEFAULT, Case, Dataset, Split
from semivox.data.case_table import SPLITS
from semivox.data.fault import Fault, FaultError
from semivox.data.image import read_label, read_volume
from semivox.data.labels import LabelMap
from semivox.data.layout import read_dataset, write_description
from semivox.data.scans import natural_order
from semivox.data.volume import Grid
from semivox.parallel import Progress, run_all

ENDING = ".nii.gz"


@dataclass(frozen=True)
class Found:
    """A case of a download. `frame` is its place along the fourth axis of its files, None where they have three."""

    id: str
    image: Path
    label: Path | None
    split: Split
    domain: str = DEFAULT
    group: str = ""
    frame: int | None = None


@dataclass(frozen=True)
class Arrays:
    """One case as it is to be written; `label` holds the values of the file."""

    image: np.ndarray
    label: np.ndarray | None
    grid: Grid


def write_dataset(
    out: Path,
    name: str,
    channel: str,
    labels: LabelMap,
    found: Iterable[Found],
    read: Callable[[Found], Arrays] | None = None,
    *,
    note: str = "",
    is_cropped: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """The cases as a new data set at `out`, which is returned: in their order, training cases first, test cases last.

    `read` None: files are taken over as they are. `note` is put into README.txt. Where anything fails nothing is left.
    """
    with atomic_folder(Path(out)) as root:
        ordered = sorted(found, key=lambda case: SPLITS.index(case.split))
        cases = run_all(lambda case: _write(root, case, read), ordered, progress=progress)
        write_description(Dataset(name, root, (channel,), labels, tuple(cases), is_cropped=is_cropped))
        if note:
            atomic_write_text(root / "README.txt", note)
    return read_dataset(Path(out))


def files_below(source: Path, pattern: str, what: str) -> list[Path]:
    """Files below `source` in natural order of their paths. Raises FaultError where there are none.

    `what` says what is looked for.
    """
    if not source.is_dir():
        raise FaultError(Fault("", source, "there is no such folder", f"name the folder that holds {what}"))
    files = any_files_below(source, pattern)
    if not files:
        raise FaultError(Fault("", source, f"holds no {pattern}", f"name the folder that holds {what}"))
    return files


def any_files_below(source: Path, pattern: str) -> list[Path]:
    """Files below `source` in natural order of their paths; there may be none."""
    files = [file for file in source.rglob(pattern) if file.is_file() and not file.name.startswith(".")]
    return sorted(files, key=lambda file: natural_order(str(file)))


def refuse_doubles(found: Iterable[Found]) -> None:
    """Raises FaultError for a case that is there twice."""
    seen: dict[str, Path] = {}
    for case in found:
        if case.id in seen:
            what = f"is there twice, also as {seen[case.id]}"
            raise FaultError(Fault(case.id, case.image, what, "remove one of them"))
        seen[case.id] = case.image


def read_files(case: Found) -> Arrays:
    """Image and label of a case in files of three axes. Raises FaultError, also where their grids differ."""
    image = read_volume(case.image)
    if case.label is None:
        return Arrays(image.array[0], None, image.grid)
    label = read_label(case.label)
    difference = image.grid.difference(label.grid)
    if difference:
        what = f"label has {difference}, as in {case.image.name}"
        raise FaultError(Fault(case.id, case.label, what, "copy both again from their source"))
    return Arrays(image.array[0], label.array, image.grid)


def refuse_values(case: Found, label: np.ndarray, labels: LabelMap) -> None:
    """Raises FaultError where a label holds what the download does not document."""
    undeclared = labels.undeclared(label)
    if undeclared:
        raise FaultError(
            Fault(case.id, case.label, f"label {labels.complaint(undeclared)}", "copy it again from its source")
        )


def _write(root: Path, case: Found, read: Callable[[Found], Arrays] | None) -> Case:
    suffix = "Ts" if case.split == "test" else "Tr"
    image = root / f"images{suffix}" / f"{case.id}_0000{ENDING}"
    label = root / f"labels{suffix}" / f"{case.id}{ENDING}" if case.label else None
    if read is None:
        pairs = [(case.image, image), *([(case.label, label)] if case.label and label else ())]
        for source, target in pairs:
            _take_over(source, target)
    else:
        arrays = read(case)
        nifti.write(image, np.ascontiguousarray(arrays.image), arrays.grid)
        if label is not None and arrays.label is not None:
            nifti.write(label, np.ascontiguousarray(arrays.label), arrays.grid)
    return Case(case.id, (image,), label, domain=case.domain, split=case.split, group=case.group)


def _take_over(source: Path, target: Path) -> None:
    """The file as it is, compressed where it is not."""
    if source.name.endswith(ENDING):
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)
    else:
        volume = read_volume(source)
        nifti.write(target, volume.array[0], volume.grid)
