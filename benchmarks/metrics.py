"""Time of scoring one LA-sized case: Semivox (all its metrics), MedPy and MONAI (Dice, HD95 and ASD).

Every round times the three in turn on the same masks and one core, so that the ratios hold though the machine's speed
may change. Predictions are real labels, smoothly deformed to a Dice of about 0.9, or made-up blobs where the
real labels are not at hand. MedPy comes with the extra `oracles`.

    python benchmarks/metrics.py
"""

import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import medpy.metric.binary as medpy
import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance
from scipy.ndimage import gaussian_filter

from semivox.data.image import read_label
from semivox.data.labels import LabelMap
from semivox.evaluation.scores import score_case

LA = Path(__file__).parents[2] / "shared" / "data" / "la" / "labelsTs"
LA_SHAPE = (215, 140, 88)
SPACING_MM = (0.625, 0.625, 0.625)
LABELS = LabelMap(("background", "left atrium"), (0, 1))

Masks = tuple[np.ndarray, np.ndarray]


def measure(cases: int = 3, rounds: int = 3) -> dict:
    """Milliseconds per case and ratios of medians, on deformed labels and on predictions that are noise."""
    torch.set_num_threads(1)
    references = [read_label(file).array for file in sorted(LA.iterdir())[:cases]] if LA.is_dir() else _blobs(cases)
    rng = np.random.default_rng(0)
    deformed = [(_deform(reference, rng), reference.astype(np.uint8)) for reference in references]
    noise = [((rng.random(r.shape) > 0.5).astype(np.uint8), r) for _, r in deformed[:1]]
    return {
        "labels": "LA" if LA.is_dir() else "made-up blobs",
        "dice": [medpy.dc(*masks) for masks in deformed],
        "deformed labels": _compare(deformed, rounds),
        "noise": _compare(noise, 1),
        "largest difference to MedPy (mm)": max(_difference(masks) for masks in deformed + noise),
        "versions": {package: version(package) for package in ("medpy", "monai")},
    }


def _compare(pairs: list[Masks], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for masks in pairs:
            for name, way in WAYS.items():
                started = time.perf_counter()
                way(*masks)
                times[name].append(time.perf_counter() - started)
    middle = {name: statistics.median(found) for name, found in times.items()}
    found = {f"{name} (ms)": round(1000 * seconds, 1) for name, seconds in middle.items()}
    return found | {
        f"times faster than {name}": round(middle[name] / middle["Semivox"], 1) for name in ("MedPy", "MONAI")
    }


def _semivox(prediction: np.ndarray, reference: np.ndarray) -> tuple[float, ...]:
    scores: dict = score_case(prediction, reference, LABELS, SPACING_MM)["left atrium"]
    return scores["dice"], scores["hd95"], scores["asd"]


def _medpy(prediction: np.ndarray, reference: np.ndarray) -> tuple[float, ...]:
    masks = prediction, reference
    return medpy.dc(*masks), medpy.hd95(*masks, SPACING_MM), medpy.asd(*masks, SPACING_MM)


def _monai(prediction: np.ndarray, reference: np.ndarray) -> tuple[float, ...]:
    a, b = (torch.from_numpy(np.ascontiguousarray(mask))[None, None].float() for mask in (prediction, reference))
    spacing = list(SPACING_MM)
    return (
        float(compute_dice(a, b)),
        float(compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)),
        float(compute_average_surface_distance(a, b, include_background=True, symmetric=False, spacing=spacing)),
    )


WAYS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[float, ...]]] = {
    "Semivox": _semivox,
    "MedPy": _medpy,
    "MONAI": _monai,
}


def _difference(masks: Masks) -> float:
    """Between HD95 and ASD of Semivox and of MedPy, the larger one, in mm."""
    return float(np.abs(np.subtract(_semivox(*masks)[1:], _medpy(*masks)[1:])).max())


def _deform(reference: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`reference` with a border that waves to and fro by a few voxels."""
    waves = gaussian_filter(rng.standard_normal(reference.shape), 4)
    return (gaussian_filter(reference.astype(float), 3) + 0.18 * waves / waves.std() > 0.5).astype(np.uint8)


def _blobs(count: int) -> list[np.ndarray]:
    """Blobs as large as the left atrium is, about a tenth of the scan."""
    rng = np.random.default_rng(1)
    smooth = [gaussian_filter(rng.standard_normal(LA_SHAPE), 12) for _ in range(count)]
    return [(one > np.quantile(one, 0.9)).astype(np.uint8) for one in smooth]


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
