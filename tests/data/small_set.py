"""A small clean data set, and the ways to spoil its files."""

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (12, 10, 8)
AFFINE = np.array([[-0.8, 0.1, 0.0, 40.0], [0.1, 0.8, 0.0, -30.0], [0.0, 0.0, 2.0, 5.0], [0.0, 0.0, 0.0, 1.0]])


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    """Writes an array as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine, dtype=array.dtype), path)


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, SHAPE).astype(np.int16)


def box_label() -> np.ndarray:
    """Classes 1 and 2 in two boxes."""
    label = np.zeros(SHAPE, np.uint8)
    label[2:6, 2:6, 2:6] = 1
    label[6:9, 2:6, 2:6] = 2
    return label


def write_small_set(root: Path, channels: int = 1, **entries: Any) -> Path:
    """Three labelled training cases, an unlabelled one and two test cases; `entries` replace those of dataset.json."""
    seed = 0
    for folder, cases in (("Tr", ("a1", "a2", "a3", "a10")), ("Ts", ("t1", "t2"))):
        for case in cases:
            for channel in range(channels):
                save_nifti(root / f"images{folder}" / f"{case}_{channel:04}.nii.gz", scan(seed := seed + 1))
            if case != "a10":
                save_nifti(root / f"labels{folder}" / f"{case}.nii.gz", box_label())
    content = {
        "name": root.name,
        "channel_names": {str(channel): f"MRI {channel}" for channel in range(channels)},
        "labels": {"background": 0, "left": 1, "right": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content | entries))
    return root


def set_scaling(path: Path, slope: float, inter: float) -> None:
    """Changes scl_slope and scl_inter of a .nii.gz in place: nibabel itself would change the voxels to fit."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[112:120] = struct.pack("<2f", slope, inter)
    path.write_bytes(gzip.compress(bytes(content)))
