"""Loose files → the nnU-Net v2 raw layout.

Which label belongs to which image is read from their names: `case1.nii.gz` with `case1_seg.nii.gz`, `volume-7.nii`
with `segmentation-7.nii`, `P3/image.mha` with `P3/mask.mha`. Whatever the names leave open is refused, never guessed: a
label on the wrong scan would go unnoticed.
"""

import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semivox.atomic import atomic_folder
from semivox.data import dicom, itk
from semivox.data.case import Case, Dataset
from semivox.data.fault import Fault, FaultError
from semivox.data.image import ENDINGS, ending_of, label_ending, read_label, read_volume
from semivox.data.labels import LabelMap
from semivox.data.layout import read_dataset, write_description
from semivox.data.names import safe_id
from semivox.data.scans import natural_order
from semivox.errors import SettingError
from semivox.parallel import Progress, run_all

IMAGE_WORDS = "image|images|img|scan|volume|vol"
LABEL_WORDS = "segmentation|seg|labels|label|masks|mask|gt|ground_?truth|annotation|manual"
CHANNEL = re.compile(r"(.+)_(\d{4})")

MOST_CLASSES = 100
"""Label files with more values than this are taken for images that were given by mistake."""


@dataclass(frozen=True)
class Found:
    """A file, its folders below the one given, and its name without the ending."""

    file: Path
    place: tuple[str, ...]
    stem: str


@dataclass(frozen=True)
class Scan:
    """The files of one case, one per channel. `stem` is their name without the channel number."""

    place: tuple[str, ...]
    stem: str
    files: tuple[Found, ...]

    @property
    def name(self) -> str:
        return "/".join((*self.place, self.stem))

    @property
    def meanings(self) -> set[str]:
        """The names by which a label in the same folder may call it."""
        own = {self.files[0].stem} if len(self.files) == 1 else set()
        return {self.stem, _without_word(self.stem, IMAGE_WORDS), *own}


def init(
    images: Path,
    labels: Path | None = None,
    *,
    out: Path,
    names: Sequence[str] | None = None,
    link: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Copies (or with `link` links) loose scans into a new data set at `out`, and returns it.

    `images` and `labels` are folders, searched with all below them; without `labels`, label files are sought among the
    images by their names. Scans without a label are unlabelled. CASE_0000, CASE_0001, ... are the channels of CASE
    where all cases have the same ones. The classes are the values found in the labels, named `class_1`, ... or by
    `names`, in the order of the values; 0 is the background.

    Raises FaultError where names are ambiguous, SettingError where `out` holds files or `names` has another length
    than there are classes; then nothing is written.
    """
    image_files, label_files = _search(Path(images), None if labels is None else Path(labels))
    scans = _scans(image_files, label_files)
    matched = _match(scans, label_files)
    ids = _ids(scans)
    ending = _one_ending(image.file for image in image_files)
    label_end = _one_ending(label.file for label in label_files) if label_files else label_ending(Path(f"a{ending}"))
    label_map = _label_map(label_files, names, progress)
    cases = []
    with atomic_folder(Path(out)) as root:
        for scan, case_id in zip(scans, ids, strict=True):
            targets = tuple(root / "imagesTr" / f"{case_id}_{n:04d}{ending}" for n in range(len(scan.files)))
            for found, target in zip(scan.files, targets, strict=True):
                _place(found.file, target, link)
            label = root / "labelsTr" / f"{case_id}{label_end}" if scan in matched else None
            if label:
                _place(matched[scan].file, label, link)
            cases.append(Case(case_id, targets, label))
        count = len(scans[0].files)
        channels = ("image",) if count == 1 else tuple(f"channel_{number}" for number in range(count))
        name = Path(out).resolve().name
        write_description(Dataset(name, root, channels, label_map, tuple(cases), file_ending=label_end))
    return read_dataset(Path(out))


def _search(images: Path, labels: Path | None) -> tuple[list[Found], list[Found]]:
    """The image files and the label files."""
    found = _files_below(images)
    if labels is not None:
        label_files = _files_below(labels)
        taken = {label.file.resolve() for label in label_files}
        return [image for image in found if image.file.resolve() not in taken], label_files
    is_label = [_without_word(file.stem, LABEL_WORDS) != file.stem for file in found]
    return (
        [file for file, other in zip(found, is_label, strict=True) if not other],
        [file for file, other in zip(found, is_label, strict=True) if other],
    )


def _files_below(folder: Path) -> list[Found]:
    """All scans in a folder and below it, in natural order of their paths."""
    if not folder.is_dir():
        raise FaultError(Fault("", folder, "there is no such folder", "name the folder that holds the scans"))
    found = []
    for file in sorted(folder.rglob("*"), key=lambda file: natural_order(str(file))):
        parts = file.relative_to(folder).parts
        is_hidden = any(part.startswith(".") for part in parts)
        if not is_hidden and file.is_file() and file.name.lower().endswith(ENDINGS):
            found.append(Found(file, parts[:-1], file.name[: -len(ending_of(file))]))
    if not found and dicom.is_dicom(folder):
        mend = f"run: semivox convert {folder} --from dicom --out DATASET"
        raise FaultError(Fault("", folder, "holds DICOM files", mend))
    if not found:
        raise FaultError(Fault("", folder, f"holds no scan that ends in {', '.join(ENDINGS)}", "name another folder"))
    return found


def _without_word(stem: str, words: str) -> str:
    """`stem` without such a word at its end or beginning: "case1_seg" → "case1", "mask" → ""."""
    return re.sub(rf"(^|[_\-. ])({words})$|^({words})[_\-. ]", "", stem, count=1, flags=re.IGNORECASE)


def _scans(images: list[Found], labels: list[Found]) -> list[Scan]:
    """The cases. A number of four digits is a channel where all cases have 0000, 0001, ..., else part of the name."""
    if not images:
        raise FaultError(Fault("", labels[0].file.parent, "holds labels only", "name the folder of the images first"))
    plain = [Scan(image.place, image.stem, (image,)) for image in images]
    _check_unique(plain)
    groups: dict[tuple[str, ...], dict[int, Found]] = defaultdict(dict)
    for image in images:
        match = CHANNEL.fullmatch(image.stem)
        if not match:
            return plain
        groups[(*image.place, match[1])][int(match[2])] = image
    if not any(0 in group for group in groups.values()):
        return plain
    called = {stem for label in labels for stem in (label.stem, _without_word(label.stem, LABEL_WORDS))}
    if len(groups) == 1 and len(images) > 1:
        ((*_, stem),) = groups
        if any(image.stem in called for image in images):
            return plain
        if stem not in called:
            what = f"{stem}_0000 and the others may be {len(images)} cases or {len(images)} channels of one"
            mend = f"rename cases so that they end otherwise, such as {stem}_000; or add the label of the one case"
            raise FaultError(Fault("", images[0].file, what, mend))
    usual = max((sorted(group) for group in groups.values()), key=len)
    for group in groups.values():
        first = group[min(group)]
        if sorted(group) != usual or usual != list(range(len(usual))):
            what = f"has the numbers {_numbers(sorted(group))} where others have {_numbers(usual)}"
            mend = "add the missing channels; or, if the numbers are not channels, rename the files"
            raise FaultError(Fault("", first.file, what, mend))
        if len(group) > 1 and any(image.stem in called for image in group.values()):
            what = f"is one of {len(group)} channels, and a label has its name"
            mend = "name the label without the channel number; or, if the numbers are not channels, rename the files"
            raise FaultError(Fault("", first.file, what, mend))
    return [Scan(key[:-1], key[-1], tuple(group[number] for number in usual)) for key, group in groups.items()]


def _numbers(numbers: list[int]) -> str:
    return ", ".join(f"{number:04d}" for number in numbers[:4]) + (", ..." if len(numbers) > 4 else "")


def _check_unique(scans: list[Scan]) -> None:
    """Raises FaultError where two files have one name and differ in their ending."""
    first: dict[str, Scan] = {}
    for scan in scans:
        other = first.setdefault(scan.name, scan)
        if other is not scan:
            what = f"is the same case as {other.files[0].file.name}"
            raise FaultError(Fault("", scan.files[0].file, what, "remove or rename one of them"))


def _match(scans: list[Scan], labels: list[Found]) -> dict[Scan, Found]:
    """Scan → its label: by folder and name, else by the name alone; each time as it is, else without such as `_seg`."""
    called: dict[tuple[str, ...], list[Scan]] = defaultdict(list)
    for scan in scans:
        for meaning in scan.meanings:
            for key in {(*scan.place, "/", meaning), (meaning,)}:
                called[key].append(scan)
    matched: dict[Scan, Found] = {}
    for label in labels:
        stems = (label.stem, _without_word(label.stem, LABEL_WORDS))
        keys = [(*label.place, "/", stem) for stem in stems] + [(stem,) for stem in stems if stem]
        meant = next((called[key] for key in keys if key in called), [])
        if not meant:
            what = "label without an image of that name"
            raise FaultError(Fault("", label.file, what, "rename it after its image, or remove it"))
        if len(meant) > 1:
            what = f"label may belong to {len(meant)} images: {', '.join(scan.name for scan in meant[:4])}"
            raise FaultError(Fault("", label.file, what, "name it after one of them, in a folder of the same name"))
        other = matched.setdefault(meant[0], label)
        if other is not label:
            what = f"a second label of {meant[0].name}, beside {other.file.name}"
            raise FaultError(Fault("", label.file, what, "remove one of them, or join them into one file"))
    return matched


def _ids(scans: list[Scan]) -> list[str]:
    """Case ids: the files' own names where those are unique, else with their folders before them."""
    ids = [safe_id(scan.stem) for scan in scans]
    if len({case_id.lower() for case_id in ids}) < len(ids):
        ids = [safe_id(scan.name) for scan in scans]
    first: dict[str, Scan] = {}
    for scan, case_id in zip(scans, ids, strict=True):
        other = first.setdefault(case_id.lower(), scan)
        if other is not scan:
            what = f"gets the same case id, {case_id}, as {other.name}"
            raise FaultError(Fault("", scan.files[0].file, what, "rename one of the files"))
    return ids


def _one_ending(files: Iterable[Path]) -> str:
    """The ending that all files get: lower case, and .mha for .mhd, whose values lie in a second file."""
    first: dict[str, Path] = {}
    for file in files:
        ending = ending_of(file).lower()
        first.setdefault(".mha" if ending == ".mhd" else ending, file)
    if len(first) > 1:
        (ending, _), (other, file) = list(first.items())[:2]
        raise FaultError(Fault("", file, f"ends in {other}, others in {ending}", "convert all files to one format"))
    return next(iter(first))


def _label_map(labels: list[Found], names: Sequence[str] | None, progress: Progress | None) -> LabelMap:
    """The classes that the values in the labels make."""
    values = set().union(*run_all(_values, labels, progress=progress))
    foreground = sorted(values - {0}) or list(range(1, len(names or [""]) + 1))
    if names and len(names) != len(foreground):
        raise SettingError(f"names: {len(names)} for the label values {foreground}; give one for each")
    chosen = names or [f"class_{number}" for number in range(1, len(foreground) + 1)]
    return LabelMap(("background", *chosen), (0, *foreground))


def _values(label: Found) -> set[int]:
    """The values in one label file."""
    values = set(np.unique(read_label(label.file).array).tolist())
    if len(values) > MOST_CLASSES:
        what = f"label has {len(values)} different values, as an image has"
        raise FaultError(Fault("", label.file, what, "give images first, then labels of one value per class"))
    return values


def _place(source: Path, target: Path, link: bool) -> None:
    target.parent.mkdir(exist_ok=True)
    if ending_of(source).lower() == ".mhd":
        volume = read_volume(source)
        itk.write(target, volume.array[0], volume.grid)
    elif link:
        target.symlink_to(source.resolve())
    else:
        shutil.copyfile(source, target)
