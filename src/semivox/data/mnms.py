"""M&Ms 2020, "Multi-Centre, Multi-Vendor & Multi-Disease Cardiac Image Segmentation": short-axis cine MRI.

    211230_M&Ms_Dataset_information_diagnosis_opendataset.csv    External code, Vendor, ED, ES, ... (frames from 0)
    Training/Labeled/A0S9V9/A0S9V9_sa.nii.gz, A0S9V9_sa_gt.nii.gz    (x, y, slice, frame); labels at ED and ES only
    Training/Unlabeled/..., Validation/..., Testing/...

Each vendor is a domain, each of a patient's two annotated frames a case.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from semivox.data.case import Dataset, Split
from semivox.data.download import Arrays, Found, files_below, refuse_doubles, write_dataset
from semivox.data.fault import Fault, FaultError
from semivox.data.labels import LabelMap
from semivox.data.names import safe_id
from semivox.data.short_axis import NOTE, read_short_axis
from semivox.data.volume import Grid
from semivox.parallel import Progress

LABELS = LabelMap(("background", "LV", "MYO", "RV"), (0, 1, 2, 3))

IMAGE, LABEL = "_sa.nii.gz", "_sa_gt.nii.gz"

PARTS: dict[str, Split] = {"training": "train", "validation": "val", "testing": "test"}

COLUMNS = ("External code", "Vendor", "ED", "ES")

CUT = """Slices from the first labelled one to the one before the last labelled one were kept, as published: figures
suppose somebody who finds the heart first. Scans without a label were kept whole.
"""


@dataclass(frozen=True)
class Patient:
    """A row of the table."""

    vendor: str
    frames: tuple[int, ...]
    """ED and ES, counted from 0; empty where the table does not say."""


def convert(
    source: Path, out: Path, progress: Progress | None = None, crop: Literal["none", "published"] = "none"
) -> Dataset:
    """The download below `source` → a new data set at `out` in the nnU-Net v2 raw layout, and returns it.

    Domains are the vendors A to D, groups the patients, splits those of the challenge; cases are called A0S9V9_frame00.
    An unlabelled patient without frames in the table is left out. `crop`: published keeps the labelled slices only.
    Raises FaultError that names the file and the mend; then nothing is written.
    """
    source = Path(source)
    images = files_below(source, f"*{IMAGE}", f"Training, Validation and Testing with ID/ID{IMAGE}")
    file, patients = _read_table(source)
    found = [case for image in images for case in _cases(source, image, file, patients)]
    refuse_doubles(found)
    left_out = {image.parent.name for image in images} - {case.group for case in found}
    is_cropped = crop == "published"
    note = NOTE + (CUT if is_cropped else "")
    if left_out:
        note += f"Left out, without label and without frames in the table: {', '.join(sorted(left_out))}.\n"
    read = partial(read_frame, crop=is_cropped)
    return write_dataset(
        out, "mnms", "cine-MRI", LABELS, found, read, note=note, is_cropped=is_cropped, progress=progress
    )


def _read_table(source: Path) -> tuple[Path, dict[str, Patient]]:
    """The csv file below `source` that has the columns, and its patients."""
    seen = []
    for file in sorted(source.rglob("*.csv")):
        try:
            with open(file, encoding="utf-8-sig", newline="") as lines:
                rows = list(csv.DictReader(lines))
        except (OSError, ValueError, csv.Error) as error:
            mend = "copy it again from its source"
            raise FaultError(Fault("", file, f"cannot be read as a table ({error})", mend)) from None
        if rows and set(COLUMNS) <= rows[0].keys():
            return file, {row["External code"].strip(): _patient(file, row) for row in rows}
        seen.append(file.name)
    what = f"holds no table with the columns {', '.join(COLUMNS)}" + (f" (found {', '.join(seen)})" if seen else "")
    mend = "put 211230_M&Ms_Dataset_information_diagnosis_opendataset.csv beside Training"
    raise FaultError(Fault("", source, what, mend))


def _patient(file: Path, row: Mapping[str, str]) -> Patient:
    code = row["External code"].strip()
    told = [(row[name] or "").strip() for name in ("ED", "ES")]
    if any(text.lower() in ("", "nan") for text in told):
        frames: tuple[int, ...] = ()
    else:
        try:
            frames = tuple(int(float(text)) for text in told)
        except ValueError:
            what = f"has the frames ED '{told[0]}', ES '{told[1]}' for {code}, which are no numbers"
            raise FaultError(Fault("", file, what, "copy it again from its source")) from None
    return Patient(row["Vendor"].strip(), frames)


def _cases(source: Path, image: Path, table: Path, patients: Mapping[str, Patient]) -> list[Found]:
    """The frames of one patient."""
    code = image.name.removesuffix(IMAGE)
    patient = patients.get(code)
    if patient is None or not patient.vendor:
        what = f"has no vendor for {code}, of which there is {image.name}"
        raise FaultError(Fault("", table, what, "add its row, or remove the patient's folder"))
    places = [place.lower() for place in image.relative_to(source).parts]
    part = next((part for part in PARTS if part in places), None)
    if part is None:
        what = "lies in none of Training, Validation and Testing"
        raise FaultError(Fault(code, image, what, "keep the folders of the download"))
    label = image.with_name(f"{code}{LABEL}")
    has_label = label.is_file() and "unlabeled" not in places
    if has_label and not patient.frames:
        raise FaultError(Fault("", table, f"does not say ED and ES of {code}", "copy it again from its source"))
    return [
        Found(
            id=f"{safe_id(code)}_frame{frame:02d}",
            image=image,
            label=label if has_label else None,
            split=PARTS[part],
            domain=patient.vendor,
            group=code,
            frame=frame,
        )
        for frame in dict.fromkeys(patient.frames)
    ]


def read_frame(case: Found, crop: bool) -> Arrays:
    """One frame of the patient's files. Raises FaultError where it is not there, or its label is empty."""
    whole = read_short_axis(case, LABELS)
    if whole.label is None:
        return whole
    if not whole.label.any():
        what = f"label is empty at frame {case.frame}"
        raise FaultError(Fault(case.id, case.label, what, "correct ED and ES in the table: frames count from 0"))
    if not crop:
        return whole
    hit = np.flatnonzero(whole.label.any(axis=(0, 1)))
    kept = slice(int(hit[0]), max(int(hit[-1]), int(hit[0]) + 1))
    image = whole.image[..., kept]
    x, y, z = image.shape
    return Arrays(image, whole.label[..., kept], Grid((x, y, z), whole.grid.affine))
