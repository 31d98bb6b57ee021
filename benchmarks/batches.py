"""Store to training-ready batch, views included: Semivox beside the field's usual way, MONAI, TorchIO and nnU-Net v2.

All make batches of 2 + 2 patches of 112x112x80 from the same prepared scans of the size of the left atrium set.
`turned` has the literature's weak view (quarter turns and flips), `rotated` adds to that a rotation and scale for one
patch in three, linear for the image and nearest for the label; the unlabelled two come with a noisy view besides.
`h5`, the usual way, keeps a gzip-compressed HDF5 file per scan, reads all of it for every sample, and does the rest
with NumPy and SciPy. MONAI crops from its CacheDataset, all scans in memory. TorchIO's Queue reads a scan for ten
patches, which share their rotation and flips, for TorchIO moves scans as they are read; it has no quarter turns.
nnU-Net's data loader reads its compressed files; all its four patches are labelled, none has a second view. `strong`
is its own augmentation, in place of which Semivox makes FixMatch's views: weak for all, strong for the unlabelled two
besides. Median processor time of a batch on one thread; each way has a process of its own, and they take turns.

    python -m benchmarks batches
"""

import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from scipy import ndimage

from benchmarks.peers import NOISE, ROTATION_DEG, SCALE
from benchmarks.turns import MODULES, Way, beside, peers_versions, take_turns
from semivox.data import nifti
from semivox.data.case import Dataset
from semivox.data.layout import read_dataset
from semivox.data.phantom import write_phantom
from semivox.data.volume import Grid
from semivox.planning.demand import Views
from semivox.planning.plan import Plan
from semivox.preparation.settings import Normalisation, Preparation
from semivox.preparation.store import Store, make_store
from semivox.sampling.geometry import WeakSettings
from semivox.sampling.loader import PatchLoader
from semivox.sampling.views import ViewSettings, make_batch

SCAN, PATCH = (193, 143, 88), (112, 112, 80)
"""The median size of the left atrium set's published crops, and the patch that its papers use."""
PREPARATION = Preparation(crop="none", resample="none", normalisation=(Normalisation(),))
ROTATED_SHARES = {"turned": 0.0, "rotated": 1 / 3, "strong": 1 / 3}
SECOND_VIEWS = {"turned": "noisy", "rotated": "noisy", "strong": "strong"}
PEERS = {
    "turned": ("h5", "MONAI", "TorchIO", "nnU-Net"),
    "rotated": ("h5", "MONAI", "TorchIO", "nnU-Net"),
    "strong": ("nnU-Net",),
}


def measure(steps: int = 15, rounds: int = 7) -> dict[str, Any]:
    """Median ms of a batch, of turns of `steps` batches, and ratios. Fifteen batches are what TorchIO's queues hold, so
    that every turn has the reading that they cost."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = write_phantom(folder / "phantom", cases=6, labelled=3, test=0, size=SCAN)
        store = make_store(dataset, PREPARATION, folder / "store")
        files = write_prepared(dataset, store, folder / "prepared")
        for augmentation, peers in PEERS.items():
            ways = [way(who, augmentation, folder, files, steps) for who in ("Semivox", *peers)]
            taken = take_turns(ways, rounds)
            figures[augmentation] = beside({who: turns.median / steps for who, turns in taken.items()}, peers)
    return figures | {"versions": peers_versions("nnunetv2", "monai", "torchio", "torch")}


def way(who: str, augmentation: str, folder: Path, files: dict[str, Any], steps: int) -> Way:
    """How one of them makes batches."""
    if who == "Semivox":
        arguments = {"root": folder / "phantom", "store": folder / "store"}
        return Way(who, __name__, "semivox", arguments | {"augmentation": augmentation, "steps": steps})
    if who == "h5":
        return Way(
            who, __name__, "usual", {"folder": folder / "prepared", "augmentation": augmentation, "steps": steps}
        )
    settings = {"classes": 4, "patch": PATCH, "steps": steps, "augmentation": augmentation}
    return Way(who, MODULES[who], "batches", files | settings | {"folder": folder / f"{who} {augmentation}"})


def write_prepared(dataset: Dataset, store: Store, folder: Path) -> dict[str, Any]:
    """The store's scans as others read them, HDF5 and NIfTI of 1 mm, in the folders `labelled` and `unlabelled`; the
    NIfTI files, `labelled` with their labels."""
    files: dict[str, Any] = {"labelled": [], "unlabelled": []}
    for case in dataset.split("train"):
        image, label = store.image(case.id)[0], None if case.label is None else store.label(case.id)
        stream = folder / ("unlabelled" if label is None else "labelled")
        stream.mkdir(parents=True, exist_ok=True)
        with h5py.File(stream / f"{case.id}.h5", "w") as file:
            file.create_dataset("image", data=image, compression="gzip")
            file.create_dataset("label", data=np.zeros(SCAN, np.uint8) if label is None else label, compression="gzip")
        image_file, label_file = stream / f"{case.id}.nii.gz", stream / f"{case.id}_label.nii.gz"
        nifti.write(image_file, np.asarray(image), Grid(SCAN, np.eye(4)))
        if label is None:
            files["unlabelled"].append(str(image_file))
        else:
            nifti.write(label_file, np.asarray(label), Grid(SCAN, np.eye(4)))
            files["labelled"].append((str(image_file), str(label_file)))
    return files


def semivox(root: str, store: str, augmentation: str, steps: int) -> Callable[[], None]:
    """Batches as training makes them."""
    dataset = read_dataset(Path(root))
    views = Views(labelled=("weak",), unlabelled=("weak", SECOND_VIEWS[augmentation]))
    weak = WeakSettings(
        turn_probability=0.75,
        affine_probability=ROTATED_SHARES[augmentation],
        rotation_deg=ROTATION_DEG,
        scale=SCALE,
    )
    settings = ViewSettings(weak=weak)
    plan = Plan(preparation=PREPARATION, patch=PATCH)
    loader = PatchLoader(make_store(dataset, PREPARATION, Path(store)), dataset, plan, views, seed=0, settings=settings)
    numbers = itertools.count()

    def turn() -> None:
        for _ in range(steps):
            make_batch(loader[next(numbers)], views, "cpu", settings)

    return turn


def usual(folder: str, augmentation: str, steps: int) -> Callable[[], None]:
    """Batches as the field's scripts make them."""
    pools = [sorted((Path(folder) / stream).glob("*.h5")) for stream in ("labelled", "unlabelled")]
    random = np.random.default_rng(0)

    def turn() -> None:
        for _ in range(steps):
            usual_batch(pools, ROTATED_SHARES[augmentation], random)

    return turn


def usual_batch(pools: Sequence[Sequence[Path]], rotated: float, random: np.random.Generator) -> tuple:
    """Images and labels of 2 + 2 samples, and the noisy images of the last two."""
    files = [pool[random.integers(len(pool))] for pool in pools for _ in range(2)]
    pairs = [usual_sample(file, rotated, random) for file in files]
    images = torch.stack([torch.from_numpy(image.astype(np.float32))[None] for image, _ in pairs])
    labels = torch.stack([torch.from_numpy(label.astype(np.int64)) for _, label in pairs])
    noisy = images[2:] + torch.clamp(torch.randn_like(images[2:]) * NOISE, -0.2, 0.2)
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
