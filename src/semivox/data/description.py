"""dataset.json: what a data set says of itself, in nnU-Net v2's form.

    {"name": "...", "channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1, "ignore": 2},
     "file_ending": ".nii.gz"}

Beyond nnU-Net: `image_ending` and `label_ending` where they differ (an image ending may hold the channel suffix,
"_0000.jpg", where one file holds all channels), `tasks`, the label names that the cases of a task annotate, and
`cropped_around_reference`, which converting sets where it cut the scans as published ones are cut.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semivox.atomic import atomic_write_text
from semivox.data import picture
from semivox.data.case import Case, Dataset
from semivox.data.fault import Fault, FaultError
from semivox.data.image import ENDINGS
from semivox.data.labels import LabelMap
from semivox.errors import DataError

COLOURS = ("red", "green", "blue")

CROPPED = "cropped_around_reference"
"""Entry of dataset.json, true or absent."""


@dataclass(frozen=True)
class Description:
    """What dataset.json says."""

    file: Path
    name: str
    channel_names: tuple[str, ...]
    labels: LabelMap
    image_ending: str
    label_ending: str
    one_file: bool
    """The image ending held the channel suffix: one file per case, however many channels."""
    tasks: dict[str, tuple[str, ...]]
    is_cropped: bool
    """The scans were cut around their reference when they were converted."""
    listed: dict[str, dict[str, Any]]
    """nnU-Net's `dataset` entry: training case → its images and label, for files that lie elsewhere."""

    @property
    def is_picture(self) -> bool:
        return self.image_ending.lower() in picture.ENDINGS

    def files_per_case(self, suffixes: Iterable[int]) -> int:
        """How many files a case has, of the channel numbers that occur. As in nnU-Net three colours may be one file."""
        is_colour = self.is_picture and len(self.channel_names) == 3 and max(suffixes, default=0) == 0
        return 1 if self.one_file or is_colour else len(self.channel_names)

    def channels(self, cases: Sequence[Case]) -> tuple[str, ...]:
        """Names of the channels that an image has in memory: a colour picture has three. Reads one picture's header."""
        for case in cases if self.is_picture else ():
            try:
                count = sum(picture.bands(path) for path in case.images)
            except FaultError:
                continue  # `inspect` reports it; another case will tell
            if count != 3 * len(self.channel_names):
                break
            if len(self.channel_names) == 1:
                return COLOURS
            return tuple(f"{name} {colour}" for name in self.channel_names for colour in COLOURS)
        return self.channel_names


def read_description(root: Path) -> Description:
    """Reads ROOT/dataset.json. Raises FaultError."""
    if not root.is_dir():
        raise FaultError(Fault("", root, "there is no such folder", "name the folder that holds dataset.json"))
    file = root / "dataset.json"
    if not file.exists():
        mend = "name the folder that holds it, or make one of loose files: semivox init IMAGES [LABELS] --out DATASET"
        raise FaultError(Fault("", file, "there is no such file", mend))
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise FaultError(Fault("", file, f"is not valid JSON ({error})", "correct it at this place")) from None
    try:
        return _parse(file, content)
    except DataError as error:
        what, _, mend = str(error).partition("; ")
        raise FaultError(Fault("", file, what, mend)) from None


def write_description(dataset: Dataset) -> None:
    """Writes dataset.json into the data set's `root`, in one step."""
    names = {str(index): name for index, name in enumerate(dataset.channels)}
    content: dict[str, Any] = {"name": dataset.name, "channel_names": names, **_labels_entry(dataset.labels)}
    content["numTraining"] = sum(case.split != "test" and case.label is not None for case in dataset)
    endings = {case.images[0].name.removeprefix(case.id).removeprefix("_0000") for case in dataset}
    if endings <= {dataset.file_ending}:
        content["file_ending"] = dataset.file_ending
    else:
        content |= {"image_ending": endings.pop(), "label_ending": dataset.file_ending}
    if dataset.is_cropped:
        content[CROPPED] = True
    if dataset.tasks:
        content["tasks"] = {task: list(known) for task, known in dataset.tasks.items()}
    atomic_write_text(dataset.root / "dataset.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _parse(file: Path, content: Any) -> Description:
    """Raises DataError with "what; mend"."""
    if not isinstance(content, dict):
        raise DataError('holds no JSON object; begin it with {"channel_names": ...')
    if "channel_names" not in content and "modality" in content:
        raise DataError(
            "is in the form of the Medical Segmentation Decathlon; run: semivox convert FOLDER --from msd --out DATASET"
        )
    names = content.get("channel_names")
    if not isinstance(names, dict) or not names:
        raise DataError('lacks `channel_names`; add it, such as "channel_names": {"0": "MRI"}')
    if set(names) != {str(index) for index in range(len(names))}:
        raise DataError(f'`channel_names` has the keys {", ".join(names)}; number them from 0: {{"0": ..., "1": ...}}')
    image_ending = content.get("image_ending", content.get("file_ending"))
    label_ending = content.get("label_ending", content.get("file_ending"))
    if not isinstance(image_ending, str) or not isinstance(label_ending, str):
        raise DataError('lacks `file_ending`; add it, such as "file_ending": ".nii.gz"')
    suffix = re.fullmatch(r"_[0-9]{4}(\..+)", image_ending)
    image_ending = suffix[1] if suffix else image_ending
    for ending in (image_ending, label_ending):
        if ending.lower() not in ENDINGS:
            raise DataError(f"declares the ending '{ending}', which is not read; use one of {', '.join(ENDINGS)}")
    if label_ending.lower() in picture.LOSSY:
        raise DataError(
            f"declares labels in {label_ending}, which changes values; store them as .png, set `label_ending`"
        )
    labels = _read_labels(content.get("labels"))
    listed = content.get("dataset", {})
    if not isinstance(listed, dict) or not all(_is_entry(entry) for entry in listed.values()):
        raise DataError('`dataset` lists no files; write it as "dataset": {"case": {"images": [...], "label": ...}}')
    return Description(
        file=file,
        name=str(content.get("name") or file.parent.resolve().name),
        channel_names=tuple(str(names[str(index)]) for index in range(len(names))),
        labels=labels,
        image_ending=image_ending,
        label_ending=label_ending,
        one_file=suffix is not None,
        tasks=_read_tasks(content.get("tasks", {}), labels),
        is_cropped=content.get(CROPPED) is True,
        listed=listed,
    )


def _is_entry(entry: Any) -> bool:
    """Whether it lists files: {"images": [...], "label": ...}, the label optional."""
    if not isinstance(entry, dict) or not isinstance(entry.get("images"), list):
        return False
    return all(isinstance(file, str) for file in (*entry["images"], entry.get("label") or ""))


def _read_labels(declared: Any) -> LabelMap:
    """The `labels` entry: name → value, or → list of values (a region)."""
    if not isinstance(declared, dict) or not declared:
        raise DataError('lacks `labels`; add it, such as "labels": {"background": 0, "organ": 1}')
    values: dict[str, tuple[int, ...]] = {}
    for name, value in declared.items():
        several = value if isinstance(value, list) else [value]
        if not several or any(isinstance(single, bool) or not isinstance(single, int) for single in several):
            wanted = "a whole number, or a list of them for a region"
            raise DataError(f"`labels` gives '{name}' the value {json.dumps(value)}; give it {wanted}")
        values[name] = tuple(sorted(set(several)))
    ignore = values.pop("ignore", (None,))[0]
    background = next((name for name in values if name.lower() == "background"), None)
    background = background or next((name for name in values if values[name] == (0,)), None)
    if background is None or len(values[background]) != 1:
        raise DataError('`labels` names no background; add "background": 0')
    (background_value,) = values.pop(background)
    if not values:
        raise DataError('`labels` names only the background; add what is to be segmented, such as "organ": 1')
    if any(isinstance(declared[name], list) for name in values):
        return _with_regions(background, background_value, values, ignore)
    return LabelMap((background, *values), (background_value, *(value for (value,) in values.values())), ignore)


def _with_regions(
    background: str, background_value: int, regions: dict[str, tuple[int, ...]], ignore: int | None
) -> LabelMap:
    """Disjoint classes, one for each value, and the regions as unions of them.

    A class that is a region by itself has its name; any other that of the smallest region around it, with its
    value: whole tumour [1, 2], core [2] → the classes "whole tumour (1)" and "core".
    """
    values = sorted({value for members in regions.values() for value in members})
    names = []
    for value in values:
        name = min((name for name in regions if value in regions[name]), key=lambda name: len(regions[name]))
        names.append(name if len(regions[name]) == 1 else f"{name} ({value})")
    return LabelMap(
        names=(background, *names),
        values=(background_value, *values),
        ignore_value=ignore,
        regions={name: tuple(values.index(value) + 1 for value in members) for name, members in regions.items()},
    )


def _labels_entry(labels: LabelMap) -> dict[str, Any]:
    """The inverse of `_read_labels`: `labels` and, with regions, nnU-Net's `regions_class_order`."""
    declared: dict[str, Any] = {labels.names[0]: labels.values[0]}
    entry: dict[str, Any] = {"labels": declared}
    if labels.regions:
        # nnU-Net paints regions over one another, each with one value: the large ones first, each with a value that no
        # later region paints over.
        regions = sorted(labels.regions.items(), key=lambda region: -len(region[1]))
        painted = []
        for place, (name, members) in enumerate(regions):
            later = {member for _, region in regions[place + 1 :] for member in region}
            painted.append(labels.values[next((member for member in members if member not in later), members[0])])
            declared[name] = [labels.values[member] for member in members]
        entry["regions_class_order"] = painted
    else:
        declared |= dict(zip(labels.foreground, labels.values[1:], strict=True))
    if labels.ignore_value is not None:
        declared["ignore"] = labels.ignore_value
    return entry


def _is_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _read_tasks(tasks: Any, labels: LabelMap) -> dict[str, tuple[str, ...]]:
    """The `tasks` entry: name → classes; a region stands for its classes."""
    if not isinstance(tasks, dict) or not all(_is_names(names) for names in tasks.values()):
        raise DataError(
            '`tasks` gives no list of label names for each task; write it as "tasks": {"heart": ["LV", "RV"]}'
        )
    choices = {name: (index,) for index, name in enumerate(labels.names) if index} | labels.regions
    found = {}
    for task, names in tasks.items():
        for name in names:
            if name not in choices:
                raise DataError(
                    f"task '{task}' names the label '{name}', which is not declared; use {', '.join(choices)}"
                )
        known = {index for name in names for index in choices[name]}
        found[task] = tuple(labels.names[index] for index in sorted(known))
    return found
