from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from semivox.data.case import Case, Dataset
from semivox.data.case_lists import CaseLists, PartialLabels, assign
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


# --- partial labels of a fully labelled set --------------------------------------------------------------------------

ORGANS = LabelMap(("background", "heart", "aorta", "trachea"), (0, 1, 2, 3))
LABELLED = replace(
    DATASET, labels=ORGANS, cases=tuple(replace(case, label=Path(f"{case.id}.nii.gz")) for case in CASES)
)
SPLIT = CaseLists(
    train=("a", "b", "d"),
    test=("c",),
    tasks={
        "heart_only": PartialLabels(labels=("heart",), train=("a_1", "b")),
        "tubes": PartialLabels(labels=("trachea", "aorta"), train=("d", "a_2", "nobody")),
    },
)


def test_a_task_takes_training_cases_for_some_of_the_labels_and_leaves_what_is_scored_whole():
    assigned = assign(LABELLED, SPLIT)
    assert [(case.id, case.task) for case in assigned] == [
        ("a_1", "heart_only"),
        ("a_2", "tubes"),
        ("b_1", "heart_only"),
        ("b_2", "heart_only"),
        ("d_1", "tubes"),
        ("c_1", "default"),
    ]
    file = np.array([0, 1, 2, 3])
    assert assigned.to_classes(assigned["a_1"], file).tolist() == [0, 1, 0, 0]
    assert assigned.to_classes(assigned["d_1"], file).tolist() == [0, 0, 2, 3]
    assert assigned.to_classes(assigned["c_1"], file).tolist() == [0, 1, 2, 3]
    assert assigned.known_classes("tubes") == (False, False, True, True)
    assert assigned.known_classes("default") == (True, True, True, True)
    assert LABELLED.tasks == {}, "the set itself is left alone"


def test_labels_are_counted_for_each_task_in_the_order_of_the_training_list():
    seen = assign(LABELLED, SPLIT).hide_labels(1)
    assert [case.id for case in seen.labelled()] == ["a_1", "a_2"]
    assert [case.id for case in seen.split("test") if case.label] == ["c_1"]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"x": {"labels": ["hart"], "train": ["a"]}}, "task 'x': unknown label 'hart'; did you mean 'heart'?"),
        (
            {"x": {"labels": ["heart"], "train": ["a"]}, "y": {"labels": ["aorta"], "train": ["a_1"]}},
            "'a_1' is listed for task x and for y; list it once",
        ),
        ({"x": {"labels": ["heart"], "train": ["c"]}}, "task 'x' lists 'c', which is no training case; leave it out"),
    ],
)
def test_a_task_that_cannot_be_is_one_line(tasks, message):
    with pytest.raises(DataError) as caught:
        assign(LABELLED, CaseLists(train=("a", "b"), test=("c",), tasks=tasks))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
