"""All scores of one case, class by class, in one pass over its voxels."""

from collections.abc import Collection

import numpy as np
from scipy.ndimage import find_objects

from semivox.data.labels import IGNORE, LabelMap
from semivox.errors import DataError
from semivox.evaluation.overlap import Overlap
from semivox.evaluation.surface import surface_distances

METRICS = ("dice", "jaccard", "hd95", "asd", "assd", "surface_dice", "volume_error")
"""Names of the scores that are averaged over cases, in the order of tables."""

DISTANCES = frozenset({"hd95", "asd", "assd"})
"""Those that are lengths: the less the better, undefined where a mask is empty."""

TOLERANCE = 2.0
"""Default tolerance of the surface Dice, in the unit of the distances."""

Box = tuple[slice, ...]
ClassScores = dict[str, float | str | None]


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    labels: LabelMap,
    spacing_mm: tuple[float, ...],
    *,
    unit: str = "mm",
    tolerance: float = TOLERANCE,
    names: Collection[str] | None = None,
) -> dict[str, ClassScores]:
    """Scores of every name in `labels.scored()`, or of those in `names` only.

    `prediction` and `reference` are class indices (X, Y, Z), or of any other dimension; voxels where the reference is
    `IGNORE` belong to no mask. `spacing_mm` has one number per axis. With unit "voxel" distances count voxel steps
    along each axis, whatever their length. Axes of one voxel do not count: a scan of a single slice is scored in 2-D
    (in 3-D all of it would be surface).

    Returns name → `METRICS` (NaN where undefined), `prediction_ml`, `reference_ml` and `empty`, see `Overlap.empty`.
    """
    if prediction.shape != reference.shape:
        raise DataError(f"prediction has shape {prediction.shape}, reference {reference.shape}; they must be equal")
    axes = [axis for axis, size in enumerate(reference.shape) if size > 1] or [0]
    spacing = tuple(spacing_mm[axis] if unit == "mm" else 1.0 for axis in axes)
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    prediction, reference = (_squeeze(array, axes) for array in (prediction, reference))
    ignored = reference == IGNORE
    if ignored.any():
        prediction, reference = np.where(ignored, 0, prediction), np.where(ignored, 0, reference)
    crop = _foreground(prediction, reference)
    prediction, reference = np.ascontiguousarray(prediction[crop]), np.ascontiguousarray(reference[crop])
    boxes = [find_objects(array, labels.count - 1) for array in (prediction, reference)]

    scores = {}
    for name, classes in labels.scored().items():
        if names is None or name in names:
            box = _union([found[index - 1] for found in boxes for index in classes], len(axes))
            a, b = (_mask(array[box], classes) for array in (prediction, reference))
            scores[name] = _score(a, b, spacing, voxel_ml, tolerance)
    return scores


def dice_per_class(prediction: np.ndarray, reference: np.ndarray, labels: LabelMap) -> dict[str, float]:
    """Dice alone, of arrays as in `score_case`: what a validation during training needs."""
    known = reference != IGNORE
    pairs = prediction[known].astype(np.intp) * labels.count + reference[known]
    confusion = np.bincount(pairs, minlength=labels.count**2).reshape(labels.count, labels.count)
    dice = {}
    for name, classes in labels.scored().items():
        members = list(classes)
        counts = confusion[members].sum(), confusion[:, members].sum(), confusion[np.ix_(members, members)].sum()
        dice[name] = Overlap(*map(int, counts)).dice
    return dice


def _score(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], voxel_ml: float, tolerance: float
) -> ClassScores:
    overlap = Overlap.of(prediction, reference)
    distances = surface_distances(prediction, reference, spacing)
    return {
        "dice": overlap.dice,
        "jaccard": overlap.jaccard,
        "hd95": distances.hd95,
        "asd": distances.asd,
        "assd": distances.assd,
        "surface_dice": distances.surface_dice(tolerance),
        "volume_error": overlap.volume_error,
        "prediction_ml": overlap.prediction * voxel_ml,
        "reference_ml": overlap.reference * voxel_ml,
        "empty": overlap.empty,
    }


def _squeeze(array: np.ndarray, axes: list[int]) -> np.ndarray:
    return array.reshape([array.shape[axis] for axis in axes], order="A")


def _foreground(prediction: np.ndarray, reference: np.ndarray) -> Box:
    """The box that holds all voxels that are not background in both; empty where there is none."""
    either = prediction | reference
    box: list[slice] = []
    for axis in range(either.ndim):
        others = tuple(other for other in range(either.ndim) if other != axis)
        hits = np.flatnonzero(np.bitwise_or.reduce(either, axis=others))
        box.append(slice(hits[0], hits[-1] + 1) if hits.size else slice(0, 0))
    return tuple(box)


def _union(boxes: list[Box | None], dimensions: int) -> Box:
    present = [box for box in boxes if box is not None]
    if not present:
        return (slice(0, 0),) * dimensions
    return tuple(slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*present, strict=True))


def _mask(array: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    mask = array == classes[0]
    for index in classes[1:]:
        mask |= array == index
    return mask
