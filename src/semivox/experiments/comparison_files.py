"""A comparison as a file, by its ending: .json, .html, .csv or .tex."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from semivox.atomic import atomic_write_text
from semivox.errors import SettingError
from semivox.evaluation.evaluate import without_nan
from semivox.experiments.compare import Comparison, Group, Scores
from semivox.experiments.comparison_page import comparison_page
from semivox.experiments.families import families
from semivox.experiments.results import BY_KEY, SELECTIONS, remarks, result_tables

COLUMNS = (
    *("group", "method", "labelled", "selection", "seeds", "domain", "task", "class", "metric", "unit"),
    *("mean", "deviation_over_seeds", "deviation_over_cases", "low", "high", "cases"),
)
"""Of the .csv: a row per group, class and metric, over all cases and again over those of each domain and task."""


def check_ending(path: Path) -> None:
    """Raises SettingError for a file that no writer is for."""
    if path.suffix.lower() not in WRITERS:
        raise SettingError(f"--out {path}: name a file that ends in {', '.join(WRITERS)}, which says what is written")


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Writes all of it in the form that the ending of `path` says. Raises SettingError where it says none."""
    check_ending(path)
    atomic_write_text(path, WRITERS[path.suffix.lower()](comparison))


def as_json(comparison: Comparison, **beside: Any) -> str:
    """All of it, the tests table by table, and what is to stand `beside` it; null is what is not defined."""
    tests = [asdict(family) | {"number": family.number} for family in families(comparison)]
    content = without_nan(beside | asdict(comparison) | {"tests": tests})
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"


def as_csv(comparison: Comparison) -> str:
    """Numbers unrounded; a field is empty where nothing is defined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for group in comparison.groups:
        writer.writerows(_rows(comparison.unit, group, group.scores))
        for name, scores in group.domains.items():
            writer.writerows(_rows(comparison.unit, group, scores, domain=name))
        for name, scores in group.tasks.items():
            writer.writerows(_rows(comparison.unit, group, scores, task=name))
    return text.getvalue()


def as_latex(comparison: Comparison) -> str:
    """Every table, and what a reader should know of them as comments."""
    told = [f"% {' '.join(remark.split())}" for remark in (*remarks(comparison), *comparison.refused)]
    tables = [table.latex() for table in result_tables(comparison)]
    return "\n".join([r"% Made by `semivox compare`; wants \usepackage{booktabs}.", *told, "", *tables])


def _rows(unit: str, group: Group, scores: Scores, domain: str = "", task: str = "") -> Iterator[list[Any]]:
    labelled = "all" if group.labelled is None else group.labelled
    if isinstance(labelled, dict):
        labelled = " ".join(f"{name}={number}" for name, number in labelled.items())
    first = [group.name, group.method, labelled, SELECTIONS[group.selection], " ".join(map(str, group.seeds))]
    for name, metrics in scores.items():
        for key, spread in metrics.items():
            numbers = [spread.mean, spread.over_runs, spread.over_cases, spread.low, spread.high]
            told = ["" if number != number else number for number in numbers]
            yield [*first, domain, task, name, key, unit if BY_KEY[key].is_length else "", *told, spread.n]


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


WRITERS: dict[str, Callable[[Comparison], str]] = {
    ".json": as_json,
    ".html": comparison_page,
    ".csv": as_csv,
    ".tex": as_latex,
}
