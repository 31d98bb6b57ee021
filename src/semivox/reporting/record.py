"""What a run folder says about its training, read without knowing how training works."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from semivox.errors import RunError
from semivox.training.run import RunFolder

NOTHING = "none"
"""How an empty setting is written."""


@dataclass(frozen=True, eq=False)
class Log:
    """log.csv: `stages` names the stage of each row, `columns` hold the numbers, NaN where nothing was measured."""

    stages: tuple[str, ...]
    columns: dict[str, np.ndarray]

    @property
    def step(self) -> np.ndarray:
        return self.columns.get("step", np.empty(0))

    @property
    def last_step(self) -> int:
        return int(self.step[-1]) if len(self.step) else 0

    @property
    def minutes(self) -> float:
        elapsed_s = self.columns.get("elapsed_s", np.empty(0))
        return float(np.nanmax(elapsed_s)) / 60 if np.isfinite(elapsed_s).any() else 0.0

    def measured(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps at which the column has a finite value, and the values; empty where there is no such column."""
        values = self.columns.get(name, np.empty(0))
        finite = np.isfinite(values)
        return self.step[: len(values)][finite], values[finite]


@dataclass(frozen=True, eq=False)
class Record:
    """One run folder. `metrics` is None where no case was scored; `baseline` is the labelled-only run; `facts` is what
    the model says of its training, empty where there is none yet."""

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    log: Log
    metrics: dict[str, Any] | None
    baseline: "Record | None" = None
    facts: dict[str, Any] = field(default_factory=dict)


def read_record(folder: Path) -> Record:
    """Reads a run folder and the baseline inside it.

    Only config.yaml must be there: a run that was stopped, or trained with `--no-test`, has a report too.
    Raises RunError where the folder is not a run or one of its files is damaged.
    """
    run = RunFolder(Path(folder))
    if not run.config.is_file():
        raise RunError(f"{folder} is not a run folder (no config.yaml); give the one that `semivox train --out` wrote")
    metrics = _read_mapping(run.metrics) if run.metrics.is_file() else {}
    model = _read_mapping(run.model / "model.json") if (run.model / "model.json").is_file() else {}
    return Record(
        folder=run.path,
        config=_read_mapping(run.config),
        environment=_read_mapping(run.environment) if run.environment.is_file() else {},
        log=read_log(run.log),
        metrics=metrics if metrics.get("cases") else None,
        baseline=read_record(run.baseline.path) if run.baseline.config.is_file() else None,
        facts=model.get("facts", {}),
    )


def read_log(path: Path) -> Log:
    """Reads log.csv. A last line that was cut short, as a killed run leaves it, is passed over."""
    if not path.is_file():
        return Log((), {})
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = list(csv.reader(file))
    if not rows:
        return Log((), {})
    header, body = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    stage = header.index("stage") if "stage" in header else None
    stages = tuple(row[stage] for row in body) if stage is not None else ("",) * len(body)
    columns = {
        name: np.array([_number(row[index]) for row in body], float)
        for index, name in enumerate(header)
        if index != stage
    }
    return Log(stages, columns)


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value) of every leaf of nested mappings, in order; lists of plain values stay on one line."""
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield from flatten({str(index): item for index, item in enumerate(value)}, f"{name}.")
        else:
            yield name, in_words(value)


def in_words(value: Any) -> str:
    """A setting as a reader wants to see it: no quotes, no braces, `none` for nothing."""
    if value is None or value in ([], {}):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(in_words(item) for item in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{path}: cannot be read ({str(error).splitlines()[0]}); is the run still writing it?") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: holds no settings; take it from a whole run folder")
    return content


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
