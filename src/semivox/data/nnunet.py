"""What nnU-Net v2 itself demands of a training set, beyond the layout that Semivox reads.

All its images and labels have one ending, of a lossless format (`ENDINGS`); every image has a label; labels are
0, 1, ..., with `background` at 0 and `ignore`, where it is declared, last. See nnU-Net's `dataset_format.md` and
`ignore_label.md`.
"""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel as nib
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from semivox.atomic import atomic_path
from semivox.data import nifti, picture
from semivox.data.case import Case
from semivox.data.image import ending_of, read_volume, write_channel
from semivox.data.labels import LabelMap

VOLUMES = (".nii.gz", ".nrrd", ".mha")
PICTURES = (".png", ".bmp", ".tif")
ENDINGS = VOLUMES + PICTURES
"""What both nnU-Net and Semivox read and write."""

SAME_FORMAT = {".tiff": ".tif"}
"""Endings that nnU-Net does not know, of formats that it does."""


def ending_for(images: Iterable[Path]) -> str:
    """The ending that a data set with these images gets: theirs, where nnU-Net reads it; else .nii.gz or .png."""
    endings = {ending_of(image).lower() for image in images}
    endings = {SAME_FORMAT.get(ending, ending) for ending in endings}
    if len(endings) == 1 and endings <= set(ENDINGS):
        return endings.pop()
    return ".png" if endings <= set(picture.ENDINGS) else ".nii.gz"


def place_images(case: Case, folder: Path, ending: str, link: bool) -> tuple[Path, ...]:
    """Puts the images of a case into `folder` as ID_0000 and so on, with `ending`; returns the files.

    A file that nnU-Net reads as Semivox does is copied as it is, or with `link` linked to. Any other is written anew,
    each channel as a file of its own. Each comes in one step. Raises FaultError for an image that cannot be read.
    """
    placed: list[Path] = []

    def following() -> Path:
        placed.append(folder / f"{case.id}_{len(placed):04d}{ending}")
        return placed[-1]

    for image in case.images:
        if _is_read_alike(image, ending):
            _place(image, following(), link)
        else:
            volume = read_volume(image)
            for channel in volume.array:
                write_channel(following(), channel, volume.grid)
    return tuple(placed)


def label_map(names: Sequence[str], regions: dict[str, tuple[int, ...]], ignore: bool) -> LabelMap:
    """Labels 0, 1, ... for classes of these names, background first; `ignore` is declared where it occurs."""
    values = tuple(range(len(names)))
    return LabelMap(("background", *names[1:]), values, len(names) if ignore else None, regions)


def _is_read_alike(image: Path, ending: str) -> bool:
    """Whether nnU-Net reads the file, named with `ending`, with the axes and channels that Semivox reads."""
    own = ending_of(image).lower()
    if SAME_FORMAT.get(own, own) != ending:
        return False
    if own in nifti.ENDINGS:
        return nib.load(image).header["dim"][0] == 3  # type: ignore[index]
    if own in picture.ENDINGS:
        with Image.open(image) as opened:
            return opened.mode in picture.PLAIN
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(image))
    reader.ReadImageInformation()
    return reader.GetDimension() == 3


def _place(source: Path, target: Path, link: bool) -> None:
    with atomic_path(target) as temporary:
        if link:
            temporary.symlink_to(source.resolve())
        else:
            shutil.copyfile(source, temporary)
