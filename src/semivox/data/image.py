"""Reads and writes scans and label maps, whatever their format. One file per format does the work.

Everything read is a `Volume` in the order (channel, X, Y, Z) with an affine to millimetres in RAS+.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from semivox.data import itk, nifti, picture
from semivox.data.case import Case, Dataset
from semivox.data.fault import Fault, FaultError
from semivox.data.volume import Grid, Volume
from semivox.errors import ResourceError

ENDINGS = (*nifti.ENDINGS, *picture.ENDINGS, *itk.ENDINGS)
"""Endings of the files that `read_volume` reads."""


def ending_of(path: Path) -> str:
    """The ending of a file name, as it is written there: ".nii.gz". Raises FaultError for one that is not known."""
    for ending in ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[-len(ending) :]
    raise FaultError(Fault("", path, "has an ending that is not known", f"convert it to one of {', '.join(ENDINGS)}"))


def label_ending(image: Path) -> str:
    """The ending that a prediction for this image gets: its own, .png for a picture, .nii.gz for a DICOM series."""
    if image.is_dir():
        return ".nii.gz"
    ending = ending_of(image).lower()
    if ending in picture.ENDINGS:
        return ".png"
    return ".mha" if ending == ".mhd" else ending


def map_ending(image: Path) -> str:
    """The ending that a map of real numbers (an uncertainty map) for this image gets."""
    ending = label_ending(image)
    return ".tif" if ending == ".png" else ending


def read_volume(path: Path) -> Volume:
    """One file as (channel, X, Y, Z): colour pictures have three channels, all else one. A folder is a DICOM series.

    Values keep the file's type, or are float32 where the header scales them. Raises FaultError, without a case's name.
    """
    path = Path(path)
    if path.is_dir():
        if path.name.lower().endswith(ENDINGS):
            raise FaultError(Fault("", path, "is a folder, not a file", "put the file itself in its place"))
        from semivox.data import dicom

        return dicom.read_series(path)
    ending = ending_of(path).lower()
    _check_size(path)
    if ending in nifti.ENDINGS:
        return nifti.read(path)
    return picture.read(path) if ending in picture.ENDINGS else itk.read(path)


def read_label(path: Path) -> Volume:
    """A label map (X, Y, Z) with the values that the file holds, as whole numbers. Raises FaultError.

    `read_classes` is what training and scoring want: it translates to class indices.
    """
    path = Path(path)
    if ending_of(path).lower() in picture.ENDINGS:
        _check_size(path)
        volume = picture.read_label(path)
    else:
        volume = read_volume(path)
    array = volume.array[0]
    if array.dtype.kind == "f":
        # Scaling leaves values such as 0.99999994; real fractions come from a label that was interpolated.
        whole = np.rint(array)
        with np.errstate(invalid="ignore"):
            wrong = array[~(np.abs(array - whole) <= 1e-3)]
        if wrong.size:
            what = f"label has values that are not whole numbers, such as {wrong.flat[0]:g}"
            raise FaultError(
                Fault("", path, what, "store class values as integers; resample labels by nearest neighbour")
            )
        array = whole.astype(np.int64)
    return replace(volume, array=array)


def read_image(case: Case, dataset: Dataset) -> Volume:
    """All channels of a case, (channel, X, Y, Z). Raises FaultError, also where channels differ in grid or number."""
    volumes = [_of_case(case, read_volume, path) for path in case.images]
    for fault in channel_faults(case, dataset, volumes):
        raise FaultError(fault)
    array = volumes[0].array if len(volumes) == 1 else np.concatenate([volume.array for volume in volumes])
    return replace(volumes[0], array=array)


def channel_faults(case: Case, dataset: Dataset, volumes: list[Volume]) -> list[Fault]:
    """What forbids the files of a case, read one by one, to be its channels."""
    first, faults = case.images[0], []
    for path, volume in zip(case.images, volumes, strict=True):
        difference = volumes[0].grid.difference(volume.grid)
        if difference:
            what = f"has {difference}, as in {first.name}"
            faults.append(Fault(case.id, path, what, "resample all channels of the case to one grid"))
    count = sum(len(volume.array) for volume in volumes)
    declared = dataset.channels_of(case)
    if count != len(declared):
        what = f"has {count} channels where {len(declared)} are declared ({', '.join(declared)})"
        faults.append(Fault(case.id, first, what, "store it as the other images are, grey or colour"))
    return faults


def read_classes(case: Case, dataset: Dataset, grid: Grid | None = None) -> Volume:
    """The label of a case as class indices (X, Y, Z), uint8, `IGNORE` where unknown (see `Dataset.to_classes`).

    `grid` is the one of the case's image; the label must lie on it. Raises FaultError.
    """
    assert case.label is not None, f"case {case.id} has no label to read"
    label = _of_case(case, read_label, case.label)
    for fault in label_faults(case, dataset, label, grid):
        raise FaultError(fault)
    return replace(label, array=dataset.to_classes(case, label.array))


def label_faults(case: Case, dataset: Dataset, label: Volume, grid: Grid | None) -> list[Fault]:
    """What forbids the use of a label that was read: another grid than the image's, undeclared values."""
    faults = []
    difference = grid.difference(label.grid) if grid is not None else None
    if difference:
        what = f"label has {difference}, as in {case.images[0].name}"
        faults.append(Fault(case.id, case.label, what, "resample the label to the image's grid, or correct the header"))
    label_map = case.label_map or dataset.labels
    undeclared = label_map.undeclared(label.array)
    if undeclared:
        what = f"label {label_map.complaint(undeclared)}"
        faults.append(Fault(case.id, case.label, what, label_map.mend(undeclared)))
    return faults


def write_label(path: Path, values: np.ndarray, grid: Grid) -> None:
    """Writes file values (X, Y, Z) to `path`, atomically; the ending chooses the format.

    The header holds the grid and nothing else, so nothing of a patient gets from an image into a prediction. Raises
    FaultError where the format cannot hold the values, ResourceError where the file cannot be written.
    """
    _write(path, values, grid)


def write_channel(path: Path, values: np.ndarray, grid: Grid) -> None:
    """Writes one channel of a scan (X, Y, Z), in its own type, to `path`; otherwise as `write_label`."""
    _write(path, values, grid)


def write_map(path: Path, values: np.ndarray, grid: Grid) -> None:
    """Writes real numbers (X, Y, Z) as float32 to `path`, atomically; a picture must end in .tif."""
    _write(path, values.astype(np.float32), grid)


def _write(path: Path, array: np.ndarray, grid: Grid) -> None:
    path = Path(path)
    if array.shape != grid.shape:
        raise ValueError(f"{path}: an array of shape {array.shape} cannot lie on a grid of shape {grid.shape}")
    ending = ending_of(path).lower()
    try:
        if ending in nifti.ENDINGS:
            nifti.write(path, array, grid)
        elif ending in picture.ENDINGS:
            picture.write(path, array)
        else:
            itk.write(path, array, grid)
    except OSError as error:
        reason = error.strerror or str(error)
        mend = "free some space, or name a folder that you may write"
        raise ResourceError(f"{path}: cannot be written ({reason}); {mend}") from None


def _check_size(path: Path) -> None:
    mend = "copy it again from its source, or remove the case"
    if not path.exists():
        what = "is a link that leads nowhere" if path.is_symlink() else "there is no such file"
        raise FaultError(Fault("", path, what, mend))
    if path.stat().st_size == 0:
        raise FaultError(Fault("", path, "is empty (0 bytes)", mend))


def _of_case(case: Case, read: Callable[[Path], Volume], path: Path) -> Volume:
    """`read(path)`, where a fault gets the case's name."""
    try:
        return read(path)
    except FaultError as error:
        raise FaultError(replace(error.fault, case=case.id)) from None
