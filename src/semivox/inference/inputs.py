"""What a user names for prediction: files, folders of files, DICOM series."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from semivox.data.case import DEFAULT
from semivox.data.dicom_values import is_dicom_file
from semivox.data.image import ENDINGS
from semivox.errors import DataError

CHANNEL = re.compile(r"_\d{4}$")
"""nnU-Net's channel number at the end of an image's name."""


@dataclass(frozen=True)
class Input:
    """A scan to predict: its image files in channel order, or the folder of its DICOM series."""

    case: str
    files: tuple[Path, ...]
    task: str = DEFAULT
    """Whose classes are predicted; the default is all."""
    modality: str = ""
    """What it was scanned with, where the plan prepares modalities differently."""


def find_inputs(paths: Sequence[Path], channels: int) -> list[Input]:
    """The cases that `paths` name: files in the order given, then those in folders in the order of their names.

    A file CASE_0000.nii.gz belongs to CASE as its channel 0; CASE.nii.gz is a case by itself. In a folder such files
    are cases; one without any holds a DICOM series, or folders that are searched in turn. A series is named after its
    folder. Of `channels` images a case has all, or one file that holds them together (RGB). Raises DataError where a
    path does not exist or nothing is found there, a channel is missing, or two cases have one id.
    """
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder; check the path")
    found = _grouped([path for path in paths if path.is_file()])
    found += [item for path in paths if path.is_dir() for item in _in_folder(path)]
    by_id: dict[str, tuple[Path, ...]] = {}
    for item in found:
        case, files = item.case, item.files
        if case in by_id:
            raise DataError(f"case {case}: both {by_id[case][0]} and {files[0]} give it; rename one of the files")
        if len(files) not in (1, channels):
            names = ", ".join(file.name for file in files)
            raise DataError(
                f"case {case}: the model needs {channels} channels, found {len(files)} ({names}); add the missing files"
            )
        by_id[case] = files
    return found


def _in_folder(folder: Path) -> list[Input]:
    if (folder / "dataset.json").exists():
        raise DataError(f"{folder}: is a whole data set; give the folder of its images, such as {folder / 'imagesTs'}")
    found = list(_search(folder, folder.resolve().name))
    if not found:
        raise DataError(f"{folder}: holds neither images ({', '.join(ENDINGS)}) nor a DICOM series; check the path")
    return found


def _search(folder: Path, name: str) -> Iterator[Input]:
    """The cases in a folder; `name` is what a DICOM series that lies in it is called."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    # A link that leads nowhere is a case too: reading it tells so, where passing it over would lose the case.
    files = [entry for entry in entries if entry.is_file() or not entry.exists()]
    images = [file for file in files if _ending(file)]
    if images:
        yield from _grouped(images)
    elif any(is_dicom_file(file) for file in files):
        yield Input(name, (folder,))
    else:
        for entry in entries:
            if entry.is_dir():
                yield from _search(entry, entry.name)


def _grouped(files: Sequence[Path]) -> list[Input]:
    """Files by case, channels of a case in the order of their numbers."""
    cases: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        stem = file.name.removesuffix(_ending(file) or file.suffix)
        cases.setdefault((file.parent, CHANNEL.sub("", stem)), []).append(file)
    return [Input(case, tuple(sorted(members))) for (_, case), members in cases.items()]


def _ending(file: Path) -> str | None:
    """The longest known ending of a file's name."""
    return max((e for e in ENDINGS if file.name.lower().endswith(e)), key=len, default=None)
