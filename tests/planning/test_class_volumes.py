from pathlib import Path

import pytest

from semivox.data.case import Case, Dataset
from semivox.data.labels import LabelMap
from semivox.planning.class_volumes import doubtful_names, shares_classes
from semivox.planning.fingerprint import Fingerprint, Scan


def scan(domain: str, **class_ml: float) -> Scan:
    box = {"shape": (9, 9, 9), "body": (9, 9, 9), "spacing_mm": (1.0, 1.0, 1.0)}
    told = {"case": "a", "split": "train", "channels": ("MRI",), "dtype": "int16", "intensities": (), "sha256": {}}
    return Scan(**box, **told, domain=domain, is_picture=False, class_ml=class_ml or None)


def doubts(*scans: Scan, names: tuple[str, ...] = ("LV", "RV")) -> list[str]:
    return list(
        map(str, doubtful_names(Fingerprint(dataset="d", channels=("MRI",), scans=scans, modalities=()), names))
    )


def test_a_class_far_larger_in_one_set_is_doubted_by_its_median():
    scans = [scan("A", LV=58), scan("A", LV=60), scan("A", LV=900), scan("B", LV=6), scan("B"), scan("C", LV=11.9)]
    assert doubts(*scans) == [
        "class 'LV' is 60 ml in A and 6 ml in B; if it means something else there, name it apart in dataset.json"
    ]
    assert doubts(scan("A", LV=30), scan("B", LV=6)) == []


def test_scans_without_the_class_and_background_are_no_reason_to_doubt():
    assert doubts(scan("A", LV=60, background=9000), scan("B", LV=0.0, background=900), scan("C", RV=1)) == []


@pytest.mark.parametrize(
    ("tasks", "expected"), [({"p": ("a",), "q": ("b",)}, False), ({"p": ("a",)}, True), ({}, True)]
)
def test_labels_are_worth_opening_only_where_domains_share_a_class(tasks, expected):
    cases = [Case("1", (), Path("1"), "x", "p"), Case("2", (), Path("2"), "y", "q"), Case("3", (), None, "z", "p")]
    dataset = Dataset("d", Path("d"), ("MRI",), LabelMap(("background", "a", "b"), (0, 1, 2)), tuple(cases), tasks)
    assert shares_classes(dataset) == expected
    assert not shares_classes(dataset.hide_labels({"y": 0}))


def test_sets_are_told_apart_where_their_domains_have_one_name():
    scans = [scan("site", LV=60), scan("site", LV=6)]
    joined = [one.model_copy(update={"case": f"{name}__a"}) for one, name in zip(scans, ("old", "new"), strict=True)]
    assert doubts(*scans) == []
    assert doubts(*joined)[0].startswith("class 'LV' is 60 ml in old and 6 ml in new;")
