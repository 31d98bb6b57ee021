"""Scores a folder of predictions against reference labels: the content of metrics.json."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from semivox.atomic import atomic_write_text
from semivox.data.case import Case, Dataset
from semivox.errors import DataError, SettingError, unknown
from semivox.evaluation.matching import Matching, match
from semivox.evaluation.scores import METRICS, TOLERANCE, ClassScores, score_case
from semivox.evaluation.statistics import CONFIDENCE, RESAMPLES, mean_of_defined, summarise

UNITS = ("mm", "voxel")

Progress = Callable[[int, int], None]


def evaluate(
    predictions: Path,
    labels: Path | Dataset,
    out: Path | None = None,
    *,
    unit: str = "mm",
    tolerance: float = TOLERANCE,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Scores every prediction that has a reference label and returns the content of metrics.json, written to `out`.

    `predictions` is a folder of label files. `labels` is a folder of label files, the folder of a data set, or a data
    set; see `match` for where the names of classes come from. `unit` is that of distances, "mm" or "voxel"; pictures
    have no mm and are always scored in voxels. `tolerance` of the surface Dice is in the same unit. Cases are scored
    on `workers` threads (default: one per core); `progress(done, total)` counts them.

    Raises DataError in one line where nothing can be scored or a file is at fault, SettingError for an unknown unit or
    a tolerance that is no distance.
    """
    if unit not in UNITS:
        raise unknown("unit", unit, UNITS)
    if not 0 <= tolerance < math.inf:
        raise SettingError(f"tolerance of {tolerance:g}: give a distance of 0 or more")
    matching = match(Path(predictions), labels)
    cases = matching.reference.cases
    entries, pictures = [], set()
    # Reading, comparing and searching release the interpreter, so threads do; more than eight wait for each other.
    with ThreadPoolExecutor(workers or min(os.cpu_count() or 1, 8)) as pool:
        for entry, is_picture in pool.map(lambda case: _score(case, matching, unit, tolerance), cases):
            entries.append(entry)
            pictures.add(is_picture)
            if progress:
                progress(len(entries), len(cases))
    if unit == "mm" and len(pictures) > 1:
        raise DataError(f"{predictions}: holds both pictures, which have no mm, and scans; score them in voxels")
    used = "voxel" if True in pictures else unit
    names = list(matching.reference.labels.scored())
    metrics = {
        "cases": entries,
        "summary": _summarise(entries, [case.patient for case in cases], names),
        "domains": _summarise_parts(entries, cases, names, "domain"),
        "tasks": _summarise_parts(entries, cases, names, "task"),
        "unscored": list(matching.unscored),
        "unpredicted": list(matching.unpredicted),
        "unscored_classes": list(matching.unpredictable),
        "unit": used,
        "definitions": definitions(used, tolerance),
        "model": matching.model,
    }
    metrics = without_nan(metrics)
    if out is not None:
        atomic_write_text(Path(out), json.dumps(metrics, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return metrics


def definitions(unit: str, tolerance: float) -> dict[str, str]:
    """What each number of metrics.json means, in a sentence."""
    return {
        "dice": "2|A∩B| / (|A| + |B|) of prediction A and reference B; 1 where both are empty.",
        "jaccard": "|A∩B| / |A∪B|; 1 where both are empty.",
        "hd95": f"95th percentile (linear) of the pooled surface distances A→B and B→A, in {unit} (MedPy).",
        "asd": f"Mean of the surface distances A→B, one direction only, in {unit} (MedPy).",
        "assd": f"Mean of the pooled surface distances A→B and B→A, in {unit} (MedPy since 0.5).",
        "surface_dice": f"Share of both surfaces within {tolerance:g} {unit} of the other; 1 where both are empty.",
        "volume_error": "(|A| - |B|) / |B|, above 0 where the prediction is too large; undefined where B is empty.",
        "surface": "The voxels of a mask minus its erosion with the cross of face neighbours; outside the scan is"
        " background. Distances are between voxel centres. A scan of one slice is scored in 2-D.",
        "empty": "Which of the two masks has no voxel. Distances are then undefined (null) and left out of means:"
        " read a mean distance beside its n and the number of empty predictions. Overlaps count as 0, or 1 where both"
        " are empty.",
        "ignored": "Voxels marked as unknown in the reference belong to no mask.",
        "mean": "Mean over cases of each case's mean over its defined classes; n is the number of cases that have one."
        " A case is scored only on the classes that its task annotates and the model knows.",
        "deviation": "Standard deviation over cases (n - 1).",
        "low, high": f"{CONFIDENCE:.0%} bootstrap interval of the mean, {RESAMPLES} draws of patients where they are"
        " known, else of cases.",
        "empty_predictions": "Cases with a structure of which nothing was predicted; empty_references those where"
        " something was predicted that is not there, empty_both those where both masks are empty.",
    }


def _score(case: Case, matching: Matching, unit: str, tolerance: float) -> tuple[dict[str, Any], bool]:
    """The case's entry in metrics.json, and whether it is a picture."""
    prediction, reference = matching.read(case)
    scores = score_case(
        prediction,
        reference.array,
        matching.reference.labels,
        reference.grid.spacing_mm,
        unit="voxel" if reference.is_picture else unit,
        tolerance=tolerance,
        names=matching.names(case),
    )
    if reference.is_picture:
        for found in scores.values():
            found |= {"prediction_ml": math.nan, "reference_ml": math.nan}
    entry = {"case": case.id, "domain": case.domain, "task": case.task, "group": case.group, "scores": scores}
    return entry, reference.is_picture


def _summarise(
    entries: Sequence[Mapping[str, Any]], patients: list[str], names: list[str]
) -> dict[str, dict[str, Any]]:
    """Class or "mean" → metric → statistics over cases, and how many masks were empty."""
    undefined = dict.fromkeys(METRICS, math.nan)
    names = [name for name in names if any(name in entry["scores"] for entry in entries)]
    # (case, class, metric)
    values = np.array(
        [[[entry["scores"].get(name, undefined)[key] for key in METRICS] for name in names] for entry in entries]
    )
    columns_of = {name: values[:, index] for index, name in enumerate(names)} | {
        "mean": mean_of_defined(values, axis=1)
    }
    summary = {}
    for name, columns in columns_of.items():
        scores = [found for entry in entries for key, found in entry["scores"].items() if name in (key, "mean")]
        statistics = zip(METRICS, summarise(columns, patients), strict=True)
        summary[name] = {metric: asdict(found) for metric, found in statistics} | _count_empty(scores)
    return summary


def _summarise_parts(
    entries: Sequence[Mapping[str, Any]], cases: Sequence[Case], names: list[str], part: str
) -> dict[str, dict[str, dict[str, Any]]]:
    """Domain, or task, as `part` says → the summary of its cases; empty where all are of one."""
    places: dict[str, list[int]] = {}
    for place, entry in enumerate(entries):
        places.setdefault(entry[part], []).append(place)
    if len(places) < 2:
        return {}
    return {
        name: _summarise([entries[place] for place in own], [cases[place].patient for place in own], names)
        for name, own in places.items()
    }


def _count_empty(scores: list[ClassScores]) -> dict[str, int]:
    kinds = [found["empty"] for found in scores]
    return {
        "empty_predictions": kinds.count("prediction"),
        "empty_references": kinds.count("reference"),
        "empty_both": kinds.count("both"),
    }


def without_nan(content: Any) -> Any:
    """The same content with None for NaN, which JSON does not know."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
