"""The h5 files in which the field's papers share two sets, with the lists that fix their splits.

    left atrium (UA-MT)   train.list, test.list: case names    CASE/mri_norm2.h5: image, label (x, y, z)
    ACDC (SSL4MIS)        train_slices.list, val.list, test.list    data/patient001_frame01.h5: image, label (z, y, x)
                          data/slices/patient001_frame01_slice_1.h5: image, label (y, x)

These files hold neither spacing nor orientation. So one voxel is written as 1 mm, and axes as left, posterior, superior
(which they are, as far as the anatomy shows): distances "in mm" are then in voxels, as the papers give them, and a
plan must not resample to millimetres. A file README.txt beside the converted scans says so.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semivox.atomic import atomic_folder, atomic_write_text
from semivox.data import nifti
from semivox.data.case import Case, Dataset, Split
from semivox.data.fault import Fault, FaultError
from semivox.data.labels import LabelMap
from semivox.data.layout import read_dataset, write_description
from semivox.data.names import safe_id
from semivox.data.scans import natural_order
from semivox.data.volume import Grid
from semivox.errors import missing_extra
from semivox.parallel import Progress, run_all

UNIT_GRID = np.diag([-1.0, -1.0, 1.0, 1.0])

NOTE = """The scans were converted from h5 files, which hold neither spacing nor orientation. One voxel was written as
1 mm and the axes as left, posterior, superior. Distances "in mm" are therefore in voxels.
"""


@dataclass(frozen=True)
class Layout:
    """How one of the sets lies on disk."""

    name: str
    channel: str
    labels: LabelMap
    pattern: str
    """Glob of the volumes below the source."""
    lists: tuple[tuple[str, Split], ...]
    axes: tuple[int, int, int]
    """Order of the file's axes that makes X, Y, Z."""


ATRIUM = Layout(
    "left atrium",
    "LGE-MRI",
    LabelMap(("background", "left_atrium"), (0, 1)),
    "*/mri_norm2.h5",
    (("train.list", "train"), ("val.list", "val"), ("test.list", "test")),
    (0, 1, 2),
)
ACDC = Layout(
    "ACDC",
    "cine-MRI",
    LabelMap(("background", "RV", "MYO", "LV"), (0, 1, 2, 3)),
    "patient*_frame*.h5",
    (("train_slices.list", "train"), ("val.list", "val"), ("test.list", "test")),
    (2, 1, 0),
)

SLICE = re.compile(r"(.+)_slice_(\d+)")
PATIENT = re.compile(r"(patient\d+)_frame\d+")


def convert(source: Path, out: Path, progress: Progress | None = None) -> Dataset:
    """The h5 set below `source` → a new data set at `out` in the nnU-Net v2 raw layout, and returns it.

    Which set it is follows from its file names. Cases keep the order of the published lists; without any list every
    case is a training case. Where only slices of a volume are there, they are stacked. Spacing is 1 mm, see above.

    Raises SettingError without h5py; FaultError that names the file and the mend, and then nothing is written.
    """
    source = Path(source)
    layout, volumes = _find(source)
    order = _order(source, layout, volumes)
    with atomic_folder(Path(out)) as root:
        cases = run_all(
            lambda name: _write_case(root, name, order[name], volumes[name], layout), list(order), progress=progress
        )
        write_description(Dataset(layout.name, root, (layout.channel,), layout.labels, tuple(cases)))
        atomic_write_text(root / "README.txt", NOTE)
    return read_dataset(Path(out))


def _find(source: Path) -> tuple[Layout, dict[str, list[Path]]]:
    """The set that lies below `source`, and per case its volume, or its slices in order."""
    if not source.is_dir():
        raise FaultError(Fault("", source, "there is no such folder", "name the folder that holds the .list files"))
    atrium = {file.parent.name: [file] for file in sorted(source.rglob(ATRIUM.pattern))}
    if atrium:
        return ATRIUM, atrium
    found: dict[str, list[Path]] = {}
    slices: dict[str, list[Path]] = {}
    for file in sorted(source.rglob(ACDC.pattern), key=lambda file: natural_order(file.name)):
        part = SLICE.fullmatch(file.stem)
        (slices if part else found).setdefault(part[1] if part else file.stem, []).append(file)
    for name in slices.keys() - found.keys():
        numbers = [int(file.stem.rpartition("_")[2]) for file in slices[name]]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            what = f"slices {numbers} of {name} are not consecutive"
            raise FaultError(Fault("", slices[name][0].parent, what, "copy the missing or remove the doubled slices"))
        found[name] = slices[name]
    for name, files in found.items():
        if len(files) > 1 and name not in slices:
            raise FaultError(Fault("", files[1], f"is there twice, also as {files[0]}", "remove one of them"))
    if not found:
        what = f"holds no {ATRIUM.pattern} (left atrium) and no {ACDC.pattern} (ACDC)"
        raise FaultError(Fault("", source, what, "name the folder that holds the .list files and the h5 files"))
    return ACDC, found


def _order(source: Path, layout: Layout, volumes: dict[str, list[Path]]) -> dict[str, Split]:
    """Case → split, in the order of the lists."""
    order: dict[str, Split] = {}
    for name, split in layout.lists:
        file = source / name
        if not file.is_file():
            continue
        for line in file.read_text(encoding="utf-8").split("\n"):
            entry = line.strip().removesuffix(".h5")
            part = SLICE.fullmatch(entry)
            case = part[1] if part else entry
            if not case:
                continue
            if case not in volumes:
                mend = "copy its h5 file into the folder, or remove the line"
                raise FaultError(Fault("", file, f"lists '{case[:80]}', of which there is no h5 file", mend))
            if order.setdefault(case, split) != split:
                raise FaultError(Fault(case, file, f"is listed under {order[case]} too", "list it once"))
    if not order:
        return dict.fromkeys(sorted(volumes, key=natural_order), "train")
    missing = sorted(volumes.keys() - order.keys(), key=natural_order)
    if missing:
        lists = ", ".join(name for name, _ in layout.lists)
        what = f"is in none of the lists ({lists} in {source})"
        raise FaultError(Fault(missing[0], volumes[missing[0]][0], what, "add it to one of them, or remove the file"))
    return order


def _write_case(root: Path, name: str, split: Split, files: list[Path], layout: Layout) -> Case:
    arrays = _read(files, layout)
    suffix = "Ts" if split == "test" else "Tr"
    case_id = safe_id(name)
    image = root / f"images{suffix}" / f"{case_id}_0000.nii.gz"
    label = root / f"labels{suffix}" / f"{case_id}.nii.gz" if "label" in arrays else None
    grid = Grid(arrays["image"].shape, UNIT_GRID)
    nifti.write(image, arrays["image"], grid)
    if label:
        nifti.write(label, arrays["label"], grid)
    patient = PATIENT.fullmatch(name)
    return Case(case_id, (image,), label, split=split, group=patient[1] if patient else "")


def _read(files: list[Path], layout: Layout) -> dict[str, np.ndarray]:
    """`image` float32 and, if there, `label` uint8, both (X, Y, Z)."""
    parts = [_read_file(file) for file in files]
    if any({k: v.shape for k, v in part.items()} != {k: v.shape for k, v in parts[0].items()} for part in parts):
        raise FaultError(Fault("", files[0], "differs from the other slices in shape", "copy the slices again"))
    is_sliced = SLICE.fullmatch(files[0].stem) is not None
    arrays = {}
    for key in parts[0]:
        array = np.stack([part[key] for part in parts]) if is_sliced else parts[0][key]
        if array.ndim != 3:
            what = f"`{key}` has {array.ndim} axes where 3 are due"
            raise FaultError(Fault("", files[0], what, "copy the file again from its source"))
        arrays[key] = np.ascontiguousarray(array.transpose(layout.axes))
    if "label" in arrays and arrays["label"].shape != arrays["image"].shape:
        what = f"image {arrays['image'].shape} and label {arrays['label'].shape} differ in shape"
        raise FaultError(Fault("", files[0], what, "copy the file again from its source"))
    return arrays


def _read_file(file: Path) -> dict[str, np.ndarray]:
    try:
        import h5py
    except ImportError:
        raise missing_extra("h5py", "h5") from None
    try:
        with h5py.File(file, "r") as opened:
            arrays = {key: _dataset(opened, key, h5py) for key in ("image", "label") if key in opened}
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        what = f"cannot be read as h5 ({' '.join(str(error).split())[:160]})"
        raise FaultError(Fault("", file, what, "copy it again from its source")) from None
    if "image" not in arrays:
        raise FaultError(Fault("", file, "holds no `image`", "copy it again from its source"))
    arrays["image"] = arrays["image"].astype(np.float32)
    if "label" in arrays:
        arrays["label"] = _whole(file, arrays["label"])
    return arrays


def _dataset(opened: Any, key: str, h5py: Any) -> np.ndarray:
    """One array of the file itself: h5 can also point to any other file of the machine."""
    if not isinstance(opened.get(key, getlink=True), h5py.HardLink):
        raise ValueError(f"`{key}` is a link")
    dataset = opened[key]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iuf":
        raise ValueError(f"`{key}` is no array of numbers")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"`{key}` lies in another file")
    return dataset[()]


def _whole(file: Path, label: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        whole = label.astype(np.uint8)
    if not np.array_equal(whole, label):
        raise FaultError(Fault("", file, "label holds other values than 0 .. 255", "copy it again from its source"))
    return whole
