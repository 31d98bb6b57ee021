"""Store to training-ready batch, views included, against the usual way of the field's code.

The usual way keeps one gzip-compressed HDF5 file per scan, reads all of it for every sample, and crops, turns, flips,
rotates and adds noise with NumPy and SciPy, sample by sample. Both make the mean teacher's batch of 2 + 2 patches of
112x112x80 from the same scans of the size of the left atrium set: labelled and unlabelled weak views, labels, and the
noisy view. `literature` has the literature's weak view (quarter turns and flips); `rotated` adds to that a rotation and
scale for one patch in three, linear for the image and nearest for the label.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy import ndimage

from semivox.data.case import Dataset
from semivox.data.phantom import write_phantom
from semivox.planning.demand import Views
from semivox.planning.plan import Plan
from semivox.preparation.settings import Normalisation, Preparation
from semivox.preparation.store import Store, make_store
from semivox.sampling.geometry import WeakSettings
from semivox.sampling.loader import PatchLoader
from semivox.sampling.views import ViewSettings, make_batch

SCAN, PATCH = (193, 143, 88), (112, 112, 80)
"""The median size of the left atrium set's published crops, and the patch that its papers use."""
VIEWS = Views(labelled=("weak",), unlabelled=("weak", "noisy"))
ROTATION_DEG, SCALE = 20.0, (0.8, 1.25)
SHARES = {"literature": 0.0, "rotated": 1 / 3}
"""Name of the comparison → share of patches that are rotated and scaled."""


def measure(steps: int = 10, rounds: int = 3) -> dict[str, dict[str, float]]:
    """Patches per second of both ways and their ratio, best of `rounds` of `steps` batches in turn, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _measure(Path(folder), steps, rounds)
    finally:
        torch.set_num_threads(threads)


def _measure(folder: Path, steps: int, rounds: int) -> dict[str, dict[str, float]]:
    dataset = write_phantom(folder / "phantom", cases=6, labelled=3, test=0, size=SCAN)
    preparation = Preparation(crop="none", resample="none", normalisation=(Normalisation(),))
    store = make_store(dataset, preparation, folder / "store")
    _write_h5(dataset, store, folder)
    plan = Plan(preparation=preparation, patch=PATCH)

    results = {}
    for name, share in SHARES.items():
        weak = WeakSettings(turn_probability=0.75, affine_probability=share, rotation_deg=ROTATION_DEG, scale=SCALE)
        settings = ViewSettings(weak=weak)
        loader = PatchLoader(store, dataset, plan, VIEWS, seed=0, settings=settings)
        random = np.random.default_rng(0)

        def ours(step: int, loader: PatchLoader = loader, settings: ViewSettings = settings) -> None:
            make_batch(loader[step], VIEWS, "cpu", settings)

        def usual(step: int, share: float = share, random: np.random.Generator = random) -> None:
            usual_batch(dataset, folder, share, random)

        patches = plan.batch.labelled + plan.batch.unlabelled
        speeds = {"semivox": 0.0, "usual": 0.0}
        for round_ in range(rounds):
            for way, function in (("semivox", ours), ("usual", usual)):
                seconds = _time(function, round_ * steps, steps)
                speeds[way] = max(speeds[way], patches * steps / seconds)
        results[name] = {
            "semivox_patches_per_s": speeds["semivox"],
            "usual_patches_per_s": speeds["usual"],
            "ratio": speeds["semivox"] / speeds["usual"],
        }
    return results


def _time(function: Callable[[int], None], first: int, steps: int) -> float:
    start = time.perf_counter()
    for step in range(first, first + steps):
        function(step)
    return time.perf_counter() - start


def _write_h5(dataset: Dataset, store: Store, folder: Path) -> None:
    for case in dataset.split("train"):
        with h5py.File(folder / f"{case.id}.h5", "w") as file:
            file.create_dataset("image", data=store.image(case.id)[0], compression="gzip")
            label = np.zeros(SCAN, np.uint8) if case.label is None else store.label(case.id)
            file.create_dataset("label", data=label, compression="gzip")


def usual_batch(dataset: Dataset, folder: Path, rotated: float, random: np.random.Generator) -> tuple:
    """Images and labels of 2 + 2 samples, and the noisy images of the last two."""
    pools = (dataset.labelled(), dataset.unlabelled())
    cases = [pool[random.integers(len(pool))] for pool in pools for _ in range(2)]
    pairs = [usual_sample(folder / f"{case.id}.h5", rotated, random) for case in cases]
    images = torch.stack([torch.from_numpy(image.astype(np.float32))[None] for image, _ in pairs])
    labels = torch.stack([torch.from_numpy(label.astype(np.int64)) for _, label in pairs])
    noisy = images[2:] + torch.clamp(torch.randn_like(images[2:]) * 0.1, -0.2, 0.2)
    return images, labels, noisy


def usual_sample(path: Path, rotated: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One sample the usual way: the whole scan is read, then cropped, rotated, turned and flipped."""
    with h5py.File(path, "r") as file:
        image, label = file["image"][:], file["label"][:]
    corner = [random.integers(0, size - side + 1) for size, side in zip(SCAN, PATCH, strict=True)]
    box = tuple(slice(start, start + side) for start, side in zip(corner, PATCH, strict=True))
    image, label = image[box], label[box]
    if random.random() < rotated:
        matrix = _rotation(random) / np.exp(random.uniform(*np.log(SCALE)))
        centre = (np.array(PATCH) - 1) / 2
        offset = centre - matrix @ centre
        image = ndimage.affine_transform(image, matrix, offset, order=1)
        label = ndimage.affine_transform(label, matrix, offset, order=0)
    turns, axis = random.integers(0, 4), random.integers(0, 2)
    image, label = (np.flip(np.rot90(array, int(turns)), int(axis)).copy() for array in (image, label))
    return image, label


def _rotation(random: np.random.Generator) -> np.ndarray:
    """(3, 3), about one of the axes."""
    first, second = sorted(random.permutation(3)[:2])
    angle = np.deg2rad(random.uniform(-1, 1) * ROTATION_DEG)
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


if __name__ == "__main__":
    for name, figures in measure().items():
        print(name, {key: round(value, 2) for key, value in figures.items()})
