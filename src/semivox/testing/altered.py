"""Batches in which something is missing."""

import torch
from torch import Tensor

from semivox.data.labels import IGNORE
from semivox.sampling.batch import Batch, Stream


def streams(batch: Batch) -> tuple[Stream, ...]:
    """The streams that the batch has."""
    return (batch.labelled,) if batch.unlabelled is None else (batch.labelled, batch.unlabelled)


def pad(stream: Stream, where: Tensor) -> None:
    """Makes voxels (B, *space) padding: nothing is known of them."""
    stream.valid &= ~where
    for target in (stream.label, stream.pseudo):
        if target is not None:
            target[where] = IGNORE


def pad_all(batch: Batch) -> None:
    """Makes all of the batch padding."""
    for stream in streams(batch):
        pad(stream, torch.ones_like(stream.valid))


def pad_unlabelled(batch: Batch) -> None:
    """Makes every unlabelled voxel padding."""
    if batch.unlabelled is not None:
        pad(batch.unlabelled, torch.ones_like(batch.unlabelled.valid))


def forget_labels(batch: Batch) -> None:
    """Makes every label unknown."""
    _fill(batch, IGNORE)


def remove_foreground(batch: Batch) -> None:
    """Makes every label background."""
    _fill(batch, 0)


def remove_class(batch: Batch) -> None:
    """Makes one foreground class background, in labels and pseudo-labels."""
    for stream in streams(batch):
        for target in (stream.label, stream.pseudo):
            if target is not None:
                target[target == 1] = 0
    if batch.labelled.signed_distance is not None:
        batch.labelled.signed_distance[:, 0] = 0


def _fill(batch: Batch, value: int) -> None:
    for stream in streams(batch):
        for target in (stream.label, stream.pseudo):
            if target is not None:
                target.fill_(value)
    if batch.labelled.signed_distance is not None:
        batch.labelled.signed_distance.zero_()


def change_images(batch: Batch) -> None:
    """Makes dark what was bright, in every view."""
    for stream in streams(batch):
        stream.views = tuple(1 - 2 * view for view in stream.views)
