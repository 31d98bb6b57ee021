"""The store: prepared arrays of one data set on disk, mapped into memory by every process that trains on them.

    FOLDER/NAME-KEY/        KEY is of the preparation part of the plan and the place of the data set
      store.json            what it holds, and the version of this layout
      images/CASE.npy       float32 (C, X, Y, Z); .b2nd where compressed
      images/CASE.json      placement, and the files the image was made from
      images-KEY/CASE...    of a modality with a normalisation of its own, of which KEY is
      labels-KEY/CASE.npy   uint8 (X, Y, Z); KEY is of the label map, for a set may be trained with several
      labels-KEY/CASE.npz   sampled voxels of each class
      labels-KEY/CASE.json  placement, and the file the label was made from

Labels are made when they are first asked for, so that stores are alike however many labels are hidden, and a hidden
label is never read. Every file is written in one step, a case's .json last: what a killed process left unfinished the
next one makes.
"""

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from semivox import __version__
from semivox.atomic import atomic_path, atomic_write_text
from semivox.data.case import Case, Dataset
from semivox.data.image import read_classes, read_image
from semivox.data.labels import IGNORE
from semivox.errors import DataError, ResourceError, RunError, unknown
from semivox.parallel import Progress, run_all
from semivox.preparation.array_file import ENDINGS
from semivox.preparation.entry import Entry, Record, damaged
from semivox.preparation.placement import Placement
from semivox.preparation.prepare import prepare_image, prepare_label
from semivox.preparation.settings import Preparation
from semivox.preparation.size import header_grid, store_size
from semivox.preparation.source import Source, are_untouched, files_of, hold_the_same, sources_of

FORMAT = 1
"""Version of the layout above and of the values in it: raise it with either."""

FOREGROUND_VOXELS = 10_000
"""Voxels kept per class and case for oversampling: far more than patches are ever drawn around one class of a case."""

OPEN_FILES = 256
"""Arrays kept open per process, well below the usual limit of 1024 open files."""


class Store:
    """The prepared cases of a data set, as `make_store` gives it. Light to pickle: files are opened when first used.

    Arrays are read from disk only where they are indexed (NumPy memory maps; blosc2 arrays where compressed).
    """

    def __init__(self, folder: Path, dataset: Dataset, preparation: Preparation) -> None:
        self.folder = folder
        self.dataset = dataset
        self.preparation = preparation
        self._cases = {case.id: case for case in dataset}
        self._open: dict[tuple[str, str], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def image(self, case_id: str) -> np.ndarray:
        """The prepared image, float32 (C, X, Y, Z), read-only. Raises RunError where its file is gone or damaged."""
        key = ("image", case_id)
        if key in self._open:
            return self._open[key]
        return self._opened(key, self._image_entry(self._case(case_id)))

    def placement(self, case_id: str) -> Placement:
        """How the case came from its file's grid to the prepared one. Raises RunError as `image` does."""
        return self._image_record(self._case(case_id)).placement

    def sources(self, case_id: str) -> tuple[Source, ...]:
        """The files that the prepared image was made from, with their checksums. Raises RunError as `image` does."""
        return self._image_record(self._case(case_id)).sources

    def label(self, case_id: str) -> np.ndarray:
        """The prepared label, class indices uint8 (X, Y, Z), read-only; made now where it is not there yet.

        Raises DataError where the case has no label (or a hidden one), or its file cannot be used.
        """
        case, key = self._labelled(case_id), ("label", case_id)
        if key in self._open:
            return self._open[key]
        if not self._label_is_made(case):
            self.make_labels([case_id])
        return self._opened(key, self._label_entry(case))

    def foreground(self, case_id: str) -> dict[int, np.ndarray]:
        """Class → up to 10,000 of its voxels, int32 (n, 3) indices into the label; absent classes are left out.

        The same voxels each time, in the order in which they lie in memory. Raises as `label` does.
        """
        with self._sampled(case_id) as voxels:
            return {int(index): voxels[index] for index in voxels.files}

    def classes(self, case_id: str) -> tuple[int, ...]:
        """The foreground classes of a label; once it is made no voxel is read for that. Raises as `label` does."""
        with self._sampled(case_id) as voxels:
            return tuple(sorted(int(index) for index in voxels.files))

    @contextmanager
    def _sampled(self, case_id: str) -> Iterator[Any]:
        """The file of a label's sampled voxels, whose names are the classes."""
        self.label(case_id)
        file = self._label_entry(self._case(case_id)).beside(".npz")
        try:
            with np.load(file, allow_pickle=False) as voxels:
                yield voxels
        except (OSError, EOFError, ValueError, BadZipFile):
            raise damaged(file, self.folder) from None

    def make_labels(
        self, case_ids: Iterable[str] | None = None, workers: int = 1, progress: Progress | None = None
    ) -> None:
        """Makes the labels of these cases (None: of all that have one) in advance. Raises as `label` does."""
        if case_ids is None:
            case_ids = [case.id for case in self.dataset if case.label is not None]
        cases = [self._labelled(case_id) for case_id in case_ids]
        if all(map(self._label_is_made, cases)):
            return
        with _locked(self.folder):
            missing = [case for case in cases if not self._label_is_made(case)]
            run_all(self._make_label, missing, workers, progress)

    @property
    def size_bytes(self) -> int:
        """What the store takes on disk now."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    def _case(self, case_id: str) -> Case:
        if case_id not in self._cases:
            raise unknown("case", case_id, self._cases)
        return self._cases[case_id]

    def _labelled(self, case_id: str) -> Case:
        case = self._case(case_id)
        if case.label is None:
            raise DataError(f"case {case_id} has no label; ask for labelled cases only")
        return case

    def _entry(self, folder: str, case: Case) -> Entry:
        return Entry(self.folder / folder / (file_name(case.id) + ENDINGS[self.preparation.compression]))

    def _image_entry(self, case: Case) -> Entry:
        own = self._preparation_of(case).normalisation
        if own == self.preparation.normalisation:
            return self._entry("images", case)
        return self._entry(f"images-{digest([channel.model_dump(mode='json') for channel in own])[:8]}", case)

    def _preparation_of(self, case: Case) -> Preparation:
        return self.preparation.of(self.dataset.modality(case))

    def _label_entry(self, case: Case) -> Entry:
        annotated = self.dataset.tasks.get(case.task, self.dataset.labels.foreground)
        maps = [asdict(label_map) for label_map in (self.dataset.labels, case.label_map) if label_map]
        return self._entry(f"labels-{digest([maps, annotated])[:8]}", case)

    def _image_record(self, case: Case) -> Record:
        record = self._image_entry(case).record()
        if record is None:
            raise damaged(self._image_entry(case).array, self.folder)
        return record

    def _opened(self, key: tuple[str, str], entry: Entry) -> Any:
        if len(self._open) >= OPEN_FILES:
            del self._open[next(iter(self._open))]
        self._open[key] = entry.open()
        return self._open[key]

    def _image_is_made(self, case: Case) -> bool:
        record = self._image_entry(case).record()
        return record is not None and are_untouched(record.sources, files_of(case.id, case.images))

    def _label_is_made(self, case: Case) -> bool:
        record = self._label_entry(case).record()
        return (
            record is not None
            and record.placement == self._image_record(case).placement
            and are_untouched(record.sources, files_of(case.id, [_label_file(case)]))
        )

    def _make_image(self, case: Case) -> None:
        entry, now = self._image_entry(case), sources_of(case.id, case.images)
        before = entry.record()
        if before is not None and hold_the_same(before.sources, now):
            with _writing(self.folder):
                entry.write_record(Record(before.placement, now))
            return
        volume = read_image(case, self.dataset)
        with _naming(case.id, *case.images):
            array, placement = prepare_image(volume, self._preparation_of(case))
        with _writing(self.folder):
            entry.write(array, Record(placement, now))

    def _make_label(self, case: Case) -> None:
        entry, now = self._label_entry(case), sources_of(case.id, [_label_file(case)])
        placement = self._image_record(case).placement
        volume = read_classes(case, self.dataset, placement.source_grid)
        with _naming(case.id, _label_file(case)):
            label = prepare_label(volume.array, placement, self.preparation)
        with _writing(self.folder):
            entry.clear()
            with atomic_path(entry.beside(".npz")) as temporary:
                np.savez(temporary, allow_pickle=False, **sample_foreground(label, case.id))
            entry.write(label, Record(placement, now))


def make_store(
    dataset: Dataset, preparation: Preparation, folder: Path, workers: int = 1, progress: Progress | None = None
) -> Store:
    """The store of all cases of `dataset` under `folder`; only what is missing or whose files have changed is made.

    `workers` threads prepare cases side by side; `progress(done, total)` counts the cases to be made. Of two
    processes that make the same store one waits for the other. Labels are not read.

    Raises DataError naming case and file where one cannot be used, ResourceError where the disk is too small (before
    anything is written) or the folder cannot be written, RunError where another version made the store.
    """
    key = digest([FORMAT, shared(preparation), str(dataset.root.resolve())])[:12]
    store = Store(Path(folder).resolve() / f"{plain(dataset.name)}-{key}", dataset, preparation)
    _check_version(store.folder)
    if not all(map(store._image_is_made, dataset)):
        with _locked(store.folder):
            _describe(store)
            missing = [case for case in dataset if not store._image_is_made(case)]
            _check_disk(store, missing)
            run_all(store._make_image, missing, workers, progress)
    return store


def shared(preparation: Preparation) -> dict[str, Any]:
    """What all cases of a store have in common: a modality's own normalisation is in the name of a folder."""
    return preparation.model_dump(mode="json", exclude={"modalities"})


def sample_foreground(label: np.ndarray, case_id: str) -> dict[str, np.ndarray]:
    """Class (as text) → at most `FOREGROUND_VOXELS` of its voxels, int32 (n, 3); drawn by the case's name alone."""
    generator = np.random.default_rng(int(digest(case_id)[:16], 16))
    voxels = {}
    counts = sum(np.bincount(plane.ravel(), minlength=IGNORE + 1) for plane in label)
    for index in np.flatnonzero(counts):
        if index in (0, IGNORE):
            continue
        places = np.flatnonzero(label == index)
        if len(places) > FOREGROUND_VOXELS:
            places = np.sort(generator.choice(places, FOREGROUND_VOXELS, replace=False))
        voxels[str(index)] = np.stack(np.unravel_index(places, label.shape), axis=1).astype(np.int32)
    return voxels


def file_name(case_id: str) -> str:
    """The id where it is plain; else what of it is, and a digest that keeps different ids apart."""
    if re.fullmatch(r"\w[\w.-]{0,99}", case_id, re.ASCII):
        return case_id
    return f"{plain(case_id)}~{digest(case_id)[:12]}"


def plain(name: str) -> str:
    """`name` without what a file name should not hold, cut short."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:40]


def digest(content: Any) -> str:
    """sha256 of plain content, in hex."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _label_file(case: Case) -> Path:
    assert case.label is not None
    return case.label


def _check_version(folder: Path) -> None:
    file = folder / "store.json"
    try:
        version = json.loads(file.read_text(encoding="utf-8"))["format"]
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError, KeyError, TypeError):
        raise damaged(file, folder) from None
    if version != FORMAT:
        raise RunError(
            f"{folder}: store of format {version}, this version of Semivox makes {FORMAT};"
            " delete the folder, it is made again when needed"
        )


def _describe(store: Store) -> None:
    content = {
        "format": FORMAT,
        "semivox": __version__,
        "dataset": store.dataset.name,
        "root": str(store.dataset.root),
        "preparation": shared(store.preparation),
    }
    with _writing(store.folder):
        atomic_write_text(store.folder / "store.json", json.dumps(content, indent=2))


def _check_disk(store: Store, cases: list[Case]) -> None:
    """What compression saves is not known before, so a compressed store is only stopped by a disk that is full."""
    if store.preparation.compression != "none":
        return
    grids = [grid for case in cases if (grid := header_grid(case.images[0]))]
    needed = store_size(grids, len(store.dataset.channels), store.preparation)
    free = shutil.disk_usage(store.folder).free
    if needed > free:
        raise ResourceError(
            f"{store.folder}: the store needs up to {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free;"
            " free some, name a folder on another disk, or set preparation.compression=blosc2"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Waits until no other process makes this store; what a killed one left half-written is cleared away."""
    with ExitStack() as stack:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(folder / ".lock", "w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        for leftover in [*folder.glob(".writing-*"), *folder.glob("*/.writing-*")]:
            shutil.rmtree(leftover, ignore_errors=True)
        yield


@contextmanager
def _naming(case_id: str, *files: Path) -> Iterator[None]:
    """Adds case and files to a fault that was met where they are not known."""
    try:
        yield
    except DataError as error:
        raise DataError(f"case {case_id}: {', '.join(map(str, files))}: {error}") from None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """A folder that cannot be written, or a full disk, in one line."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be written ({error.strerror or error}); free some space or name another folder"
        ) from None
