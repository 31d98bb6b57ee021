from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from semivox.data.case import Case, Dataset
from semivox.data.labels import IGNORE, LabelMap
from semivox.errors import DataError, SettingError

LABELS = LabelMap(("background", "RV", "LV"), (0, 1, 3), ignore_value=9)


def case(case_id: str, labelled: bool = True, **fields: str) -> Case:
    return Case(case_id, (Path(f"{case_id}_0000.nii.gz"),), Path(f"{case_id}.nii.gz") if labelled else None, **fields)  # type: ignore[arg-type]


def dataset(*cases: Case, **fields) -> Dataset:
    return Dataset("set", Path("set"), ("MRI",), LABELS, cases, **fields)


def labelled_ids(data: Dataset) -> list[str]:
    return [c.id for c in data.labelled()]


def test_hiding_keeps_the_first_labelled_cases_in_published_order() -> None:
    data = dataset(case("z"), case("u", labelled=False), case("b"), case("a"))
    assert labelled_ids(data.hide_labels(2)) == ["z", "b"]
    assert [c.id for c in data.hide_labels(2).unlabelled()] == ["u", "a"]


def test_hiding_takes_the_path_of_the_label_away() -> None:
    hidden = dataset(case("a"), case("b")).hide_labels(1)
    assert hidden["b"].label is None
    assert hidden["b"].images == case("b").images


def test_hiding_counts_patients_not_volumes() -> None:
    data = dataset(case("a1", group="a"), case("a2", group="a"), case("b1", group="b"), case("b2", group="b"))
    assert labelled_ids(data.hide_labels(1)) == ["a1", "a2"]


def test_hiding_counts_by_domain_and_task() -> None:
    data = dataset(
        case("a", domain="x"),
        case("b", domain="x"),
        case("c", domain="y"),
        case("d", domain="y", task="t"),
        case("e", domain="y", task="t"),
    )
    assert labelled_ids(data.hide_labels(1)) == ["a", "c", "d"]


def test_hiding_one_domain_leaves_the_others_alone() -> None:
    data = dataset(case("a", domain="x"), case("b", domain="x"), case("c", domain="y"), case("d", domain="y"))
    assert labelled_ids(data.hide_labels({"y": 0})) == ["a", "b"]
    with pytest.raises(SettingError, match="unknown domain"):
        data.hide_labels({"z": 1})


def test_hiding_touches_training_cases_only() -> None:
    data = dataset(case("a"), case("v", split="val"), case("t", split="test"))
    hidden = data.hide_labels(0)
    assert hidden["v"].label
    assert hidden["t"].label
    assert hidden["a"].label is None


def test_asking_for_more_labels_than_there_are_says_how_many() -> None:
    with pytest.raises(DataError, match="at most 1"):
        dataset(case("a"), case("b", labelled=False)).hide_labels(2)


def test_development_drops_test_cases_and_scores_validation_cases() -> None:
    data = dataset(case("a"), case("v", split="val"), case("t", split="test")).development(5)
    assert [(c.id, c.split) for c in data] == [("a", "train"), ("v", "val")]


def test_development_without_validation_cases_scores_the_last_labelled_patients() -> None:
    cases = [case("a"), case("b1", group="b"), case("b2", group="b"), case("c"), case("u", labelled=False)]
    unlabelled = case("v", labelled=False, split="val")
    data = dataset(*cases, unlabelled, case("t", split="test")).development(2)
    assert [(c.id, c.split) for c in data] == [
        ("a", "train"),
        ("b1", "val"),
        ("b2", "val"),
        ("c", "val"),
        ("u", "train"),
        ("v", "val"),
    ]
    assert all(c.label for c in data if c.id in ("b1", "b2", "c"))


@pytest.mark.parametrize("groups", [0, 2])
def test_development_needs_cases_to_score_and_cases_to_train_on(groups: int) -> None:
    with pytest.raises(DataError, match="development_groups is 1 to 1"):
        dataset(case("a"), case("b"), case("t", split="test")).development(groups)


def test_what_a_task_leaves_out_is_read_as_background() -> None:
    data = dataset(case("a"), case("b", task="left heart"), tasks={"left heart": ("LV",)})
    values = np.array([0, 1, 3, 9])
    assert data.to_classes(data["a"], values).tolist() == [0, 1, 2, IGNORE]
    assert data.to_classes(data["b"], values).tolist() == [0, 0, 2, IGNORE]
    assert data.known_classes("left heart") == (False, False, True)
    assert data.known_classes("default") == (True, True, True)


def test_a_case_may_have_values_of_its_own() -> None:
    own = LabelMap(("background", "LV"), (0, 1))
    data = dataset(replace(case("a"), label_map=own), case("b"))
    assert data.to_classes(data["a"], np.array([0, 1])).tolist() == [0, 2]
    assert hash(data["a"]) == hash(replace(data["a"], label_map=None))


def test_restricting_drops_labels_of_tasks_that_annotate_nothing_of_it() -> None:
    data = dataset(case("a", task="right"), case("b", task="left"), tasks={"right": ("RV",), "left": ("LV",)})
    only = data.restrict(["LV"])
    assert labelled_ids(only) == ["b"]
    assert only.labels.names == ("background", "LV")
    assert only.to_classes(only["b"], np.array([0, 1, 3])).tolist() == [0, 0, 1]


def test_an_unknown_case_names_the_nearest() -> None:
    with pytest.raises(SettingError, match="did you mean 'patient001'"):
        dataset(case("patient001"))["patient01"]
