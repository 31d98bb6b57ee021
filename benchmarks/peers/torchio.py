"""TorchIO: preparation by its transforms, its queue of patches for batches."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torchio as tio

from benchmarks.peers import NOISE, ROTATION_DEG, SCALE

INTERPOLATION = {1: "linear", 3: "bspline"}
"""Spline order → TorchIO's name of it."""
PATCHES_OF_A_SCAN = 10
"""As in the example of the queue's documentation."""


def in_memory(image: str, label: str, spacing_mm: float, order: int) -> Callable[[], dict[str, np.ndarray]]:
    """One case, already read: orientation, z-score, resampling."""
    subject = subject_of(image, label)
    subject.load()
    transform = tio.Compose(
        [tio.ToCanonical(), tio.ZNormalization(), tio.Resample(spacing_mm, image_interpolation=INTERPOLATION[order])]
    )

    def turn() -> dict[str, np.ndarray]:
        found = transform(subject)
        return {key: found[key].numpy() for key in ("image", "label")}

    return turn


def batches(
    labelled: Sequence[Sequence[str]],
    unlabelled: Sequence[str],
    classes: int,
    patch: Sequence[int],
    steps: int,
    folder: str,
    augmentation: str,
) -> Callable[[], None]:
    """Batches of 2 + 2, the last two with a noisy view, from queues that read a scan's file for ten patches of it.

    Scans are flipped, and perhaps rotated and scaled, when they are read; TorchIO has no quarter turns by chance.
    """
    share = {"turned": 0.0, "rotated": 1 / 3}[augmentation]
    affine = tio.RandomAffine(scales=SCALE, degrees=ROTATION_DEG, isotropic=True, p=share)
    transform = tio.Compose([*([affine] if share else []), tio.RandomFlip(axes=(0, 1, 2))])
    of_foreground = tio.LabelSampler(patch, "label", dict.fromkeys(range(classes), 1))
    streams = (
        endless([subject_of(*files) for files in labelled], transform, of_foreground),
        endless([subject_of(image) for image in unlabelled], transform, tio.UniformSampler(patch)),
    )

    def turn() -> None:
        for _ in range(steps):
            known, unknown = (next(stream) for stream in streams)
            clean = unknown["image"][tio.DATA]
            noisy = clean + torch.randn_like(clean) * NOISE
            assert known["label"][tio.DATA].shape == noisy.shape == (2, 1, *patch)

    return turn


def endless(subjects: list[tio.Subject], transform: tio.Transform, sampler: tio.data.PatchSampler) -> Iterator[dict]:
    """Batches of two patches; the queue holds an epoch's."""
    dataset = tio.SubjectsDataset(subjects, transform=transform)
    queue = tio.Queue(
        dataset, max_length=len(subjects) * PATCHES_OF_A_SCAN, samples_per_volume=PATCHES_OF_A_SCAN, sampler=sampler
    )
    while True:
        yield from tio.SubjectsLoader(queue, batch_size=2)


def subject_of(image: str, label: str | None = None) -> tio.Subject:
    images = {"image": tio.ScalarImage(image)} | ({"label": tio.LabelMap(label)} if label else {})
    return tio.Subject(images)
