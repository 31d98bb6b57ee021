"""MONAI: preparation by its transforms, its cache with random transforms for batches, a first training step."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, Dataset, PersistentDataset
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    CopyItemsd,
    CropForegroundd,
    EnsureChannelFirstd,
    FgBgToIndicesd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandRotate90d,
    RandSpatialCropd,
    Spacingd,
)
from torch.utils.data import RandomSampler

from benchmarks.peers import NOISE, ROTATION_DEG, SCALE

IMAGE, LABEL, NOISY = "image", "label", "noisy"
INTERPOLATION = {1: "bilinear", 3: 3}
"""Spline order → MONAI's name of it."""


def in_memory(image: str, label: str, spacing_mm: float, order: int) -> Callable[[], dict[str, np.ndarray]]:
    """One case, already read: orientation, crop, z-score, resampling."""
    case, transform = Compose(reading())({IMAGE: image, LABEL: label}), Compose(preparation(spacing_mm, order))

    def turn() -> dict[str, np.ndarray]:
        found = transform(case)
        return {key: found[key].numpy() for key in (IMAGE, LABEL)}

    return turn


def to_store(image: str, label: str, spacing_mm: float, order: int, folder: str) -> Callable[[], object]:
    """One case from its files to those that training reads."""
    folders = (f"{folder}/{number}" for number in count())
    transforms = [*reading(), *preparation(spacing_mm, order)]
    return lambda: PersistentDataset([{IMAGE: image, LABEL: label}], transforms, cache_dir=next(folders))[0]


def batches(
    labelled: Sequence[Sequence[str]],
    unlabelled: Sequence[str],
    classes: int,
    patch: Sequence[int],
    steps: int,
    folder: str,
    augmentation: str,
) -> Callable[[], None]:
    """Batches of 2 + 2, the last two with a noisy view, from scans in memory.

    labelled: (image, label) files, whose places of foreground and background are in memory too.
    """
    crop = RandCropByPosNegLabeld(
        (IMAGE, LABEL),
        LABEL,
        patch,
        num_samples=1,
        fg_indices_key="label_fg_indices",
        bg_indices_key="label_bg_indices",
    )
    noise = [
        CopyItemsd((IMAGE,), names=(NOISY,)),
        RandGaussianNoised((NOISY,), prob=1, std=NOISE, sample_std=False),
    ]
    share = {"turned": 0.0, "rotated": 1 / 3}[augmentation]
    with_label = CacheDataset(
        [{IMAGE: image, LABEL: label} for image, label in labelled],
        [*reading((IMAGE, LABEL)), FgBgToIndicesd((LABEL,)), crop, *moves((IMAGE, LABEL), patch, share)],
        progress=False,
    )
    without = CacheDataset(
        [{IMAGE: image} for image in unlabelled],
        [
            *reading((IMAGE,)),
            RandSpatialCropd((IMAGE,), patch, random_size=False),
            *moves((IMAGE,), patch, share),
            *noise,
        ],
        progress=False,
    )
    streams = endless(with_label), endless(without)

    def turn() -> None:
        for _ in range(steps):
            known, unknown = map(next, streams)
            assert known[LABEL].shape == unknown[NOISY].shape == (2, 1, *patch)

    return turn


def endless(dataset: Dataset) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of two scans, drawn with replacement."""
    return iter(DataLoader(dataset, batch_size=2, sampler=RandomSampler(dataset, replacement=True, num_samples=10**9)))


def moves(keys: Sequence[str], patch: Sequence[int], share: float) -> list:
    """The weak view: a `share` of patches rotated and scaled, all turned by quarters and flipped."""
    interpolation = [INTERPOLATION[1] if key == IMAGE else "nearest" for key in keys]
    affine = RandAffined(
        keys,
        prob=share,
        rotate_range=[np.deg2rad(ROTATION_DEG)] * 3,
        scale_range=[(SCALE[0] - 1, SCALE[1] - 1)] * 3,
        mode=interpolation,
        padding_mode="zeros",
    )
    return [
        *([affine] if share else []),
        RandRotate90d(keys, prob=0.75, max_k=3, spatial_axes=(0, 1)),
        *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)),
    ]


def reading(keys: Sequence[str] = (IMAGE, LABEL)) -> list:
    return [LoadImaged(keys), EnsureChannelFirstd(keys)]


def preparation(spacing_mm: float, order: int) -> list:
    return [
        Orientationd((IMAGE, LABEL), axcodes="RAS"),
        # Its corners are of one kind when prepared and of another when read back, which no batch can hold.
        CropForegroundd(
            (IMAGE, LABEL), source_key=IMAGE, allow_smaller=False, start_coord_key=None, end_coord_key=None
        ),
        NormalizeIntensityd((IMAGE,)),
        Spacingd((IMAGE, LABEL), pixdim=[spacing_mm] * 3, mode=(INTERPOLATION[order], "nearest")),
    ]


def first_step(
    cases: Sequence[Sequence[str]], classes: int, patch: Sequence[int], spacing_mm: float, store: str
) -> None:
    """Trains one step, then says so. Whatever `store` has of the scans is not prepared again."""
    crop = RandCropByPosNegLabeld((IMAGE, LABEL), LABEL, patch, num_samples=1)
    dataset = PersistentDataset(
        [{IMAGE: image, LABEL: label} for image, label in cases],
        [*reading(), *preparation(spacing_mm, 1), crop, *moves((IMAGE, LABEL), patch, 0.0)],
        cache_dir=store,
    )
    network = UNet(3, 1, classes, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2)
    optimiser = torch.optim.Adam(network.parameters(), 1e-4)
    batch = next(iter(DataLoader(dataset, batch_size=2, shuffle=True)))
    DiceCELoss(to_onehot_y=True, softmax=True)(network(batch[IMAGE]), batch[LABEL]).backward()
    optimiser.step()
    print("first step", flush=True)
