"""cases.csv and splits_final.json: which case is for what, and in which order."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

from semivox.atomic import atomic_write_text
from semivox.data.case import DEFAULT, Case, Dataset, Split
from semivox.data.fault import Fault
from semivox.errors import unknown

SPLITS: tuple[Split, ...] = get_args(Split)
COLUMNS = ("case", "split", "domain", "task", "group")


def read_table(file: Path, faults: list[Fault]) -> dict[str, dict[str, str]]:
    """The rows of cases.csv, case → column → value, in the order of the file; empty where there is none."""
    if not file.exists():
        return {}
    try:
        reader = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig")), strict=True)
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        lines = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        faults.append(Fault("", file, f"cannot be read ({error})", "store it as comma-separated UTF-8 text"))
        return {}
    if "case" not in columns:
        what = f"has no column `case`; its first line is: {','.join(columns)}"
        faults.append(Fault("", file, what, f"begin it with: {','.join(COLUMNS)} (those that apply)"))
        return {}
    for name in columns:
        near = get_close_matches(name.lower(), COLUMNS, n=1, cutoff=0.75)
        if name not in COLUMNS and near:
            faults.append(Fault("", file, f"has an unknown column `{name}`", f"did you mean `{near[0]}`?"))
    rows: dict[str, dict[str, str]] = {}
    for line in lines:
        row = {name: (line.get(name) or "").strip() for name in COLUMNS}
        if row["case"] in rows:
            faults.append(Fault(row["case"], file, "is listed twice", "remove one of the rows"))
        elif row["case"]:
            rows[row["case"]] = row
    return rows


def apply_table(
    file: Path, rows: dict[str, dict[str, str]], cases: Sequence[Case], tasks: Sequence[str], faults: list[Fault]
) -> list[Case]:
    """The cases with what their rows say, in the rows' order; those without a row come after them."""
    found = {case.id: case for case in cases}
    faulty = {fault.case for fault in faults}
    applied = []
    for case_id, row in rows.items():
        case = found.pop(case_id, None)
        if case is None:
            if case_id not in faulty:
                mend = "add the image to imagesTr or imagesTs, or remove the row"
                faults.append(Fault(case_id, file, "is listed but has no image", mend))
            continue
        split = next((split for split in SPLITS if split == row["split"]), None)
        if row["split"] and split is None:
            what, _, mend = str(unknown("split", row["split"], SPLITS)).partition("; ")
            faults.append(Fault(case_id, file, what, mend))
        if row["task"] not in ("", DEFAULT, *tasks):
            what, _, mend = str(unknown("task", row["task"], [DEFAULT, *tasks])).partition("; ")
            faults.append(Fault(case_id, file, what, f"{mend} (tasks are declared in dataset.json)"))
        applied.append(
            replace(
                case,
                split=split or case.split,
                domain=row["domain"] or DEFAULT,
                task=row["task"] or DEFAULT,
                group=row["group"],
            )
        )
    if rows:
        for case in found.values():
            what = "has no row in cases.csv; it comes after all others"
            faults.append(Fault(case.id, case.images[0], what, "add a row for it", is_error=False))
    return [*applied, *found.values()]


def apply_folds(file: Path, cases: Sequence[Case], faults: list[Fault]) -> list[Case]:
    """nnU-Net's splits_final.json: the validation cases of fold 0 become `val`.

    As in nnU-Net, a labelled training case that fold 0 does not name takes no part.
    """
    try:
        fold = json.loads(file.read_text(encoding="utf-8-sig"))[0]
        train, validation = {str(name) for name in fold["train"]}, {str(name) for name in fold["val"]}
    except (OSError, ValueError, LookupError, TypeError):
        mend = 'write it as [{"train": ["case1", ...], "val": ["case2", ...]}, ...], or remove it'
        faults.append(Fault("", file, "is not a list of folds", mend))
        return list(cases)
    faulty = {fault.case for fault in faults}
    for case_id in sorted(train & validation):
        faults.append(Fault(case_id, file, "is in `train` and in `val` of fold 0", "remove it from one of them"))
    for case_id in sorted((train | validation) - {case.id for case in cases} - faulty):
        faults.append(Fault(case_id, file, "is named in fold 0 but has no image", "add the image, or remove the name"))
    applied = []
    for case in cases:
        if case.split == "train" and case.label is not None and case.id not in train | validation:
            what = "has a label but is not in fold 0: it takes no part"
            faults.append(Fault(case.id, file, what, "name it under `train` or `val`", is_error=False))
        else:
            applied.append(replace(case, split="val") if case.id in validation else case)
    return applied


def check_groups(cases: Sequence[Case], file: Path, faults: list[Fault]) -> None:
    """A patient belongs to one split only."""
    first: dict[str, Case] = {}
    told = set()
    for case in cases:
        other = first.setdefault(case.patient, case)
        if case.split != other.split and case.patient not in told:
            told.add(case.patient)
            what = f"patient {case.patient} is in {case.split} and, with case {other.id}, in {other.split}"
            faults.append(Fault(case.id, file, what, "put all cases of a patient into one split"))


def write_table(dataset: Dataset) -> None:
    """Writes cases.csv into the data set's `root`, in one step; columns that say nothing are left out."""
    rows = [(case.id, case.split, case.domain, case.task, case.group) for case in dataset]
    blank = (None, None, DEFAULT, DEFAULT, "")
    kept = [index for index in range(len(COLUMNS)) if any(row[index] != blank[index] for row in rows)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([line[index] for index in kept] for line in (COLUMNS, *rows))
    atomic_write_text(dataset.root / "cases.csv", text.getvalue())
