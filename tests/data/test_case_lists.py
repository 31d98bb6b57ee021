from pathlib import Path

import pytest

from semivox.data.case import Case, Dataset
from semivox.data.case_lists import CaseLists, assign
from semivox.data.labels import LabelMap
from semivox.errors import DataError


def frame(patient, number, split="train"):
    return Case(f"{patient}_{number}", (Path(f"{patient}_{number}.nii.gz"),), split=split, group=patient)


CASES = (frame("a", 1), frame("a", 2), frame("b", 1, "val"), frame("b", 2, "val"), frame("c", 1, "test"), frame("d", 1))
DATASET = Dataset("set", Path("set"), ("MRI",), LabelMap(("background", "x"), (0, 1)), CASES)


def test_lists_alone_say_split_and_order_and_who_takes_part():
    assigned = assign(DATASET, CaseLists(train=("c", "a_2"), val=("d",), test=("b",)))
    assert [(case.id, case.split) for case in assigned] == [
        ("c_1", "train"),
        ("a_2", "train"),
        ("d_1", "val"),
        ("b_1", "test"),
        ("b_2", "test"),
    ]
    assert [case.split for case in DATASET] == ["train", "train", "val", "val", "test", "train"], "it is left alone"


def test_what_is_named_twice_comes_once_and_what_is_not_there_is_passed_over():
    assigned = assign(DATASET, CaseLists(train=("a_2", "a", "nobody")))
    assert [case.id for case in assigned] == ["a_2", "a_1"]


def test_a_case_in_two_lists_and_lists_of_another_set_are_refused():
    with pytest.raises(DataError, match="'a_1' is listed for train and for test; list it once"):
        assign(DATASET, CaseLists(train=("a",), test=("a_1",)))
    with pytest.raises(DataError, match="has none of the listed cases"):
        assign(DATASET, CaseLists(train=("nobody",)))
