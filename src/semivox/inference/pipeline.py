"""Prediction of many scans: the next one is read while one is computed and the one before is written."""

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from semivox.atomic import atomic_path
from semivox.data.case import Case, Dataset
from semivox.data.fault import FaultError
from semivox.data.image import label_ending, map_ending, read_image, write_label, write_map
from semivox.data.labels import LabelMap
from semivox.data.volume import Grid
from semivox.errors import DataError, RunError, SemivoxError
from semivox.inference.inputs import Input
from semivox.inference.postprocessing import cleaned
from semivox.inference.uncertainty import entropy_map
from semivox.preparation.placement import Placement
from semivox.preparation.prepare import prepare_image, prepare_label
from semivox.preparation.restore import restore_map, restore_probabilities
from semivox.preparation.settings import Preparation

ALONE_ABOVE_BYTES = 2**30
"""A scan whose probabilities take more than this (as float16) has the memory to itself: nothing is read beside it."""


@dataclass(frozen=True)
class Oracle:
    """Prompts from reference labels, for methods that take prompts."""

    labels: Callable[[Input, Grid], np.ndarray]
    """Scan and its grid → class indices (X, Y, Z) there, uint8."""
    predict_volume: Callable[[Tensor, Tensor, str], Tensor]
    """As that of `predict_cases`, with the prepared label (X, Y, Z) second."""


class Results(Protocol):
    """What becomes of predictions: `Outputs`, or what another command makes of them."""

    @property
    def folder(self) -> Path:
        """Where they are written; made where it is missing."""

    def label(self, item: Input) -> Path:
        """The label file of a case."""

    def complete(self, item: Input) -> bool:
        """Whether every file of the case is there, and whole."""

    def write(self, item: Input, probabilities: Tensor, placement: Placement, labels: LabelMap) -> None:
        """Writes a case from class probabilities (K, X, Y, Z) on the prepared grid."""


@dataclass(frozen=True)
class Outputs:
    """What is made of each case, as files in `folder`, all on the scan's own grid.

    Always CASE, the label, with `ending` (None: what suits the image). On demand CASE_uncertainty (entropy from 0 to 1,
    as .nii.gz, or .tif for a picture), CASE_probabilities.npz (`probabilities`, float16 (K, X, Y, Z)), and in a folder
    for each class CASE with that class alone, as 1.
    """

    folder: Path
    ending: str | None = None
    keep_continuous: bool = False
    largest_component: bool = False
    uncertainty: bool = False
    probabilities: bool = False
    class_folders: Mapping[str, str] = field(default_factory=dict)
    """Class, or region, → the name of its folder."""

    def label(self, item: Input) -> Path:
        return self.folder / f"{item.case}{self.ending or label_ending(item.files[0])}"

    def uncertainty_map(self, item: Input) -> Path:
        return self.folder / f"{item.case}_uncertainty{map_ending(item.files[0])}"

    def probability_file(self, item: Input) -> Path:
        return self.folder / f"{item.case}_probabilities.npz"

    def class_files(self, item: Input) -> dict[str, Path]:
        """Class → its file."""
        return {name: self.folder / folder / self.label(item).name for name, folder in self.class_folders.items()}

    def complete(self, item: Input) -> bool:
        """Whether every file of the case is there; each is written in one step, so being there is being whole."""
        return (
            self.label(item).exists()
            and (not self.uncertainty or self.uncertainty_map(item).exists())
            and (not self.probabilities or self.probability_file(item).exists())
            and all(file.exists() for file in self.class_files(item).values())
        )

    def write(self, item: Input, probabilities: Tensor, placement: Placement, labels: LabelMap) -> None:
        """Writes all files of a case, the label last: where it is, all is."""
        if self.uncertainty:
            entropy = restore_map(entropy_map(probabilities).numpy(), placement)
            write_map(self.uncertainty_map(item), entropy, placement.source_grid)
        if self.probabilities:
            maps = np.empty((len(probabilities), *placement.source_shape), np.float16)
            for index, share in enumerate(probabilities.numpy()):
                # What was cropped away is background.
                maps[index] = restore_map(share, placement, outside=float(index == 0))
            with atomic_path(self.probability_file(item)) as path:
                np.savez_compressed(path, probabilities=maps)
        classes = restore_probabilities(probabilities.numpy(), placement)
        classes = cleaned(
            classes, placement.source_grid, continuous=self.keep_continuous, largest=self.largest_component
        )
        scored = labels.scored()
        for name, file in self.class_files(item).items():
            write_label(file, np.isin(classes, scored[name]).astype(np.uint8), placement.source_grid)
        write_label(self.label(item), labels.to_values(classes), placement.source_grid)


def make_folder(folder: Path) -> None:
    """Raises RunError where nothing can be written: better now than after the first scan."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RunError(f"{folder}: cannot be written to ({error.strerror}); choose another --out") from None


def folder_names(names: Iterable[str]) -> dict[str, str]:
    """Class → a folder's name: safe on every system, and each its own.

    >>> folder_names(["LV", "left atrium", "left/atrium", ".."])
    {'LV': 'LV', 'left atrium': 'left_atrium', 'left/atrium': 'left_atrium-2', '..': '_'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        safe = re.sub(r"[^\w-]+", "_", name)[:60] or "class"
        numbered = (f"{safe}-{number}" for number in count(2))
        # Some file systems do not tell LV and lv apart.
        found[name] = next(one for one in chain([safe], numbered) if one.casefold() not in taken)
        taken.add(found[name].casefold())
    return found


def predict_cases(
    inputs: Sequence[Input],
    predict_volume: Callable[[Tensor, str], Tensor],
    preparation: Preparation,
    channels: Sequence[str],
    labels: LabelMap,
    outputs: Results,
    *,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
    oracle: Oracle | None = None,
) -> list[Path]:
    """Predicts and writes every case of `inputs` that is not there yet; returns the label files of all, in their order.

    `predict_volume` maps a prepared scan (C, X, Y, Z), float32 on `device` (default CPU), and its task to class
    probabilities (K, X, Y, Z); `oracle` takes its place where it is given. `progress(done, total)` counts cases. A case
    that fails does not stop the others: after the last one a DataError lists all that failed, each with what to mend.
    """
    make_folder(outputs.folder)
    todo = [item for item in inputs if not outputs.complete(item)]
    dataset = Dataset("inputs", outputs.folder, tuple(channels), labels, ())
    steps = _Steps(predict_volume, preparation, dataset, outputs, device, oracle)
    done = len(inputs) - len(todo)
    upcoming = iter(todo)
    writing: Future[None] | None = None
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:

        def read_next() -> Future[_Scan | None] | None:
            item = next(upcoming, None)
            return None if item is None else reader.submit(steps.read, item)

        reading = read_next()
        while reading:
            if progress:
                progress(done, len(inputs))
            scan = reading.result()
            alone = scan is not None and 2 * labels.count * scan.image[0].numel() > ALONE_ABOVE_BYTES
            reading = None if alone else read_next()
            probabilities = steps.compute(scan) if scan else None
            if writing:
                writing.result()
            if scan and probabilities is not None:
                writing = writer.submit(steps.write, scan, probabilities)
            del scan, probabilities
            if alone:
                if writing:
                    writing.result()
                reading = read_next()
            done += 1
    if progress:
        progress(done, len(inputs))
    if steps.faults:
        raise DataError(f"{len(steps.faults)} of {len(inputs)} cases failed: {'; '.join(steps.faults)}")
    return [outputs.label(item) for item in inputs]


@dataclass(frozen=True)
class _Scan:
    """A case that is read and prepared."""

    item: Input
    image: Tensor
    placement: Placement
    label: Tensor | None
    """Of the oracle."""


class _Steps:
    """The three steps of one case. A step that fails for a reason a user can mend notes it and gives None."""

    def __init__(
        self,
        predict_volume: Callable[[Tensor, str], Tensor],
        preparation: Preparation,
        dataset: Dataset,
        outputs: Results,
        device: torch.device | None,
        oracle: Oracle | None,
    ) -> None:
        self.predict_volume = predict_volume
        self.preparation = preparation
        self.dataset = dataset
        self.outputs = outputs
        self.device = device
        self.oracle = oracle
        self.faults: list[str] = []

    def read(self, item: Input) -> _Scan | None:
        with self._noting_faults(item):
            volume = read_image(Case(item.case, item.files, split="test"), self.dataset)
            preparation = self.preparation.of(item.modality)
            image, placement = prepare_image(volume, preparation)
            label = None
            if self.oracle is not None:
                classes = self.oracle.labels(item, volume.grid)
                label = torch.from_numpy(prepare_label(classes, placement, preparation))
            return _Scan(item, torch.from_numpy(image), placement, label)
        return None

    def compute(self, scan: _Scan) -> Tensor | None:
        with self._noting_faults(scan.item), torch.no_grad():
            image, task = scan.image.to(self.device), scan.item.task
            if self.oracle is None or scan.label is None:
                return self.predict_volume(image, task).cpu()
            return self.oracle.predict_volume(image, scan.label.to(self.device), task).cpu()
        return None

    def write(self, scan: _Scan, probabilities: Tensor) -> None:
        with self._noting_faults(scan.item):
            self.outputs.write(scan.item, probabilities, scan.placement, self.dataset.labels)

    @contextmanager
    def _noting_faults(self, item: Input) -> Iterator[None]:
        case = item.case
        try:
            yield
        except FaultError as error:
            self.faults.append(str(replace(error.fault, case=case)))
        except SemivoxError as error:
            self.faults.append(f"case {case}: {item.files[0]}: {error}")
        except OSError as error:
            self.faults.append(
                f"case {case}: {error}; check the space left in {self.outputs.folder} and who may write there"
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.faults.append(
                f"case {case}: {item.files[0]}: out of memory; predict fewer windows per batch, or on another device"
            )


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch or Python means that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
