"""What a data set looks like: sizes, spacings and intensities of every scan, the unlabelled ones too.

Nothing in it comes from a label, except sizes of classes where they are asked for; hidden labels are never opened, for
their cases have no label path.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from semivox.atomic import atomic_write_text
from semivox.data.case import Case, Dataset, modality_name
from semivox.data.image import read_classes, read_image
from semivox.data.labels import IGNORE
from semivox.errors import RunError
from semivox.preparation.cropping import body_box
from semivox.preparation.orientation import ras_axes, reorient, slice_axis
from semivox.settings import Part, first_fault

AIR_HU = -950.0
"""Voxels of a CT below this are air round the patient (lung is denser) and say nothing about the body."""

SAMPLES = 20_000
"""Voxels per scan and channel from which percentiles are taken, evenly spread over the body."""

LOW, HIGH = 0.5, 99.5
"""Percentiles that bound the intensities worth telling apart (nnU-Net's choice)."""


class Intensity(Part):
    """Intensities of one channel over the voxels of the body: the box outside which the image is constant, for a
    channel named CT without air."""

    mean: float
    deviation: float
    low: float
    """0.5th percentile."""
    median: float
    high: float
    """99.5th percentile."""


class Scan(Part):
    """One case. Axes are X, Y, Z in RAS order, as after preparation."""

    case: str
    split: str
    domain: str
    channels: tuple[str, ...]
    shape: tuple[int, int, int]
    """Voxels of the scan."""
    body: tuple[int, int, int]
    """Voxels of its body box."""
    spacing_mm: tuple[float, float, float]
    last_axis: Literal[0, 1, 2] = 2
    """The axis that is the last in its file."""
    is_picture: bool
    dtype: str
    """Type of the voxels as read."""
    intensities: tuple[Intensity, ...]
    """One per channel."""
    sha256: dict[str, str]
    """Image file, relative to the data set where it lies inside, → checksum."""
    class_shares: dict[str, float] | None = None
    """Label name → share of the scan's known voxels; None where there is no label or it was not asked for."""
    class_ml: dict[str, float] | None = None
    """Label name → its volume; None as `class_shares`, and for a picture."""

    def arranged(self, slices_last: bool) -> "Scan":
        """The scan with its axes as a preparation with that `slices_last` has them."""
        if not slices_last:
            return self
        across = slice_axis(self.spacing_mm, self.last_axis)
        order = [*(axis for axis in range(3) if axis != across), across]
        changed = {name: tuple(getattr(self, name)[axis] for axis in order) for name in ("shape", "body", "spacing_mm")}
        return self.model_copy(update={**changed, "last_axis": 2})


class Modality(Part):
    """The training scans with one set of channel names: their intensities, pooled."""

    channels: tuple[str, ...]
    intensities: tuple[Intensity, ...]
    """One per channel."""

    @property
    def name(self) -> str:
        return modality_name(self.channels)


class Fingerprint(Part):
    """A data set's scans, and the modalities that they are of."""

    dataset: str
    channels: tuple[str, ...]
    scans: tuple[Scan, ...]
    modalities: tuple[Modality, ...]
    """In order of first appearance: one, but for joined sets of several."""

    @property
    def training(self) -> tuple[Scan, ...]:
        """Scans that plans are made from: those of the training split, or all where there is none."""
        return tuple(scan for scan in self.scans if scan.split == "train") or self.scans

    def checksums(self) -> dict[str, str]:
        """Image file → sha256, over all scans."""
        return {file: checksum for scan in self.scans for file, checksum in scan.sha256.items()}

    def mean_class_shares(self) -> dict[str, float]:
        """Label name → mean share over the scans where it is known."""
        known = [scan.class_shares for scan in self.scans if scan.class_shares is not None]
        names = dict.fromkeys(name for shares in known for name in shares)
        return {name: float(np.mean([shares[name] for shares in known if name in shares])) for name in names}

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        atomic_write_text(path, self.model_dump_json(indent=1))

    @classmethod
    def load(cls, path: Path) -> "Fingerprint":
        """Reads what `save` wrote; RunError where it is something else."""
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except ValidationError as error:
            raise RunError(f"{path}: is no fingerprint ({first_fault(error)}); delete it and run again") from None
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror}); delete it and run again") from None


def fingerprint(
    dataset: Dataset,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    classes: bool = False,
) -> Fingerprint:
    """Reads every scan of `dataset` once, with `workers` threads. `progress(done, total)` counts cases.

    `classes` opens the labels too, where a case has one, for `class_shares` and `class_ml`. Raises DataError where a
    file cannot be read.
    """
    read: dict[str, tuple[Scan, np.ndarray]] = {}
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(_scan, case, dataset, classes): case for case in dataset}
        try:
            for future in as_completed(waiting):
                read[waiting[future].id] = future.result()
                if progress:
                    progress(len(read), len(waiting))
        finally:
            # After a fault, or Ctrl-C, the cases not yet begun are not read.
            pool.shutdown(wait=False, cancel_futures=True)
    scans = tuple(read[case.id][0] for case in dataset)
    found = Fingerprint(dataset=dataset.name, channels=dataset.channels, scans=scans, modalities=())
    samples: dict[tuple[str, ...], list[np.ndarray]] = {}
    for scan in found.training:
        samples.setdefault(scan.channels, []).append(read[scan.case][1])
    return found.model_copy(update={"modalities": tuple(_modality(*of_one) for of_one in samples.items())})


def _modality(channels: tuple[str, ...], samples: Sequence[np.ndarray]) -> Modality:
    """`samples`: (C, n) of each scan."""
    pooled = tuple(_intensity(np.concatenate(channel)) for channel in zip(*samples, strict=True))
    return Modality(channels=channels, intensities=pooled)


def _scan(case: Case, dataset: Dataset, classes: bool) -> tuple[Scan, np.ndarray]:
    """One case, and a sample (C, n) of the intensities in its body."""
    volume = read_image(case, dataset)
    axes, flips = ras_axes(volume.grid.affine)
    array = reorient(volume.array, axes, flips)
    body = body_of(array)
    samples = sampled(body, dataset.channels_of(case))
    shape, spacing = volume.array.shape[1:], volume.grid.spacing_mm
    scan = Scan(
        case=case.id,
        split=case.split,
        domain=case.domain,
        channels=dataset.channels_of(case),
        shape=(shape[axes[0]], shape[axes[1]], shape[axes[2]]),
        body=body.shape[1:],
        spacing_mm=(spacing[axes[0]], spacing[axes[1]], spacing[axes[2]]),
        last_axis=axes.index(2),
        is_picture=volume.is_picture,
        dtype=volume.array.dtype.name,
        intensities=tuple(_intensity(sample) for sample in samples),
        sha256=dict(_checksums(case.images, dataset.root)),
    )
    if classes and case.label is not None:
        counts, voxel_ml = _class_counts(case, dataset), float(np.prod(spacing)) / 1000
        total = max(sum(counts.values()), 1)
        known = [name for name, is_known in zip(counts, dataset.known_classes(case.task), strict=True) if is_known]
        sizes = {"class_shares": {name: counts[name] / total for name in known}}
        if not volume.is_picture:
            sizes["class_ml"] = {name: counts[name] * voxel_ml for name in known}
        scan = scan.model_copy(update=sizes)
    return scan, samples


def body_of(array: np.ndarray) -> np.ndarray:
    """The part of a scan (C, X, Y, Z) that is not constant background."""
    return array[(slice(None), *(slice(start, stop) for start, stop in body_box(array)))]


def sampled(body: np.ndarray, channels: Iterable[str]) -> np.ndarray:
    """(C, `SAMPLES`) intensities, evenly spread over a body (C, X, Y, Z); of a channel named CT without air."""
    return np.stack([_sample(values, is_ct=name == "CT") for name, values in zip(channels, body, strict=True)])


def _sample(channel: np.ndarray, is_ct: bool) -> np.ndarray:
    """`SAMPLES` values of a body (X, Y, Z), float64: the same for every scan, so that each counts alike when pooled."""
    values = np.asarray(channel, np.float32).ravel()
    if is_ct:
        patient = values[values > AIR_HU]
        values = patient if patient.size else values
    places = np.linspace(0, values.size - 1, SAMPLES).astype(np.int64)
    return values[places].astype(np.float64)


def _intensity(sample: np.ndarray) -> Intensity:
    low, median, high = np.percentile(sample, (LOW, 50, HIGH))
    inside = sample.clip(low, high)
    return Intensity(mean=inside.mean(), deviation=inside.std(), low=low, median=median, high=high)


def _class_counts(case: Case, dataset: Dataset) -> dict[str, int]:
    """Class → its voxels in the label."""
    counts = np.bincount(read_classes(case, dataset).array.ravel(), minlength=IGNORE + 1)
    return dict(zip(dataset.labels.names, counts[: dataset.labels.count].tolist(), strict=True))


def _checksums(files: Iterable[Path], root: Path) -> Iterable[tuple[str, str]]:
    for path in files:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                with open(file, "rb") as content:
                    yield name_of(file, root), hashlib.file_digest(content, "sha256").hexdigest()


def name_of(file: Path, root: Path) -> str:
    """By what name a checksum goes: relative to the data set at `root` where the file lies inside, else whole."""
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()
