"""Pseudo-labels of a run: how a stage makes them, and where they lie.

    RUN/pseudo_labels/STAGE/
      made_from.json    a digest of the weights and settings that label; labels of others are thrown away
      cases/CASE.npy    uint8 (X, Y, Z) on the prepared grid
      cases/CASE.json   its reliability; written last: where it is, the label is whole
      kept.json         the cases that the stage trains on, where not all are

Every file is written in one step, so that a process killed half-way leaves only whole ones.
"""

import json
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semivox.atomic import atomic_write_text
from semivox.data.case import Case, Dataset
from semivox.errors import RunError
from semivox.inference.augmentation import Predictor
from semivox.inference.windows import Windows
from semivox.methods.stage_tools import Labeller, PseudoLabels
from semivox.preparation.array_file import open_array, save_array
from semivox.preparation.store import Store, file_name
from semivox.progress import progress, say
from semivox.sampling.draws import seed_of


class StoredLabels:
    """The pseudo-labels of one stage in a folder, by case id. Light to pickle; files are opened when read."""

    def __init__(self, folder: Path, case_ids: Collection[str]) -> None:
        self.folder = folder
        self.case_ids = tuple(case_ids)

    def forget_others(self, made_from: str) -> None:
        """Removes labels that were not made from `made_from`, and what a killed process left half-written."""
        try:
            same = json.loads((self.folder / "made_from.json").read_text(encoding="utf-8")) == made_from
        except (OSError, ValueError):
            same = False
        for leftover in self.folder.rglob(".writing-*") if same else (self.folder,):
            shutil.rmtree(leftover, ignore_errors=True)

    def begin(self, made_from: str) -> None:
        """Notes what the labels to come are made from."""
        atomic_write_text(self.folder / "made_from.json", json.dumps(made_from))

    def __contains__(self, case_id: str) -> bool:
        return self._file(case_id, ".json").exists()

    def write(self, case_id: str, label: np.ndarray, reliability: float | None = None) -> None:
        """Stores a label; the one of that case before goes."""
        save_array(self._file(case_id, ".npy"), label)
        atomic_write_text(self._file(case_id, ".json"), json.dumps({"reliability": reliability}))

    def read(self, case_id: str) -> np.ndarray:
        """A label, uint8 (X, Y, Z), mapped from its file. Raises RunError where it is missing or damaged."""
        file = self._file(case_id, ".npy")
        try:
            return open_array(file)
        except (OSError, EOFError, ValueError):
            raise self._damaged(file) from None

    def reliability(self, case_id: str) -> float | None:
        """What was stored along with a label. Raises as `read` does."""
        file = self._file(case_id, ".json")
        try:
            return json.loads(file.read_text(encoding="utf-8"))["reliability"]
        except (OSError, ValueError, KeyError, TypeError):
            raise self._damaged(file) from None

    def keep(self, case_ids: Collection[str]) -> None:
        """Lets the stage train on these cases only."""
        atomic_write_text(self.folder / "kept.json", json.dumps(sorted(case_ids)))

    @property
    def kept(self) -> tuple[str, ...]:
        """The cases that the stage trains on, in the data set's order. Raises RunError where there are none."""
        file = self.folder / "kept.json"
        try:
            chosen = set(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            chosen = set(self.case_ids)
        except (OSError, ValueError):
            raise self._damaged(file) from None
        kept = tuple(case_id for case_id in self.case_ids if case_id in chosen and case_id in self)
        if not kept:
            raise self._damaged(self.folder)
        return kept

    def _file(self, case_id: str, ending: str) -> Path:
        return self.folder / "cases" / (file_name(case_id) + ending)

    def _damaged(self, file: Path) -> RunError:
        return RunError(
            f"{file}: no pseudo-label, or a damaged one, though the run's stage '{self.folder.name}' trains on it;"
            " start the run anew with another --out"
        )


class BlankLabels:
    """Pseudo-labels that are background everywhere: for a stage that is only timed or looked at."""

    def __init__(self, store: Store, case_ids: Collection[str]) -> None:
        self.store = store
        self.kept = tuple(case_ids)

    def read(self, case_id: str) -> np.ndarray:
        return np.broadcast_to(np.uint8(0), self.store.image(case_id).shape[1:])


@dataclass
class Labelling:
    """What a run labels its unlabelled scans with, on one of its `ranks` processes.

    folder: where pseudo-labels lie; None: nowhere, stages that train on some get blank ones.
    """

    dataset: Dataset
    store: Store
    windows: Windows
    folder: Path | None
    rank: int
    ranks: int
    after_case: Callable[[], None] = lambda: None
    """Called after each case: a place to stop."""

    def labels_of(self, stage: str) -> StoredLabels | BlankLabels:
        """The pseudo-labels of a stage."""
        case_ids = [case.id for case in self.dataset.unlabelled()]
        if self.folder is None:
            return BlankLabels(self.store, case_ids)
        return StoredLabels(self.folder / file_name(stage), case_ids)

    def tools(self, stage: str, title: str, seed: int, made_from: str, device: torch.device) -> "Tools":
        """What the stage is prepared with. `made_from` stands for all that its labels follow from."""
        assert self.folder is not None
        labels = StoredLabels(self.folder / file_name(stage), [case.id for case in self.dataset.unlabelled()])
        if self.rank == 0:
            labels.forget_others(made_from)
        self.wait()
        return Tools(self, labels, title, seed, made_from, device)

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self.ranks > 1:
            torch.distributed.barrier()


@dataclass(frozen=True)
class Tools:
    """See `methods.stage_tools.StageTools`."""

    labelling: Labelling
    labels: StoredLabels
    title: str
    seed: int
    made_from: str
    device: torch.device

    @property
    def cases(self) -> tuple[Case, ...]:
        return self.labelling.dataset.unlabelled()

    def labels_of(self, stage: str) -> PseudoLabels:
        labels = self.labelling.labels_of(stage)
        assert isinstance(labels, StoredLabels)
        return labels

    def predict(self, case: Case, function: Predictor) -> Tensor:
        volume = torch.from_numpy(np.array(self.labelling.store.image(case.id))).to(self.device)
        return self.labelling.windows.run(function, volume)

    def label(self, cases: Sequence[Case], function: Labeller) -> None:
        run = self.labelling
        mine = cases[run.rank :: run.ranks]
        missing = sum(case.id not in self.labels for case in cases)
        started = time.monotonic()
        if run.rank == 0 and missing:
            self.labels.begin(self.made_from)
            say(f"{self.title}: labelling {missing} of {len(cases)} unlabelled scans")
        shown: Any = progress("pseudo-labels") if run.rank == 0 else nullcontext(lambda done, total: None)
        run.wait()
        with shown as report:
            report(0, len(cases))
            for done, case in enumerate(mine, start=1):
                if case.id not in self.labels:
                    self._label(case, function)
                    run.after_case()
                report(min(done * run.ranks, len(cases)), len(cases))
        run.wait()
        if run.rank == 0 and missing:
            say(f"{self.title}: labelled in {time.monotonic() - started:.0f} s")

    def _label(self, case: Case, function: Labeller) -> None:
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed_of(self.seed, case.id))
            found, reliability = function(case)
        label = found.cpu().numpy() if isinstance(found, Tensor) else found
        shape = self.labelling.store.image(case.id).shape[1:]
        if label.shape != shape:
            raise ValueError(f"case {case.id}: a pseudo-label of shape {label.shape} for a prepared scan of {shape}")
        self.labels.write(case.id, label.astype(np.uint8), reliability)
