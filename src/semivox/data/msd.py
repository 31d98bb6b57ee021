"""Medical Segmentation Decathlon: a dataset.json that lists its files, channels as a fourth axis.

{"modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "PZ"},
 "training": [{"image": "./imagesTr/x.nii.gz", "label": "./labelsTr/x.nii.gz"}], "test": ["./imagesTs/x.nii.gz"]}
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from semivox.atomic import atomic_folder
from semivox.data import nifti
from semivox.data.case import Case, Dataset, Split
from semivox.data.download import Found, write_dataset
from semivox.data.fault import Fault, FaultError
from semivox.data.image import ending_of
from semivox.data.labels import LabelMap
from semivox.data.layout import read_dataset, write_description
from semivox.data.names import safe_id
from semivox.data.reference_box import NOTE, read_cut
from semivox.data.volume import Grid
from semivox.parallel import Progress, run_all

ENDING = ".nii.gz"

CUT = ("Lung", "Spleen")
"""Tasks whose scans published protocols cut around their reference."""


@dataclass(frozen=True)
class Entry:
    """A case as dataset.json lists it."""

    case_id: str
    image: Path
    label: Path | None
    split: Split


def convert(
    source: Path, out: Path, progress: Progress | None = None, crop: Literal["none", "published"] = "none"
) -> Dataset:
    """The Decathlon task in folder `source` → a new data set at `out` in the nnU-Net v2 raw layout, and returns it.

    Training cases keep their listed order, the `test` list becomes the test split without labels. Channels of a 4-D
    scan become one file each; 3-D files are copied as they are. `crop`: published cuts every scan of the tasks in
    `CUT` around its reference and leaves out those without a label. Raises FaultError that names the file and the mend;
    then nothing is written.
    """
    source = Path(source)
    file = source / "dataset.json"
    content = _read_json(file)
    channels = tuple(_numbered(file, content, "modality").values())
    labels = _numbered(file, content, "labels")
    entries = _entries(source, file, content)
    name = str(content.get("name") or source.resolve().name)
    label_map = LabelMap(tuple(labels.values()), tuple(labels))
    if crop == "published":
        if name not in CUT:
            what = f"is of the task '{name}', of which no cut is published"
            raise FaultError(Fault("", file, what, f"leave --crop out; it is there for {' and '.join(CUT)}"))
        found = [Found(entry.case_id, entry.image, entry.label, entry.split) for entry in entries if entry.label]
        return write_dataset(
            out, name, channels[0], label_map, found, read_cut, note=NOTE, is_cropped=True, progress=progress
        )
    with atomic_folder(Path(out)) as root:
        cases = run_all(lambda entry: _write_case(root, entry, len(channels)), entries, progress=progress)
        write_description(Dataset(name, root, channels, label_map, tuple(cases), file_ending=ENDING))
    return read_dataset(Path(out))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise FaultError(Fault("", file, "there is no such file", "name the folder of a Decathlon task")) from None
    except (OSError, ValueError) as error:
        raise FaultError(Fault("", file, f"is not valid JSON ({error})", "correct it at this place")) from None
    if not isinstance(content, dict) or not isinstance(content.get("training"), list):
        what = "has no list `training`, so it is not in the Decathlon's form"
        raise FaultError(Fault("", file, what, "use it as it is if it is nnU-Net's, else see `semivox init --help`"))
    return content


def _numbered(file: Path, content: dict[str, Any], key: str) -> dict[int, str]:
    """An entry such as `{"0": "background", "1": "liver"}`, by number, in order."""
    entry = content.get(key)
    try:
        if not isinstance(entry, dict):
            raise ValueError
        numbered = {int(number): str(name) for number, name in sorted(entry.items(), key=lambda item: int(item[0]))}
        if 0 not in numbered or (key == "modality" and list(numbered) != list(range(len(numbered)))):
            raise ValueError
    except ValueError:
        what = f"`{key}` does not number names from 0"
        raise FaultError(Fault("", file, what, f'write it as "{key}": {{"0": ..., "1": ...}}')) from None
    return numbered


def _entries(source: Path, file: Path, content: dict[str, Any]) -> list[Entry]:
    """Every listed case."""
    entries: list[Entry] = []
    known: set[str] = set()
    splits: dict[str, Split] = {"training": "train", "test": "test"}
    for key, split in splits.items():
        for entry in content.get(key) or []:
            listed = entry if isinstance(entry, dict) else {"image": entry}
            image = _inside(source, file, listed.get("image"))
            label = _inside(source, file, listed["label"]) if listed.get("label") else None
            case_id = safe_id(image.name.removesuffix(ending_of(image)))
            if case_id in known:
                raise FaultError(Fault(case_id, file, "lists two images of this name", "rename one of them"))
            known.add(case_id)
            entries.append(Entry(case_id, image, label, split))
    return entries


def _inside(source: Path, file: Path, listed: Any) -> Path:
    """The file that dataset.json means; it must lie in the task's folder."""
    if not isinstance(listed, str):
        raise FaultError(Fault("", file, f"lists {listed!r} where a file name is due", "correct `training` and `test`"))
    path = source / listed
    if not path.resolve().is_relative_to(source.resolve()):
        raise FaultError(Fault("", file, f"lists {listed!r}, outside of its folder", "put the file into the folder"))
    if not path.is_file():
        raise FaultError(Fault("", path, f"is listed in {file.name} and not there", "copy it again, or unlist it"))
    return path


def _write_case(root: Path, entry: Entry, channels: int) -> Case:
    suffix = "Ts" if entry.split == "test" else "Tr"
    folder = root / f"images{suffix}"
    images = tuple(folder / f"{entry.case_id}_{number:04d}{ENDING}" for number in range(channels))
    label = root / f"labels{suffix}" / f"{entry.case_id}{ENDING}" if entry.label else None
    _write_channels(entry.image, images)
    if entry.label and label:
        _write_channels(entry.label, (label,))
    return Case(entry.case_id, images, label, split=entry.split)


def _write_channels(source: Path, targets: tuple[Path, ...]) -> None:
    """The scan as one file per channel; a file that is one channel already is copied."""
    try:
        image: Any = nib.load(source)
        if len(image.shape) == 3 and len(targets) == 1 and source.name.endswith(ENDING):
            targets[0].parent.mkdir(exist_ok=True)
            shutil.copyfile(source, targets[0])
            return
        is_plain = (image.dataobj.slope, image.dataobj.inter) == (1.0, 0.0)
        array = image.dataobj.get_unscaled() if is_plain else image.dataobj.get_scaled(np.float32)
    # nibabel raises errors of many kinds on damaged files; all of them mean that this file cannot be read.
    except Exception as error:
        what = f"cannot be read as NIfTI ({' '.join(str(error).split())[:160]})"
        raise FaultError(Fault("", source, what, "copy it again from its source")) from None
    channels = 1 if array.ndim == 3 else array.shape[3] if array.ndim == 4 else 0
    if channels != len(targets):
        what = f"has {channels} channels ({' × '.join(map(str, array.shape))}) where {len(targets)} are declared"
        raise FaultError(Fault("", source, what, "correct `modality` in dataset.json"))
    x, y, z = array.shape[:3]
    for target, channel in zip(targets, np.moveaxis(array.reshape(x, y, z, channels), 3, 0), strict=True):
        nifti.write(target, np.ascontiguousarray(channel), Grid((x, y, z), image.affine))
