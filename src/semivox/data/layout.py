"""The nnU-Net v2 raw layout, read as it is, with one addition: `cases.csv`.

    dataset.json        channel_names, labels (with ignore and regions), file_ending; see `description.py`
    imagesTr/CASE_0000.nii.gz, CASE_0001.nii.gz (a second channel)    labelsTr/CASE.nii.gz
    imagesTs/...        labelsTs/...        test cases
    cases.csv           optional: case, split, domain, task, group, any of them; its order is the published order
    splits_final.json   optional: fold 0 names the validation cases, where cases.csv has no split

An image without a label file is unlabelled. One colour picture, CASE_0000.png, is three channels.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from semivox.data import description as dataset_json
from semivox.data.case import DEFAULT, Case, Dataset, Split
from semivox.data.case_table import apply_folds, apply_table, check_groups, read_table, write_table
from semivox.data.description import Description, read_description
from semivox.data.fault import Fault, FaultError
from semivox.data.image import ENDINGS
from semivox.data.scans import find_scans, natural_order, visible_files

FOLDERS: tuple[tuple[str, str, Split], ...] = (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test"))


def read_dataset(path: Path, unlabelled: Path | None = None, labels: Sequence[str] | None = None) -> Dataset:
    """The data set in folder `path`.

    `unlabelled` is a folder of further scans, named as in imagesTr or, with one file per case, in any way. `labels`
    restricts the classes to these names; the values of all others become background.

    Raises FaultError for the first thing that is wrong with the layout (`survey` lists all), SettingError for a name
    that is no label. Opens no scan, but for the header of one picture, which tells grey from colour.
    """
    dataset, faults = survey(path, unlabelled)
    for fault in faults:
        if fault.is_error:
            raise FaultError(fault)
    assert dataset is not None, "survey found no fault and no data set"
    return dataset if labels is None else dataset.restrict(labels)


def survey(path: Path, unlabelled: Path | None = None) -> tuple[Dataset | None, list[Fault]]:
    """The data set as far as it can be read, and everything that is wrong with its layout.

    The data set holds the cases whose files are complete; it is None where dataset.json cannot be used.
    """
    root = Path(path)
    try:
        description = read_description(root)
    except FaultError as error:
        return None, [error.fault]
    faults: list[Fault] = []
    cases = _listed_cases(description, faults)
    for images, labels, split in FOLDERS:
        if split == "test" or not description.listed:
            cases += _cases_of_folder(root / images, root / labels, split, description, faults)
    cases = _without_duplicates(cases, faults)
    if not cases and not any(fault.is_error for fault in faults):
        name = f"CASE_0000{description.image_ending}"
        faults.append(Fault("", root / "imagesTr", "holds no images", f"put them there as {name}"))
    cases = _apply_tables(root, cases, description, faults)
    if unlabelled is not None:
        cases += _unlabelled_cases(Path(unlabelled), cases, description, faults)
        cases = _without_duplicates(cases, faults)
    check_groups(cases, root / "cases.csv", faults)
    dataset = Dataset(
        name=description.name,
        root=root,
        channels=description.channels(cases),
        labels=description.labels,
        cases=tuple(cases),
        tasks=description.tasks,
        file_ending=description.label_ending,
        is_cropped=description.is_cropped,
    )
    return dataset, faults


def write_description(dataset: Dataset) -> None:
    """Writes dataset.json and cases.csv into the data set's `root`, each in one step.

    The files of its cases must follow the layout, ROOT/imagesTr/ID_0000.nii.gz and so on; they are not touched.
    """
    dataset_json.write_description(dataset)
    write_table(dataset)


def _cases_of_folder(
    images: Path, labels: Path, split: Split, description: Description, faults: list[Fault]
) -> list[Case]:
    """The cases of imagesTr with labelsTr, or of imagesTs with labelsTs."""
    found = find_scans(images, [description.image_ending], description.files_per_case, faults)
    ending = description.label_ending
    label_of = {path.name.removesuffix(ending): path for path in visible_files(labels) if path.name.endswith(ending)}
    for path in visible_files(labels):
        if path.name.lower().endswith(ENDINGS) and not path.name.endswith(ending):
            what = f"is not read as a label, since it does not end in {ending}"
            faults.append(
                Fault("", path, what, "convert it, or correct `file_ending` or `label_ending`", is_error=False)
            )
    known = {*(case.id for case in found), *(fault.case for fault in faults)}
    for case_id, path in label_of.items():
        if case_id not in known:
            mend = f"add {images.name}/{case_id}_0000{description.image_ending}, or remove the label"
            faults.append(Fault(case_id, path, f"label of a case that has no image in {images.name}", mend))
    return [replace(case, label=label_of.get(case.id), split=split) for case in found]


def _listed_cases(description: Description, faults: list[Fault]) -> list[Case]:
    """The training cases that dataset.json lists with their files; paths are relative to the data set's folder."""
    cases = []
    root = description.file.parent
    for case_id, entry in sorted(description.listed.items(), key=lambda item: natural_order(item[0])):
        images = tuple(root / os.path.expandvars(image) for image in entry["images"])
        label = root / os.path.expandvars(entry["label"]) if entry.get("label") else None
        missing = [path for path in (*images, *([label] if label else [])) if not path.exists()]
        for path in missing:
            faults.append(Fault(case_id, path, "there is no such file", f"correct `dataset` in {description.file}"))
        wanted = description.files_per_case(range(len(images)))
        if len(images) != wanted:
            what = f"`dataset` lists {len(images)} images where {wanted} are due"
            faults.append(Fault(case_id, description.file, what, "list one file per channel, in their order"))
        elif not missing:
            cases.append(Case(case_id, images, label))
    return cases


def _apply_tables(root: Path, cases: list[Case], description: Description, faults: list[Fault]) -> list[Case]:
    """What cases.csv and splits_final.json say; without them the order is the natural one, test cases last."""
    rows = read_table(root / "cases.csv", faults)
    cases = apply_table(root / "cases.csv", rows, cases, tuple(description.tasks), faults)
    folds = root / "splits_final.json"
    if folds.exists() and not any(row["split"] for row in rows.values()):
        cases = apply_folds(folds, cases, faults)
    return cases


def _unlabelled_cases(folder: Path, cases: list[Case], description: Description, faults: list[Fault]) -> list[Case]:
    """Scans that lie elsewhere: training cases without label, of the data set's only domain, else one of their own."""
    before = len(faults)
    found = find_scans(folder, [description.image_ending], description.files_per_case, faults, plain_names=True)
    if not found and len(faults) == before:
        what = f"holds no scan that ends in {description.image_ending}"
        faults.append(Fault("", folder, what, "name the folder that holds the unlabelled scans themselves"))
    domains = {case.domain for case in cases} or {DEFAULT}
    domain = domains.pop() if len(domains) == 1 else folder.name
    return [replace(case, domain=domain) for case in found]


def _without_duplicates(cases: list[Case], faults: list[Fault]) -> list[Case]:
    """The first case of each id."""
    unique: dict[str, Case] = {}
    for case in cases:
        other = unique.setdefault(case.id, case)
        if other is not case:
            what = f"has the id of another case, {other.images[0]}"
            faults.append(Fault(case.id, case.images[0], what, "rename one of them"))
    return list(unique.values())
