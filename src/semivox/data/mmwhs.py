"""MM-WHS 2017, "Multi-Modality Whole Heart Segmentation": 20 CT and 20 MR scans of other patients, seven structures.

    ct_train/ct_train_1001_image.nii.gz, ct_train_1001_label.nii.gz    mr_train/mr_train_1001_image.nii.gz, ...
    ct_test/ct_test_2001_image.nii.gz                                  40 + 40 scans whose labels are not public

Each modality is a domain. Folders may be called anything; files may be .nii.
"""

import re
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from semivox.data.case import Dataset, Split
from semivox.data.download import Arrays, Found, files_below, read_files, refuse_doubles, refuse_values, write_dataset
from semivox.data.fault import Fault, FaultError
from semivox.data.labels import LabelMap
from semivox.data.reference_box import cut_out, extent
from semivox.data.volume import Grid
from semivox.parallel import Progress

LABELS = LabelMap(("background", "MYO", "LAC", "LVC", "RAC", "RVC", "AA", "PA"), (0, 205, 420, 500, 550, 600, 820, 850))
SLIP = 421
"""A value that some voxels of the download have and nobody documents; they count as background, as in A&D's code."""

FILE = re.compile(r"(ct|mr)_(train|test)_(\d+)_image\.nii(\.gz)?")

KEPT = (205, 420, 500, 820)
"""The structures of the published domain adaptation protocol, around which it cuts."""
MARGIN = 4
STRAYS: dict[str, tuple[tuple[int, slice], ...]] = {
    "mr_train_1002": ((2, slice(0, 4)), (1, slice(-10, -1)), (0, slice(0, 4))),
}
"""Case → (axis, voxels) along left, posterior, superior whose label published code takes for strays and clears."""

WHOLE = """The value 421 of some label voxels was written as background.
"""
CUT = """Every scan was cut to the box of its reference label (MYO, LAC, LVC, AA) with a margin of 4 voxels, the upper
end exclusive, as published: figures suppose somebody who finds the heart first. Stray labels of mr_train_1002 were
cleared before. Scans without a label were left out.
"""


def convert(
    source: Path, out: Path, progress: Progress | None = None, crop: Literal["none", "published"] = "none"
) -> Dataset:
    """The download below `source` → a new data set at `out` in the nnU-Net v2 raw layout, and returns it.

    Domains are CT and MR; cases are called as their files, ct_train_1001, ... `crop`: published cuts every scan around
    its reference, test scans too. Raises FaultError that names the file and the mend; then nothing is written.
    """
    images = files_below(Path(source), "*_image.nii*", "ct_train_1001_image.nii.gz, mr_train_1001_image.nii.gz, ...")
    found = [_case(file, match) for file in images if (match := FILE.fullmatch(file.name))]
    if not found:
        what = (
            f"holds {images[0].name} and no file of the name ct_train_1001_image.nii.gz or mr_train_1001_image.nii.gz"
        )
        raise FaultError(Fault("", Path(source), what, "name the folder of the unpacked download"))
    refuse_doubles(found)
    is_cropped = crop == "published"
    if is_cropped:
        found = [case for case in found if case.label is not None]
    return write_dataset(
        out,
        "mmwhs",
        "intensity",
        LABELS,
        found,
        read_cropped if is_cropped else read_whole,
        note=CUT + WHOLE if is_cropped else WHOLE,
        is_cropped=is_cropped,
        progress=progress,
    )


def _case(image: Path, match: re.Match[str]) -> Found:
    modality, part, number = match[1], match[2], match[3]
    name = f"{modality}_{part}_{number}"
    folders = (image.parent, image.parent.parent / "labelsTr")
    files = [folder / f"{name}_label{ending}" for folder in folders for ending in (".nii.gz", ".nii")]
    label = next((file for file in files if file.is_file()), None)
    if part == "train" and label is None:
        raise FaultError(Fault(name, image, f"has no {name}_label.nii.gz beside it", "copy the label too"))
    split: Split = "train" if part == "train" else "test"
    return Found(name, image, label, split, domain=modality.upper())


def read_whole(case: Found) -> Arrays:
    """The case as it is, but for the slip in its label's values."""
    arrays = read_files(case)
    if arrays.label is None:
        return arrays
    label = np.where(arrays.label == SLIP, 0, arrays.label).astype(np.uint16)
    refuse_values(case, label, LABELS)
    return Arrays(arrays.image, label, arrays.grid)


def read_cropped(case: Found) -> Arrays:
    """The case cut to the box of the published structures, its axes turned to left, posterior, superior: the box is
    not symmetric, so that it matters which end is the upper one."""
    whole = read_whole(case)
    assert whole.label is not None
    turn = ornt_transform(io_orientation(whole.grid.affine), axcodes2ornt("LPS"))
    image, label = (apply_orientation(array, turn) for array in (whole.image, whole.label))
    label = label.copy()
    for axis, voxels in STRAYS.get(case.id, ()):
        label[(*[slice(None)] * axis, voxels)] = 0
    held = extent(np.isin(label, KEPT))
    if held is None:
        wanted = ", ".join(map(str, KEPT))
        raise FaultError(Fault(case.id, case.label, f"label holds none of {wanted}", "copy it again from its source"))
    # As published the upper end is not in the box any more, so that above there is a voxel less than below.
    box = [
        slice(max(side.start - MARGIN, 0), min(side.stop - 1 + MARGIN, length))
        for side, length in zip(held, label.shape, strict=True)
    ]
    x, y, z = image.shape
    turned = Grid((x, y, z), whole.grid.affine @ inv_ornt_aff(turn, whole.grid.shape))
    return cut_out(Arrays(image, label, turned), box)
