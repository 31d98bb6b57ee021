import json
from pathlib import Path

import numpy as np
import pytest
from small_set import write_small_set

from semivox.data.image import read_classes
from semivox.data.joining import join, own_id, prefix_of, read_datasets
from semivox.data.labels import IGNORE
from semivox.data.layout import read_dataset
from semivox.errors import DataError, SettingError


@pytest.fixture
def both_sides(tmp_path: Path) -> Path:
    """Declares `left` 1 and `right` 2."""
    return write_small_set(tmp_path / "both sides")


@pytest.fixture
def one_side(tmp_path: Path) -> Path:
    """Declares `right` 1 and `top` 2: the value of `right` is another than in the first set."""
    return write_small_set(tmp_path / "one", labels={"background": 0, "right": 1, "top": 2, "ignore": 7})


def test_classes_join_by_name_and_every_file_keeps_its_values(both_sides: Path, one_side: Path) -> None:
    data = join([read_dataset(both_sides), read_dataset(one_side)])
    assert data.labels.names == ("background", "left", "right", "top")
    assert data.labels.values == (0, 1, 2, 3)
    first, second = data["both-sides__a1"], data["one__a1"]
    values = np.array([0, 1, 2])
    assert data.to_classes(first, values).tolist() == [0, 1, 2]
    assert data.to_classes(second, np.array([0, 1, 2, 7])).tolist() == [0, 2, 3, IGNORE]
    assert np.unique(read_classes(second, data).array).tolist() == [0, 2, 3]


def test_a_single_set_stays_as_it_is(both_sides: Path) -> None:
    data = read_dataset(both_sides)
    assert join([data]) is data
    assert read_datasets([both_sides]) == data


def test_ids_and_patients_of_different_sets_stay_apart(tmp_path: Path) -> None:
    roots = [write_small_set(tmp_path / place / "same") for place in ("x", "y")]
    for root in roots:
        (root / "cases.csv").write_text("case,group\na1,p\na2,p\na3,\na10,\nt1,q\nt2,\n")
    data = read_datasets(roots)
    assert len({case.id for case in data}) == 12
    assert data["same__a1"].group == "same__p"
    assert data["same-2__a2"].group == "same-2__p"
    assert data["same__a3"].group == ""
    assert all("/" not in case.id for case in data)


def test_each_set_is_a_domain_unless_its_cases_say_otherwise(both_sides: Path, one_side: Path) -> None:
    (one_side / "cases.csv").write_text("case,domain\na1,A\na2,B\na3,A\na10,\nt1,B\nt2,A\n")
    data = read_datasets([both_sides, one_side])
    assert data.domains == ("both-sides", "A", "B", "one")
    assert data["one__a10"].domain == "one"


def test_sets_with_the_same_names_are_one_task_whatever_their_values(both_sides: Path, tmp_path: Path) -> None:
    other = write_small_set(tmp_path / "other", labels={"background": 0, "right": 1, "left": 2})
    data = read_datasets([both_sides, other])
    assert {case.task for case in data} == {"default"}
    assert data.tasks == {}
    assert data.to_classes(data["other__a1"], np.array([1, 2])).tolist() == [2, 1]


def test_sets_with_different_names_are_tasks_that_know_only_their_own(both_sides: Path, one_side: Path) -> None:
    data = read_datasets([both_sides, one_side])
    assert data.tasks == {"both-sides": ("left", "right"), "one": ("right", "top")}
    assert data["one__t1"].task == "one"
    assert data.known_classes("one") == (False, False, True, True)


def test_a_task_that_annotates_other_labels_in_another_set_is_refused(both_sides: Path, one_side: Path) -> None:
    for root, label in ((both_sides, "left"), (one_side, "top")):
        content = json.loads((root / "dataset.json").read_text())
        (root / "dataset.json").write_text(json.dumps(content | {"tasks": {"part": [label]}}))
        (root / "cases.csv").write_text("case,task\na1,part\na2,\na3,\na10,\nt1,\nt2,\n")
    with pytest.raises(DataError, match=r"one: task 'part' annotates top, in another data set left; give .* name"):
        read_datasets([both_sides, one_side])


def test_cases_keep_what_their_own_set_calls_its_channels(both_sides: Path, one_side: Path, tmp_path: Path) -> None:
    assert all(case.channels == () for case in read_datasets([both_sides, one_side]))
    ct = write_small_set(tmp_path / "ct")
    content = json.loads((ct / "dataset.json").read_text())
    (ct / "dataset.json").write_text(json.dumps(content | {"channel_names": {"0": "CT"}}))
    data = read_datasets([both_sides, ct, one_side])
    own = read_dataset(both_sides).channels[0]
    assert data.channels == (f"{own} / CT",)
    assert (data.modality(data["both-sides__a1"]), data.modality(data["ct__t1"])) == (own, "CT")
    assert data.modalities == {"both-sides": (own,), "ct": ("CT",), "one": (own,)}


def test_ids_of_joined_sets_tell_set_and_case_apart() -> None:
    assert own_id(f"{prefix_of('a__b c')}__x__1") == ("a-b-c", "x__1")
    assert own_id("x_1") == ("", "x_1")


def test_hiding_labels_counts_in_each_set(both_sides: Path, one_side: Path) -> None:
    data = read_datasets([both_sides, one_side]).hide_labels(1)
    assert [case.id for case in data.labelled()] == ["both-sides__a1", "one__a1"]


def test_labels_restrict_every_set_to_those_it_has(both_sides: Path, one_side: Path) -> None:
    data = read_datasets([both_sides, one_side], labels=["right"])
    assert data.labels.names == ("background", "right")
    assert data.tasks == {}
    assert data.to_classes(data["both-sides__a1"], np.array([0, 1, 2])).tolist() == [0, 0, 1]
    assert data.to_classes(data["one__a1"], np.array([0, 1, 2])).tolist() == [0, 1, 0]
    assert read_datasets([both_sides, one_side], labels=["left", "right"]).tasks == {
        "both-sides": ("left", "right"),
        "one": ("right",),
    }


def test_labels_that_no_set_or_not_every_set_has_are_refused(both_sides: Path, one_side: Path) -> None:
    with pytest.raises(SettingError, match="did you mean 'right'"):
        read_datasets([both_sides, one_side], labels=["rigth"])
    with pytest.raises(DataError, match="has none of the labels left; leave this data set out"):
        read_datasets([both_sides, one_side], labels=["left"])


def test_unlabelled_scans_are_counted_to_the_first_set(both_sides: Path, one_side: Path, tmp_path: Path) -> None:
    more = write_small_set(tmp_path / "more") / "imagesTs"
    for path in more.iterdir():
        path.rename(path.with_name(f"u{path.name}"))
    data = read_datasets([both_sides, one_side], unlabelled=more)
    assert [case.id for case in data.unlabelled()] == [
        "both-sides__a10",
        "both-sides__ut1",
        "both-sides__ut2",
        "one__a10",
    ]


def test_what_cannot_be_joined_is_told_in_one_line(both_sides: Path, tmp_path: Path) -> None:
    two = write_small_set(tmp_path / "two", channels=2)
    spelled = write_small_set(tmp_path / "spelled", labels={"background": 0, "Left": 1})
    regions = write_small_set(tmp_path / "regions", labels={"background": 0, "left": 1, "right": 2, "all": [1, 2]})
    for other, words in (
        (two, "2 channels where .* has 1"),
        (spelled, "label 'Left' is 'left' in"),
        (regions, "declares other regions"),
        (both_sides, "is given twice"),
    ):
        with pytest.raises(DataError, match=words) as error:
            read_datasets([both_sides, other])
        assert str(other) in str(error.value)


def test_regions_that_agree_are_joined_by_name(tmp_path: Path) -> None:
    declared = {"background": 0, "all": [3, 5], "core": [5]}
    first = write_small_set(tmp_path / "first", labels=declared)
    second = write_small_set(tmp_path / "second", labels=declared)
    assert read_datasets([first, second]).labels.scored() == {"all": (1, 2), "core": (2,)}
