"""Preparing one scan of the left atrium's size, 0.625 → 0.8 mm with cubic splines, beside nnU-Net v2's preprocessing.

The reference is nnU-Net's own resampling where nnunetv2 is installed, else what it is by definition: crop to the
bounding box of the filled nonzero mask, z-score, then skimage's `resize` per channel with order 3, mode "edge" and
clipping, which is `scipy.ndimage.zoom` with mode "nearest" and grid_mode; for the label the same per class, order 1.
Both run in this process on one core. The scan is made up; reading and writing files is left out on both sides.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import json
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from scipy.ndimage import binary_fill_holes, gaussian_filter, zoom

from semivox.data.volume import Grid, Volume
from semivox.preparation.prepare import prepare_image, prepare_label
from semivox.preparation.settings import Normalisation, Preparation

SHAPE = (190, 145, 88)
SPACING_MM = 0.625
TARGET_MM = 0.8
REPEATS = 5
TARGET_RATIO = 3.0
"""What this piece promises: times faster than the reference."""


def made_up_scan() -> tuple[Volume, np.ndarray]:
    """A smooth bright body in a noisy field, uint8-like values as int16, and the label of its bright part."""
    rng = np.random.default_rng(0)
    field = gaussian_filter(rng.normal(size=SHAPE), 8)
    field /= field.std()
    values = np.clip(90 + 40 * field + 10 * rng.normal(size=SHAPE), 1, 255).astype(np.int16)
    spacing = np.diag([-SPACING_MM, -SPACING_MM, SPACING_MM, 1])
    return Volume(values[None], Grid(SHAPE, spacing)), (field > 1.2).astype(np.uint8)


def reference_image(values: np.ndarray) -> np.ndarray:
    """nnU-Net's steps on (1, X, Y, Z): nonzero crop, z-score, cubic resampling."""
    filled = binary_fill_holes((values != 0).any(axis=0))
    box = tuple(
        slice(hit[0], hit[-1] + 1)
        for hit in (
            np.flatnonzero(filled.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)
        )
    )
    cropped = values[(slice(None), *box)].astype(np.float32)
    cropped -= cropped.mean()
    cropped /= max(cropped.std(), 1e-8)
    return reference_resize(cropped, 3)


def reference_label(classes: np.ndarray) -> np.ndarray:
    """nnU-Net's resampling of a label (X, Y, Z): each class's mask with order 1, where it exceeds one half."""
    result = np.zeros(new_shape(classes.shape), classes.dtype)
    for index in np.unique(classes):
        share = reference_resize((classes == index)[None].astype(np.float64), 1)[0]
        result[share > 0.5] = index
    return result


def reference_resize(values: np.ndarray, order: int) -> np.ndarray:
    """(C, X, Y, Z) to the target spacing, by nnunetv2 where it is installed."""
    shape = new_shape(values.shape[1:])
    if find_spec("nnunetv2"):
        from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg

        return resample_data_or_seg(values, shape, is_seg=False, order=order, do_separate_z=False)
    factors = [after / before for before, after in zip(values.shape[1:], shape, strict=True)]
    resized = [
        zoom(channel.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True) for channel in values
    ]
    return np.stack([np.clip(new, old.min(), old.max()) for new, old in zip(resized, values, strict=True)])


def new_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """nnU-Net's rule, which is ours too."""
    return tuple(round(length * SPACING_MM / TARGET_MM) for length in shape)


def seconds(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Least time of each over some rounds; they take turns, so that another process disturbs all alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(REPEATS):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def measure() -> dict[str, object]:
    """Times in ms, ratios reference / ours, and how far the values differ. Raises AssertionError where they do."""
    volume, label = made_up_scan()
    plan = Preparation(spacing_mm=(TARGET_MM,) * 3, normalisation=(Normalisation(),))
    oriented, oriented_label = volume.array[:, ::-1, ::-1], label[::-1, ::-1]
    image, placement = prepare_image(volume, plan)
    expected = reference_image(oriented)
    difference = float(np.abs(image - expected).max() / np.abs(expected).max())
    differing = float((prepare_label(label, placement, plan) != reference_label(oriented_label)).mean())
    assert difference <= 1e-5, f"image values differ by {difference:.1e} of the largest"
    assert differing <= 1e-4, f"{differing:.1e} of the label's voxels differ"
    taken = seconds(
        {
            "image_ours": lambda: prepare_image(volume, plan),
            "image_reference": lambda: reference_image(oriented),
            "label_ours": lambda: prepare_label(label, placement, plan),
            "label_reference": lambda: reference_label(oriented_label),
        }
    )
    ours, reference = (taken[f"image_{who}"] + taken[f"label_{who}"] for who in ("ours", "reference"))
    result: dict[str, object] = {
        "reference": "nnunetv2" if find_spec("nnunetv2") else "scipy.ndimage.zoom, as nnU-Net v2 defines it",
        "shape": list(SHAPE),
        **{f"{name}_ms": round(1000 * value, 1) for name, value in taken.items()},
        "image_ratio": round(taken["image_reference"] / taken["image_ours"], 1),
        "case_ratio": round(reference / ours, 1),
        "target_ratio": TARGET_RATIO,
        "image_difference": difference,
        "label_voxels_differing": differing,
    }
    print(json.dumps(result, indent=2))
    return result


if __name__ == "__main__":
    measure()
