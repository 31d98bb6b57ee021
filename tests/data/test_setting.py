from dataclasses import replace
from pathlib import Path

import pytest

from semivox.data.case import Case, Dataset
from semivox.data.labels import LabelMap
from semivox.data.setting import (
    PARTIAL,
    SEMI_DG,
    SSL,
    SUPERVISED,
    UDA,
    Setting,
    describe,
    leave_unseen,
    one_sided_tasks,
    recognise,
    refuse_contradictions,
    without_foreign_labels,
)
from semivox.errors import DataError, SettingError


def dataset(*rows: str, tasks: dict[str, tuple[str, ...]] | None = None) -> Dataset:
    """A row is "split domain[:task] labelled|unlabelled [patient]"."""
    cases = []
    for place, row in enumerate(rows):
        split, where, label, *patient = row.split()
        domain, _, task = where.partition(":")
        file = Path(f"{place}.nii.gz") if label == "labelled" else None
        cases.append(Case(f"case{place}", (), file, domain, task or "default", split, *patient))  # type: ignore[arg-type]
    return Dataset(
        "set", Path("set"), ("MRI",), LabelMap(("background", "a", "b"), (0, 1, 2)), tuple(cases), tasks or {}
    )


@pytest.mark.parametrize(
    ("rows", "setting"),
    [
        (["train x labelled", "train x unlabelled", "test x labelled"], Setting((SSL,), ("x",), (), ())),
        (["train x labelled", "train y labelled", "test y labelled"], Setting((SUPERVISED,), ("x", "y"), (), ())),
        (["train x labelled", "train y unlabelled", "test y labelled"], Setting((UDA,), ("x",), ("y",), ())),
        (["train x labelled", "train y unlabelled", "test x labelled"], Setting((SSL,), ("x",), (), ())),
        (["train x labelled", "train y unlabelled"], Setting((UDA,), ("x",), ("y",), ())),
        (["train x labelled", "train y unlabelled", "val y labelled"], Setting((UDA,), ("x",), ("y",), ())),
        (["train x labelled", "train x unlabelled", "test z labelled"], Setting((SEMI_DG,), ("x",), (), ("z",))),
        (
            ["train x labelled", "train y unlabelled", "test y labelled", "test z labelled"],
            Setting((UDA, SEMI_DG), ("x",), ("y",), ("z",)),
        ),
        (
            ["train x:t labelled", "train x:s labelled", "train x:s unlabelled"],
            Setting((SSL, PARTIAL), ("x",), (), ()),
        ),
        (["train x unlabelled", "test x labelled"], Setting((), (), ("x",), ())),
    ],
)
def test_the_setting_follows_from_the_cases(rows: list[str], setting: Setting) -> None:
    assert recognise(dataset(*rows)) == setting


def test_hiding_all_labels_of_a_domain_makes_it_a_target() -> None:
    data = dataset("train x labelled", "train y labelled", "test x labelled", "test y labelled")
    assert recognise(data).names == (SUPERVISED,)
    assert recognise(data.hide_labels({"y": 0})) == Setting((UDA,), ("x",), ("y",), ())


def test_a_domain_that_stays_unseen_loses_its_training_cases_alone() -> None:
    data = dataset("train x labelled", "train x unlabelled", "train y labelled", "val y labelled", "test y labelled")
    left = leave_unseen(data, ["y"])
    assert [case.id for case in left] == ["case0", "case1", "case3", "case4"]
    assert recognise(left) == Setting((SEMI_DG,), ("x",), (), ("y",))
    assert leave_unseen(data, []) == data


def test_an_unseen_domain_must_be_scored_and_something_must_be_left() -> None:
    data = dataset("train x labelled", "train y labelled", "test y labelled")
    with pytest.raises(SettingError, match="unknown domain 'z'"):
        leave_unseen(data, ["z"])
    with pytest.raises(DataError, match="domain 'x' is to stay unseen but has training cases only"):
        leave_unseen(data, ["x"])
    with pytest.raises(DataError, match="leaves no training case"):
        leave_unseen(dataset("train y labelled", "test y labelled"), ["y"])


def test_labels_of_an_unseen_domain_cannot_be_asked_for() -> None:
    data = leave_unseen(dataset("train x labelled", "train y labelled", "test y labelled"), ["y"])
    with pytest.raises(DataError, match="--labelled y=1, but domain 'y' has no training case: it is tested unseen"):
        data.hide_labels({"y": 1})
    with pytest.raises(DataError, match="domain 'y' has no training case"):
        data.hide_labels({"y": 0})


def test_labels_cannot_be_asked_for_where_there_are_none() -> None:
    data = dataset("train x labelled", "train y unlabelled")
    assert data.hide_labels({"y": 0}) == data
    with pytest.raises(DataError, match="no training case of domain 'y' has one; give 0"):
        data.hide_labels({"y": 2})


@pytest.mark.parametrize("where", ["train y unlabelled", "test y labelled"])
def test_validation_labels_of_targets_and_unseen_domains_are_taken_away(where: str) -> None:
    data = dataset("train x labelled", where, "val x labelled", "val y labelled", "test y labelled")
    seen = without_foreign_labels(data)
    assert seen["case2"].label is not None
    assert seen["case3"].label is None
    assert seen["case4"].label is not None
    assert recognise(seen) == recognise(data)


def test_a_patient_in_two_splits_is_refused_whatever_listed_them() -> None:
    data = dataset("train x labelled p", "val x labelled q", "test x labelled p")
    with pytest.raises(DataError, match=r"patient p is in train \(case case0\) and in test \(case case2\)"):
        refuse_contradictions(data)
    refuse_contradictions(replace(data, cases=data.cases[:2]))


def test_a_domain_is_not_unseen_because_it_is_spelled_otherwise() -> None:
    with pytest.raises(DataError, match="'vendor b' is tested as never seen, but training has 'Vendor_B'"):
        refuse_contradictions(spelled("Vendor_B", "vendor b"))
    refuse_contradictions(spelled("Vendor_B", "Vendor_C"))
    refuse_contradictions(spelled("Vendor_B", "Vendor_B"))


def spelled(trained: str, tested: str) -> Dataset:
    data = dataset("train x labelled", "test x labelled")
    cases = [replace(case, domain=domain) for case, domain in zip(data, (trained, tested), strict=True)]
    return replace(data, cases=tuple(cases))


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (["train x labelled", "train x unlabelled"], "semi-supervised (SSL)"),
        (["train x labelled", "train y labelled", "train y unlabelled"], "semi-supervised (SSL) over 2 domains"),
        (
            ["train x labelled", "train y unlabelled"],
            "unsupervised domain adaptation (UDA): labels in x, none in y",
        ),
        (
            ["train x labelled", "train y labelled", "train x unlabelled", "test z labelled"],
            "semi-supervised domain generalisation (SemiDG): trained on x and y, tested on z, never seen",
        ),
        (
            ["train x labelled", "test z labelled"],
            "domain generalisation: trained on x, tested on z, never seen",
        ),
        (
            ["train x labelled", "train x labelled"],
            "every training case has a label; hide labels with --labelled N or add scans with --unlabelled DIR",
        ),
        (
            ["train x unlabelled"],
            "no training case has a label: nothing can be trained yet; a trained model can predict these cases",
        ),
    ],
)
def test_the_setting_is_told_in_words(rows: list[str], text: str) -> None:
    assert describe(dataset(*rows)) == text


def test_several_tasks_are_named_with_what_they_annotate() -> None:
    rows = ["train x:as labelled", "train y:bs labelled", "train y:bs unlabelled", "test z:as labelled"]
    found = describe(dataset(*rows, tasks={"as": ("a",), "bs": ("b",)}))
    told = "several tasks with partial labels: as (a: 1 labelled, 0 unlabelled), bs (b: 1 labelled, 1 unlabelled); "
    assert found.startswith(f"{told}semi-supervised domain generalisation")


def test_tasks_without_a_label_or_without_an_unlabelled_case_are_told() -> None:
    rows = ["train x:as labelled", "train y:bs unlabelled", "train y:abs unlabelled", "test y:abs labelled"]
    tasks = {"as": ("a",), "bs": ("b",), "abs": ("a", "b")}
    assert one_sided_tasks(dataset(*rows, tasks=tasks)) == [
        "task as has no unlabelled case: it is trained on its 1 labelled ones alone",
        "task bs has no labelled training case: b is never learnt",
        "task abs has no labelled training case: a is learnt from as alone, b is never learnt",
    ]
    assert one_sided_tasks(dataset("train x:as labelled", "train y:bs labelled", tasks=tasks)) == []
    assert one_sided_tasks(dataset("train x labelled", "test x labelled")) == []
