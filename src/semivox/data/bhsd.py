"""BHSD, "Brain Hemorrhage Segmentation Dataset": head CT with five kinds of bleeding, half of it scans without labels.

    label_192/images/ID_0237f3c9_ID_40015688b9.nii.gz           192 scans
    label_192/ground truths/ID_0237f3c9_ID_40015688b9.nii.gz    their labels
    unlabel_1980/.../ID_..._ID_....nii.gz                       1980 scans without labels

The first of the two ids is the patient, the second the scan. What the values mean is from the authors' dataset.json,
as is the split, which the folders do not tell: protocol `bhsd` has it.
"""

import re
from pathlib import Path

import numpy as np

from semivox.data.case import Dataset
from semivox.data.download import (
    Arrays,
    Found,
    any_files_below,
    files_below,
    read_files,
    refuse_doubles,
    refuse_values,
    write_dataset,
)
from semivox.data.fault import Fault, FaultError
from semivox.data.labels import LabelMap
from semivox.parallel import Progress

BLEEDINGS = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
LABELS = LabelMap(("background", *BLEEDINGS), tuple(range(len(BLEEDINGS) + 1)))

NAME = re.compile(r"(ID_[^_]+)_ID_[^_]+\.nii\.gz")

NOTE = """The authors' licence is non-commercial and allows no derivatives: keep this converted copy to yourself.
"""


def convert(source: Path, out: Path, progress: Progress | None = None) -> Dataset:
    """The download below `source` → a new data set at `out` in the nnU-Net v2 raw layout, and returns it.

    Cases are called as their files, groups are the patients; all are training cases, those with a label first. Scans
    without labels may be absent. Raises FaultError that names the file and the mend; then nothing is written.
    """
    source = Path(source)
    images = files_below(source, "label_192/images/*.nii.gz", "label_192 and unlabel_1980")
    found = [_case(image, image.parent.parent / "ground truths" / image.name) for image in images]
    found += [_case(image, None) for image in any_files_below(source, "unlabel_1980/**/*.nii.gz")]
    refuse_doubles(found)
    return write_dataset(out, "BHSD", "CT", LABELS, found, read_case, note=NOTE, progress=progress)


def _case(image: Path, label: Path | None) -> Found:
    match = NAME.fullmatch(image.name)
    if match is None:
        what = "is not named ID_PATIENT_ID_SCAN.nii.gz, so that its patient is not known"
        raise FaultError(Fault("", image, what, "give it the name that it has in the download, or remove it"))
    name = image.name.removesuffix(".nii.gz")
    if label is not None and not label.is_file():
        raise FaultError(Fault(name, label, "there is no such file", "copy the label too, or remove the image"))
    return Found(name, image, label, "train", group=match[1])


def read_case(case: Found) -> Arrays:
    """Image and label as they are. Raises FaultError where their grids differ, or for an unknown value."""
    arrays = read_files(case)
    if arrays.label is None:
        return arrays
    refuse_values(case, arrays.label, LABELS)
    return Arrays(arrays.image, arrays.label.astype(np.uint8), arrays.grid)
