"""A small made-up data set in which all that matters of a real one occurs, and nothing of any patient.

A body holds a liver, a kidney and a vessel that vary in place, size and contrast, a spine as bright as the vessel, and
nodules as bright as the organs, so that intensity alone does not tell them. Two scanners see it: `scanner_b` has
another contrast, a stronger bias field, more noise, other voxels and other axis directions. Most training cases have
no label, and few of those that have one come from `scanner_b`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from semivox.atomic import atomic_folder
from semivox.data import nifti, picture
from semivox.data.case import Case, Dataset, Split
from semivox.data.labels import LabelMap
from semivox.data.layout import read_dataset, write_description
from semivox.data.volume import Grid
from semivox.errors import SettingError

LABELS = LabelMap(names=("background", "liver", "kidney", "vessel"), values=(0, 1, 2, 3))

FAT, LIVER, KIDNEY, VESSEL = 1, 2, 3, 4
"""Rows of a scanner's contrast table; 0 is air."""


@dataclass(frozen=True)
class Scanner:
    """How a scanner shows the body: what makes a domain."""

    name: str
    field_of_view_mm: tuple[float, float, float]
    axes: tuple[int, int, int]
    """Direction of each voxel axis in RAS: 1 or -1."""
    brightness: tuple[float, float, float, float, float]
    """Of air, fat, liver, kidney and vessel, between 0 and 1."""
    bias: float
    """Largest relative change of brightness over the field of view."""
    noise: float
    blur_voxels: float
    gain: float
    """Of brightness 1 in the file; scanners have units of their own."""


SCANNERS = (
    Scanner("scanner_a", (96.0, 96.0, 80.0), (1, 1, 1), (0.0, 0.35, 0.55, 0.70, 0.85), 0.1, 0.04, 0.5, 1000.0),
    Scanner("scanner_b", (88.0, 88.0, 90.0), (-1, -1, 1), (0.05, 0.30, 0.42, 0.75, 0.62), 0.3, 0.06, 0.8, 350.0),
)


def write_phantom(
    folder: Path,
    cases: int = 16,
    labelled: int = 4,
    validation: int = 0,
    test: int = 4,
    size: Sequence[int] | None = None,
    dimensions: int = 3,
    seed: int = 0,
) -> Dataset:
    """Writes a phantom data set in the nnU-Net v2 raw layout with `cases.csv` and returns it.

    `cases` training cases alternate between the scanners; `labelled` of them have a label file, every fourth of these
    from the second scanner. Further `validation` and `test` cases all have labels. `size` is the number of voxels along
    X, Y, Z (default 48, 48, 32), or with `dimensions=2` the columns and rows of 8-bit PNG pictures (default 96, 96).
    The same settings give the same voxels, and a case does not depend on how many others there are.

    Raises SettingError where a setting is impossible and where `folder` already holds files.
    """
    if dimensions not in (2, 3):
        raise SettingError(f"phantom: dimensions is {dimensions}; give 2 or 3")
    size = tuple(size or ((48, 48, 32) if dimensions == 3 else (96, 96)))
    if len(size) != dimensions or min(size) < 8:
        raise SettingError(f"phantom: size is {list(size)}; give {dimensions} numbers of at least 8")
    if min(cases, labelled, validation, test) < 0 or labelled > cases:
        raise SettingError(
            f"phantom: {labelled} labelled of {cases} cases, {validation} for validation, {test} for test;"
            " give counts that are not negative and at most as many labelled as cases"
        )
    if cases + validation + test == 0:
        raise SettingError("phantom: all counts are 0; ask for at least one case")
    has_label = _labelled_indices(cases, labelled)
    with atomic_folder(Path(folder)) as root:
        written = []
        for index in range(cases + validation + test):
            split: Split = "train" if index < cases else "val" if index < cases + validation else "test"
            keep_label = index in has_label or index >= cases
            written.append(_write_case(root, index, split, size, keep_label, seed))
        ending = ".png" if dimensions == 2 else ".nii.gz"
        write_description(Dataset("phantom", root, ("phantom",), LABELS, tuple(written), file_ending=ending))
    return read_dataset(Path(folder))


def _labelled_indices(cases: int, labelled: int) -> set[int]:
    """Training cases that keep a label: the first of each scanner, three of the first to one of the second."""
    first, second = range(0, cases, 2), range(1, cases, 2)
    from_second = min(labelled // 4, len(second))
    from_first = min(labelled - from_second, len(first))
    return {*first[:from_first], *second[: labelled - from_first]}


def _write_case(root: Path, index: int, split: Split, size: Sequence[int], keep_label: bool, seed: int) -> Case:
    scanner = SCANNERS[index % 2]
    name = f"phantom_{index:03d}"
    rng = np.random.default_rng([seed, index])
    suffix = "Ts" if split == "test" else "Tr"
    ending = ".png" if len(size) == 2 else ".nii.gz"
    image_path = root / f"images{suffix}" / f"{name}_0000{ending}"
    label_path = root / f"labels{suffix}" / f"{name}{ending}"

    affine = _affine(scanner, size, rng)
    shape = (*size, 1) if len(size) == 2 else tuple(size)
    indices = np.indices(shape).reshape(3, -1)
    points_mm = (affine[:3, :3] @ indices + affine[:3, 3:]).reshape(3, *shape).astype(np.float32)
    tissue, label = _anatomy(points_mm, rng)
    image = _acquire(tissue, points_mm, scanner, rng)
    if len(size) == 2:
        picture.write(image_path, np.clip(image * 230, 0, 255).astype(np.uint8))
    else:
        nifti.write(image_path, np.round(image * scanner.gain).astype(np.int16), Grid(label.shape, affine))
    if not keep_label:
        return Case(name, (image_path,), None, scanner.name, split=split)
    if len(size) == 2:
        picture.write(label_path, label)
    else:
        nifti.write(label_path, label, Grid(label.shape, affine))
    return Case(name, (image_path,), label_path, scanner.name, split=split)


def _affine(scanner: Scanner, size: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Voxel index → mm in RAS, the body's centre within a few mm of the middle. A picture shows the slice z = 0."""
    shift_mm = rng.uniform(-3, 3, 3)
    affine = np.eye(4)
    for axis, count in enumerate(size):
        step_mm = scanner.field_of_view_mm[axis] / count * (scanner.axes[axis] if len(size) == 3 else 1)
        affine[axis, axis] = step_mm
        affine[axis, 3] = shift_mm[axis] - step_mm * (count - 1) / 2
    return affine


def _anatomy(points_mm: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One body at `points_mm` (3, X, Y, Z) → tissue (row of the contrast table) and label, both (X, Y, Z) uint8."""
    x, y, z = points_mm
    scale = rng.uniform(0.92, 1.08)
    # Waves bend all borders, so that organs are no exact ellipsoids.
    phase = rng.uniform(0, 2 * np.pi, 3)
    x = x / scale + 2.0 * np.sin(y / 9 + phase[0])
    y = y / scale + 2.0 * np.sin(z / 11 + phase[1])
    z = z / scale + 2.0 * np.sin(x / 10 + phase[2])

    def ellipsoid(centre: Sequence[float], radii: Sequence[float], jitter_mm: float) -> np.ndarray:
        (cx, cy, cz), (rx, ry, rz) = rng.normal(centre, jitter_mm), np.multiply(radii, rng.uniform(0.85, 1.15, 3))
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 < 1

    body = (x / 40) ** 2 + (y / 32) ** 2 < 1
    nodules = [
        (ellipsoid(centre, (5, 5, 6), 3), rng.choice((LIVER, KIDNEY, VESSEL)))
        for centre in ((-20, 17, 10), (20, 16, -18), (-16, -16, -24), (24, -10, 26), (0, 20, 0))
    ]
    spine = ellipsoid((0, -22, 0), (7, 6, 200), 1)
    liver = ellipsoid((17, 4, 4), (14, 15, 20), 1.5)
    kidney = ellipsoid((-20, -5, 0), (9, 10, 15), 1.5)
    sway = rng.uniform(2, 5) * np.sin(z / rng.uniform(12, 20) + rng.uniform(0, 2 * np.pi))
    vessel = (x + 3 - sway + rng.normal(0, 1)) ** 2 + (y + 6 + sway / 2 + rng.normal(0, 1)) ** 2 < rng.uniform(
        4, 5.5
    ) ** 2

    tissue, label = np.zeros(body.shape, np.uint8), np.zeros(body.shape, np.uint8)
    tissue[body] = FAT
    for nodule, kind in nodules:
        tissue[nodule & body] = kind
    tissue[spine & body] = VESSEL
    for value, (organ, kind) in enumerate(((liver, LIVER), (kidney, KIDNEY), (vessel, VESSEL)), start=1):
        tissue[organ & body] = kind
        label[organ & body] = value
    return tissue, label


def _acquire(tissue: np.ndarray, points_mm: np.ndarray, scanner: Scanner, rng: np.random.Generator) -> np.ndarray:
    """The body as `scanner` shows it: float (X, Y, Z), brightness about 0 to 1."""
    brightness = np.asarray(scanner.brightness) + np.concatenate([[0.0], rng.normal(0, 0.02, 4)])
    image = brightness[tissue]
    texture = ndimage.gaussian_filter(rng.normal(size=image.shape), 2.0)
    image += 0.03 * texture / texture.std() * (tissue > 0)
    image = ndimage.gaussian_filter(image, [scanner.blur_voxels if n > 1 else 0 for n in image.shape])
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    image *= 1 + scanner.bias * np.tensordot(direction, points_mm, 1) / 50
    # Magnitude images hold Rician noise: never below zero.
    real, imaginary = rng.normal(0, scanner.noise, (2, *image.shape))
    return rng.uniform(0.85, 1.15) * np.hypot(image + real, imaginary)
