"""Other runs beside one, scan by scan: the models of single tasks that a joint one stands for, or any other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from semivox.data.joining import own_id, prefix_of
from semivox.errors import RunError
from semivox.reporting.record import Record, read_record
from semivox.reporting.tables import Others


def read_beside(record: Record, folders: Sequence[Path]) -> list[tuple[Record, dict[str, Any]]]:
    """The runs in `folders`, each with its scores under the ids that its scans have in `record`.

    A data set that was trained on alone has plain ids where in joined ones its name stands before them. Raises RunError
    where a run is not scored, scored in another unit, or has no scan in common with `record`.
    """
    if record.metrics is None:
        raise RunError(f"{record.folder}: not scored (no metrics.json), so that nothing can stand beside it")
    ids = {case["case"] for case in record.metrics["cases"]}
    found = []
    for folder in folders:
        other = read_record(folder)
        if other.metrics is None:
            raise RunError(f"--beside {folder}: not scored (no metrics.json); finish it with `semivox train --resume`")
        if other.metrics["unit"] != record.metrics["unit"]:
            raise RunError(
                f"--beside {folder}: distances are in {other.metrics['unit']}, those of {record.folder} in"
                f" {record.metrics['unit']}; score one of them again with the other's --unit"
            )
        metrics = under_ids(ids, other.metrics, folder)
        if not ids.intersection(case["case"] for case in metrics["cases"]):
            raise RunError(f"--beside {folder}: none of its test cases is one of {record.folder}; leave it out")
        found.append((other, metrics))
    return found


def titles(records: Sequence[Record]) -> list[str]:
    """The folders' names, with those above them where names are alike."""
    parts = [record.folder.resolve().parts for record in records]
    depth = next((n for n in range(1, 9) if len({own[-n:] for own in parts}) == len(parts)), 1)
    return ["/".join(own[-depth:]) for own in parts]


def under_ids(ids: set[str], metrics: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`metrics` with each case under the id of `ids` that is the same scan, where there is one.

    Raises RunError where two joined sets have the name of the set that was trained on.
    """
    prefix = prefix_of(metrics.get("model", {}).get("dataset", ""))
    if {own_id(case)[0] for case in ids} >= {prefix, f"{prefix}-2"}:
        raise RunError(
            f"--beside {folder}: two of the joined data sets are called {prefix}, so that its scans cannot be told from"
            " the other's; give them different names in dataset.json and train anew"
        )
    by_own = {own: case for case in ids for joined, own in [own_id(case)] if joined == prefix}
    cases = [{**case, "case": by_own.get(case["case"], case["case"])} for case in metrics["cases"]]
    return {**metrics, "cases": cases}


def pooled(others: Others) -> dict[str, Any] | None:
    """All scores of several runs as if they were one's; None where a scan is in two of them, or there is one run."""
    cases = [case for _, metrics in others for case in metrics["cases"]]
    if len(others) < 2 or len({case["case"] for case in cases}) < len(cases):
        return None
    return {**others[0][1], "cases": cases}
