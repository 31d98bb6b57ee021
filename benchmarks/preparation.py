"""Preparing one scan of the left atrium's size, 0.625 → 0.8 mm: Semivox beside nnU-Net v2, MONAI and TorchIO.

`in memory` leaves files out: crop, z-score, resampling of image and label, for nnU-Net and Semivox with sampled places
of each class; `files to store` reads NIfTI and writes what training reads (MONAI: its PersistentDataset). `cubic` is
the default of nnU-Net and Semivox, `linear` that of MONAI and TorchIO, whose labels are nearest in both; Semivox's are
as nnU-Net's where it is cubic, whose values it must give, else nearest. The scan is made up. Median milliseconds of
processor time on one thread; each way has a process of its own, and they take turns.

    python -m benchmarks preparation
"""

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.turns import MODULES, Way, beside, peers_versions, take_turns
from semivox.data import nifti
from semivox.data.case import Case, Dataset
from semivox.data.image import read_classes, read_image
from semivox.data.labels import LabelMap
from semivox.data.layout import read_dataset, write_description
from semivox.data.volume import Grid
from semivox.preparation.prepare import prepare_image, prepare_label
from semivox.preparation.settings import Normalisation, Preparation
from semivox.preparation.store import make_store, sample_foreground

SHAPE = (190, 145, 88)
SPACING_MM = 0.625
TARGET_MM = 0.8
LABELS = LabelMap(("background", "bright"), (0, 1))
ORDERS = {"cubic": 3, "linear": 1}
WORKS = {
    "cubic, in memory": ("nnU-Net", "TorchIO", "MONAI"),
    "linear, in memory": ("TorchIO", "MONAI"),
    "cubic, files to store": ("nnU-Net",),
    "linear, files to store": ("MONAI",),
}
"""What is measured → the peers that can do it."""


def measure(rounds: int = 9) -> dict[str, Any]:
    """Median ms and ratios, and how far nnU-Net's values are from ours. Raises ValueError where they differ."""
    figures: dict[str, Any] = {"scan": "x".join(map(str, SHAPE))}
    with tempfile.TemporaryDirectory() as name:
        dataset = write_scan(Path(name) / "data")
        for work, peers in WORKS.items():
            folder = Path(name) / work
            folder.mkdir()
            taken = take_turns([way(work, who, dataset, folder) for who in ("Semivox", *peers)], rounds)
            figures[work] = beside({who: turns.median for who, turns in taken.items()}, peers)
            if work == "cubic, in memory" and "nnU-Net" in taken:
                figures[work] |= differences(folder)
    return figures | {"versions": peers_versions("nnunetv2", "monai", "torchio", "torch")}


def way(work: str, who: str, dataset: Dataset, folder: Path) -> Way:
    """How one of them does it; what is written goes into `folder`."""
    interpolation, what = work.split(", ")
    module = MODULES.get(who, __name__)
    (case,) = dataset
    arguments: dict[str, Any] = {"spacing_mm": TARGET_MM, "order": ORDERS[interpolation]}
    if who == "Semivox":
        arguments |= {"root": dataset.root}
    else:
        arguments |= {"image": case.images[0], "label": case.label}
    if what == "in memory":
        return Way(who, module, "in_memory", arguments, keep=folder / f"{who}.npz")
    return Way(who, module, "to_store", arguments | {"folder": folder / who})


def write_scan(folder: Path) -> Dataset:
    """A smooth bright body in a noisy field, uint8-like values as int16, and the label of its bright part."""
    rng = np.random.default_rng(0)
    field = gaussian_filter(rng.normal(size=SHAPE), 8)
    field /= field.std()
    values = np.clip(90 + 40 * field + 10 * rng.normal(size=SHAPE), 1, 255).astype(np.int16)
    grid = Grid(SHAPE, np.diag([-SPACING_MM, -SPACING_MM, SPACING_MM, 1]))
    case = Case("scan", (folder / "imagesTr" / "scan_0000.nii.gz",), folder / "labelsTr" / "scan.nii.gz")
    for path, array in ((case.images[0], values), (case.label, (field > 1.2).astype(np.uint8))):
        path.parent.mkdir(parents=True)
        nifti.write(path, array, grid)
    write_description(Dataset("scan", folder, ("image",), LABELS, (case,)))
    return read_dataset(folder)


def preparation(spacing_mm: float, order: int) -> Preparation:
    return Preparation(
        spacing_mm=(spacing_mm,) * 3, image_order=order, label_order=int(order == 3), normalisation=(Normalisation(),)
    )


def in_memory(root: str, spacing_mm: float, order: int) -> Callable[[], dict[str, np.ndarray]]:
    """Semivox's way for a case that has been read."""
    dataset = read_dataset(Path(root))
    (case,) = dataset
    volume, classes = read_image(case, dataset), read_classes(case, dataset).array
    plan = preparation(spacing_mm, order)

    def turn() -> dict[str, np.ndarray]:
        image, placement = prepare_image(volume, plan)
        label = prepare_label(classes, placement, plan)
        sample_foreground(label, case.id)
        return {"image": image, "label": label}

    return turn


def to_store(root: str, spacing_mm: float, order: int, folder: str) -> Callable[[], None]:
    """Semivox's way from files; each turn makes a store of its own."""
    dataset, plan = read_dataset(Path(root)), preparation(spacing_mm, order)
    folders = (Path(folder) / str(number) for number in count())
    return lambda: make_store(dataset, plan, next(folders)).make_labels()


def differences(folder: Path) -> dict[str, float]:
    """How far nnU-Net's image and label are from ours, which lie in RAS. Raises ValueError where they are not alike."""
    ours, theirs = (np.load(folder / f"{name}.npz") for name in ("Semivox", "nnU-Net"))
    expected = theirs["image"][:, ::-1, ::-1]
    image = float(np.abs(ours["image"] - expected).max() / np.abs(expected).max())
    label = float((ours["label"] != theirs["label"][::-1, ::-1]).mean())
    if image > 1e-5 or label > 1e-4:
        raise ValueError(
            f"nnU-Net's values are not ours: image {image:.1e} of the largest, label {label:.1e} of voxels"
        )
    return {"largest difference to nnU-Net's image": image, "share of the label's voxels that differ": label}
