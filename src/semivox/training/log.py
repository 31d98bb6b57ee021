"""log.csv and TensorBoard: what a run reports of itself."""

import csv
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from semivox.atomic import atomic_path
from semivox.errors import RunError
from semivox.training.engine import Engine
from semivox.training.tensorboard import EventFile


def health(notes: dict[str, Tensor], class_names: tuple[str, ...]) -> dict[str, float]:
    """What can be said of pseudo-labels without any label.

    `pseudo/agreement`: share of voxels where student and teacher name the same class. `pseudo/kept`: share of voxels
    whose pseudo-label counts. `pseudo/share/CLASS`: share of voxels the teacher gives to a class.
    """
    values: dict[str, float] = {}
    if "teacher" in notes:
        pseudo = notes["teacher"].argmax(1)
        shares = torch.bincount(pseudo.flatten(), minlength=len(class_names)).float() / pseudo.numel()
        values |= {f"pseudo/share/{name}": float(share) for name, share in zip(class_names, shares, strict=True)}
        if "student" in notes:
            values["pseudo/agreement"] = float((notes["student"].argmax(1) == pseudo).float().mean())
    if "kept" in notes:
        values["pseudo/kept"] = float(notes["kept"].float().mean())
    return values


def columns(loss_names: list[str], class_names: tuple[str, ...], own: list[str]) -> list[str]:
    """The columns of log.csv; `own` are the method's diagnostics."""
    return [
        *("step", "stage", "elapsed_s", "learning_rate", "samples_per_s", "loss"),
        *(f"loss/{name}" for name in loss_names),
        *("pseudo/kept", "pseudo/agreement"),
        *(f"pseudo/share/{name}" for name in class_names),
        *own,
        "validation/dice",
    ]


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of a log.csv. Raises RunError where it is damaged."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            int(row["step"]), float(row["elapsed_s"])
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise RunError(f"{path}: is damaged; remove it and go on (nothing but the curves so far is lost)") from None
    return rows


class Log(lightning.Callback):
    """Writes a row every `every` steps; on resuming, rows after the checkpoint are dropped."""

    def __init__(self, path: Path, every: int, class_names: tuple[str, ...]) -> None:
        self.path = path
        self.every = every
        self.class_names = class_names
        self.extra: dict[str, float] = {}
        self.elapsed_before_s = 0.0

    def on_train_start(self, trainer: lightning.Trainer, engine: Engine) -> None:  # type: ignore[override]
        self.rows: list[dict[str, Any]] = []
        if engine.step and self.path.exists():
            self.rows = [dict(row) for row in read_log(self.path) if int(row["step"]) < engine.step]
        if self.rows:
            self.elapsed_before_s = float(self.rows[-1]["elapsed_s"])
        self.names = [column for row in self.rows[:1] for column in row]
        self._rewrite()
        self.events = EventFile(self.path.parent / "tensorboard", engine.step)
        self.started = self.last_time = time.monotonic()
        self.last_step = engine.step

    def on_train_batch_start(self, trainer, engine: Engine, batch, batch_idx) -> None:  # type: ignore[override]
        if engine.step == engine.span.start:  # what prepared the stage says nothing of its throughput
            self.last_time, self.last_step = time.monotonic(), engine.step

    def on_train_batch_end(self, trainer, engine: Engine, outputs, batch, batch_idx) -> None:  # type: ignore[override]
        step = engine.step - 1
        is_last = engine.step == engine.config.training.iterations
        if step % self.every == 0 or is_last or self.extra:
            self._write(engine, batch, step)
        engine.method.notes.clear()

    def _write(self, engine: Engine, batch: Any, step: int) -> None:
        now = time.monotonic()
        samples = len(batch.labelled) + (len(batch.unlabelled) if batch.unlabelled is not None else 0)
        rate = samples * (engine.step - self.last_step) / max(now - self.last_time, 1e-9)
        self.last_time, self.last_step = now, engine.step
        terms = {f"loss/{name}": float(value) for name, value in engine.terms.items()}
        figures = engine.method.figures(self.class_names)
        values = {
            "learning_rate": engine.learning_rate,
            "samples_per_s": rate,
            "loss": sum(terms.values()),
            **terms,
            **health(engine.method.notes, self.class_names),
            **figures,
            **self.extra,
        }
        self.extra = {}
        row: dict[str, Any] = {
            "step": step,
            "stage": next(span.stage.name for span in engine.spans if step < span.end),
            "elapsed_s": round(self.elapsed_before_s + now - self.started, 3),
            **{name: f"{value:.6g}" for name, value in values.items()},
        }
        self.rows.append(row)
        if any(name not in self.names for name in row):  # the first row, or a stage with further terms
            loss_names = [name.removeprefix("loss/") for name in [*self.names, *terms] if name.startswith("loss/")]
            self.names = columns(list(dict.fromkeys(loss_names)), self.class_names, list(figures))
            self._rewrite()
        else:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.names, restval="").writerow(row)
        self.events.add(values, step)

    def _rewrite(self) -> None:
        with atomic_path(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.names, restval="")
            writer.writeheader()
            writer.writerows(self.rows)

    def on_train_end(self, trainer: lightning.Trainer, engine: Engine) -> None:  # type: ignore[override]
        self.events.close()
