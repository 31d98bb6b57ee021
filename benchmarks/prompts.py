"""Time of finding prompts in a stack of predictions: 16 slices of 512x512 with 5 classes, on one thread.

`organs`: five smooth organs, each of 4 % of the pixels, and speckle; `all filled`: every pixel is of some class, in
smooth regions; `noise`: every pixel is drawn by itself, which no trained network predicts. Beside it what the labelling
of components alone takes with SciPy and with cc3d (the extra `fast`), class by class and slice by slice.

    python benchmarks/prompts.py
"""

import json
import statistics
import time
from collections.abc import Callable

import cc3d
import numpy as np
import torch
from scipy import ndimage

from semivox.inference.prompts import find_prompts

CLASSES = 5
SHAPE = (16, 512, 512)
IN_A_SLICE = np.array([[[0, 0, 0]] * 3, [[1, 1, 1]] * 3, [[0, 0, 0]] * 3])
"""Eight neighbours, none in another slice."""


def measure(rounds: int = 5) -> dict:
    """Milliseconds, medians of `rounds`, each way in turn."""
    torch.set_num_threads(1)
    return {name: _compare(label, rounds) for name, label in stacks().items()}


def stacks() -> dict[str, np.ndarray]:
    """Label maps (T, H, W) uint8 by what they are like."""
    rng = np.random.default_rng(0)
    fields = [ndimage.gaussian_filter(rng.standard_normal(SHAPE), (3, 20, 20)) for _ in range(CLASSES + 1)]
    organs = np.zeros(SHAPE, np.uint8)
    for index, field in enumerate(fields[1:], start=1):
        organs[field > np.quantile(field, 0.96)] = index
    organs[rng.random(SHAPE) < 0.0005] = 3
    filled = np.argmax([field / field.std() for field in fields], 0).astype(np.uint8)
    return {"organs": organs, "all filled": filled, "noise": rng.integers(0, CLASSES + 1, SHAPE).astype(np.uint8)}


def _compare(label: np.ndarray, rounds: int) -> dict[str, float]:
    confidence = torch.full(SHAPE, 0.9)
    stack = torch.from_numpy(label)
    ways: dict[str, Callable[[], object]] = {
        "boxes and masks (ms)": lambda: find_prompts(stack, confidence, CLASSES + 1),
        "components alone, SciPy (ms)": lambda: [
            ndimage.label(label == index, IN_A_SLICE) for index in range(1, CLASSES + 1)
        ],
        "components alone, cc3d (ms)": lambda: [cc3d.connected_components(one, connectivity=8) for one in label],
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - started)
    return {name: round(1000 * statistics.median(found), 1) for name, found in times.items()}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
