"""NIH Pancreas-CT (The Cancer Imaging Archive): 80 abdominal CT scans, contrast-enhanced, with the pancreas outlined.

    Pancreas-CT/PANCREAS_0001/STUDY/SERIES/1-001.dcm, ...    a DICOM series per patient, whatever the folders in between
    TCIA_pancreas_labels-02-05-2017/label0001.nii.gz, ...    82 labels

PANCREAS_0025 and PANCREAS_0070 were found to be duplicates; newer downloads lack them, here they are left out.

Scan and label do not run the same way. The archive made the DICOM files from volumes, with rows that count towards the
front of the patient, where scanners count towards the back. Public code that pairs the arrays as they are stored loses
the label's place as soon as a reader turns one of the two. Here a label is turned as its own affine says. Where it then
lies on the scan's grid, origin included, nothing can be mirrored. Whether all 82 affines are that exact is not known,
since the download was not at hand: labels of the right shape and voxel size that lie elsewhere are taken, and named, so
that somebody looks at them.
"""

import re
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

from semivox.data.case import Dataset
from semivox.data.download import Arrays, Found, files_below, refuse_doubles, refuse_values, write_dataset
from semivox.data.fault import Fault, FaultError
from semivox.data.image import read_label, read_volume
from semivox.data.labels import LabelMap
from semivox.data.reference_box import NOTE, cut_around_label
from semivox.data.scans import natural_order
from semivox.data.volume import Grid, Volume
from semivox.parallel import Progress
from semivox.progress import say

LABELS = LabelMap(("background", "pancreas"), (0, 1))
DUPLICATES = ("0025", "0070")
SPACING_TOLERANCE = 0.01
"""Headers round voxel sizes; a label of another scan differs by more."""

PATIENT = re.compile(r"PANCREAS_(\d{4})")
LABEL = re.compile(r"label(\d{4})\.nii(\.gz)?")


def convert(
    source: Path, out: Path, progress: Progress | None = None, crop: Literal["none", "published"] = "none"
) -> Dataset:
    """The download below `source`, scans and labels, → a new data set at `out` in the nnU-Net v2 raw layout.

    Cases are called PANCREAS_0001, ...; all are training cases. `crop`: published cuts every scan around its
    reference. Says which scans are left out as duplicates, and which labels could not be confirmed to lie on their
    scan. Raises FaultError that names the file and the mend; then nothing is written.
    """
    source = Path(source)
    where = "Pancreas-CT/PANCREAS_0001/... and label0001.nii.gz, ..."
    files = files_below(source, "label*.nii*", where)
    labels = {match[1]: file for file in files if (match := LABEL.fullmatch(file.name))}
    found, left_out = [], []
    for folder in sorted(source.rglob("PANCREAS_*"), key=lambda folder: natural_order(str(folder))):
        match = PATIENT.fullmatch(folder.name)
        if match is None or not folder.is_dir():
            continue
        if match[1] in DUPLICATES:
            left_out.append(folder.name)
            continue
        if match[1] not in labels:
            mend = "put the unpacked labels below the same folder"
            raise FaultError(Fault(folder.name, folder, f"there is no label{match[1]}.nii.gz below {source}", mend))
        found.append(Found(folder.name, folder, labels[match[1]], "train"))
    if not found:
        raise FaultError(Fault("", source, "holds no folder PANCREAS_0001", f"name the folder that holds {where}"))
    refuse_doubles(found)
    elsewhere: list[str] = []
    is_cropped = crop == "published"
    dataset = write_dataset(
        out,
        "pancreas-ct",
        "CT",
        LABELS,
        found,
        partial(read_case, is_cropped=is_cropped, elsewhere=elsewhere),
        note=NOTE if is_cropped else "",
        is_cropped=is_cropped,
        progress=progress,
    )
    if left_out:
        say(f"left out as duplicates: {', '.join(left_out)}")
    if elsewhere:
        say(
            f"the labels of {', '.join(sorted(elsewhere))} have another place than their scan in their headers, so that"
            " nothing confirms that they are not mirrored; look at them in a viewer"
        )
    return dataset


def read_case(case: Found, is_cropped: bool, elsewhere: list[str]) -> Arrays:
    """The scan with its label turned to run as it does. Adds the case to `elsewhere` where their places differ.

    Raises FaultError where the label has another shape or voxel size than the scan.
    """
    assert case.label is not None
    image = read_volume(case.image)
    label = _turned(read_label(case.label), image.grid)
    refuse_values(case, label.array, LABELS)
    is_alike = np.allclose(image.grid.spacing_mm, label.grid.spacing_mm, rtol=SPACING_TOLERANCE)
    difference = image.grid.difference(label.grid)
    if difference and not (image.grid.shape == label.grid.shape and is_alike):
        what = f"label has {difference}, as in {case.image.name}"
        raise FaultError(Fault(case.id, case.label, what, "copy both again from their source"))
    if difference:
        elsewhere.append(case.id)
    arrays = Arrays(image.array[0], label.array, image.grid)
    return cut_around_label(case, arrays) if is_cropped else arrays


def _turned(label: Volume, grid: Grid) -> Volume:
    """The label with its axes in the order and direction of those of `grid`, where it is."""
    turn = ornt_transform(io_orientation(label.grid.affine), io_orientation(grid.affine))
    array = apply_orientation(label.array, turn)
    x, y, z = array.shape
    return Volume(array, Grid((x, y, z), label.grid.affine @ inv_ornt_aff(turn, label.grid.shape)))
