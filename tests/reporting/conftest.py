"""A run folder made up from small arrays: ellipsoids in scans with oblique, anisotropic voxels."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from semivox.evaluation.evaluate import evaluate

SHAPE = (24, 20, 9)
HEADER = [
    *("step", "stage", "elapsed_s", "learning_rate", "samples_per_s", "loss", "loss/supervised", "loss/consistency"),
    *("pseudo/kept", "pseudo/agreement", "pseudo/share/background", "pseudo/share/liver", "pseudo/share/kidney"),
    "validation/dice",
]


def oblique_affine() -> np.ndarray:
    """Voxels of 2 × 2 × 5 mm, axes towards left, posterior, superior, turned by ten degrees about z."""
    angle = np.deg2rad(10)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-2.0, -2.0, 5.0])
    return affine


def ellipsoid(centre: Sequence[float], radii: Sequence[float], shape: Sequence[int] = SHAPE) -> np.ndarray:
    """A filled ellipsoid, bool (X, Y, Z), in voxels."""
    axes = np.meshgrid(*[np.arange(size) for size in shape], indexing="ij")
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True)) <= 1


def organs(shift: float, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Class indices (X, Y, Z) of two organs, moved along X by `shift` voxels."""
    classes = np.zeros(shape, np.uint8)
    classes[ellipsoid((8 + shift, 9, 4), (5, 6, 3), shape)] = 1
    classes[ellipsoid((17 + shift, 11, 4), (3, 4, 2.5), shape)] = 2
    return classes


@dataclass
class FakeRun:
    """Where the fabricated run and its data set lie, and what its config says."""

    folder: Path
    data: Path
    config: dict[str, Any]


def save_nifti(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, oblique_affine())
    nib.save(image, path)


def write_run(folder: Path, data: Path, method: str, test: Sequence[str], shifts: Sequence[float]) -> dict[str, Any]:
    """Writes a run whose prediction of test case i is the truth moved by shifts[i] voxels."""
    config = {
        "data": {"datasets": [str(data)], "unlabelled": None, "labelled": 2, "labels": None, "store": "stores"},
        "plan": {
            "preparation": {"crop": "body", "resample": "spacing", "spacing_mm": [2.0, 2.0, 5.0]},
            "patch": [24, 16, 8],
            "batch": {"labelled": 2, "unlabelled": 2},
            "network": {"name": "vnet", "settings": {}},
            "notes": ["The patch holds the whole body: scans are small."],
        },
        "method": {"name": method, "settings": {"decay": 0.99}},
        "training": {"iterations": 400, "selection": "last", "optimiser": "adamw"},
        "seed": 3,
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "environment.json").write_text(
        json.dumps(
            {"versions": {"python": "3.11"}, "hardware": {"cores": 2}, "data": {"image_sha256": {"a": "0f" * 32}}}
        )
    )
    (folder / "log.csv").write_text("\n".join(",".join(row) for row in [HEADER, *log_rows()]) + "\n")
    for shift, case in zip(shifts, test, strict=True):
        save_nifti(folder / "predictions" / f"{case}.nii.gz", organs(shift))
    evaluate(folder / "predictions", data, folder / "metrics.json", workers=1)
    return config


def log_rows(steps: int = 400, every: int = 10) -> list[list[str]]:
    rows = []
    for step in [*range(0, steps, every), steps - 1]:
        time = step / steps
        loss, consistency = np.exp(-3 * time), 0.1 * time
        values = [step / 4, 2e-3 * (1 - time) ** 0.9, 16.0, loss + consistency, loss, consistency]
        values += [0.5 + 0.4 * time, 0.6 + 0.3 * time, 0.9, 0.07, 0.03]
        validation = f"{0.8 * time:.3f}" if step % 100 == 0 else ""
        rows.append([str(step), "train", *(f"{value:.6g}" for value in values), validation])
    return rows


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., FakeRun]:
    """A function that fabricates a data set and a run of it.

    shifts: how far each test case's prediction is off; scored: how many of them have a reference; baseline: the
    labelled-only run's shifts, None for no such run; names and domains of the test cases.
    """

    def make(
        shifts: Sequence[float] = (0, 1, 2, 3, 5),
        *,
        scored: int | None = None,
        baseline: Sequence[float] | None = None,
        names: Sequence[str] | None = None,
        domains: Sequence[str] = ("default",),
        method: str = "mean_teacher",
    ) -> FakeRun:
        names = names or [f"test_{index}" for index in range(len(shifts))]
        test = {name: domains[index % len(domains)] for index, name in enumerate(names)}
        scored = len(shifts) if scored is None else scored
        data = tmp_path / "organs"
        generator = np.random.default_rng(0)
        train = [f"train_{index}" for index in range(5)]
        for name in [*train, *test]:
            part = "Tr" if name in train else "Ts"
            scan = 100 * organs(0) + generator.normal(50, 10, SHAPE)
            save_nifti(data / f"images{part}" / f"{name}_0000.nii.gz", scan.astype(np.float32))
        for name in [*train[:4], *names[:scored]]:
            save_nifti(data / f"labels{'Tr' if name in train else 'Ts'}" / f"{name}.nii.gz", organs(0))
        description = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "liver": 1, "kidney": 2}}
        (data / "dataset.json").write_text(json.dumps({**description, "numTraining": 4, "file_ending": ".nii.gz"}))
        rows = [f"{name},train,{domains[0]}" for name in train] + [f"{name},test,{test[name]}" for name in names]
        (data / "cases.csv").write_text("\n".join(["case,split,domain", *rows]) + "\n")
        folder = tmp_path / "runs" / "mt2"
        config = write_run(folder, data, method, names, shifts)
        if baseline is not None:
            write_run(folder / "baseline", data, "supervised", names, baseline)
        return FakeRun(folder, data, config)

    return make
