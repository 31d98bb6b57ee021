import json
from pathlib import Path

import numpy as np
import pytest

from semivox.data.image import write_label, write_map
from semivox.data.volume import Grid
from semivox.errors import DataError
from semivox.evaluation.matching import match

GRID = Grid((4, 5, 6), np.diag([1.0, 1.0, 2.0, 1.0]))


def put(folder: Path, case: str, *values: int, grid: Grid = GRID, ending: str = ".nii.gz") -> None:
    """A label file whose first voxels along X hold `values`, each in a whole row."""
    array = np.zeros(grid.shape, np.uint8)
    for x, value in enumerate(values):
        array[x] = value
    write_label(folder / f"{case}{ending}", array, grid)


def describe(folder: Path, labels: dict, **more) -> None:
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz", **more}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))


def say(folder: Path, **content) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prediction.json").write_text(json.dumps(content))


@pytest.fixture
def predictions(tmp_path):
    return tmp_path / "predictions"


@pytest.fixture
def labels(tmp_path):
    """Folder of labels of a data set whose classes are wall = 1 and cavity = 2."""
    describe(tmp_path / "data", {"background": 0, "wall": 1, "cavity": 2})
    return tmp_path / "data" / "labelsTs"


def classes_found(matching, case):
    prediction, reference = matching.read(matching.reference[case])
    return prediction[:, 0, 0].tolist(), reference.array[:, 0, 0].tolist()


def test_cases_are_matched_by_name_and_the_rest_is_told(predictions, labels):
    for case in ("b", "c", "case10", "case2"):
        put(predictions, case, 1)
    for case in ("a", "case10", "case2", "c"):
        put(labels, case, 1)
    found = match(predictions, labels)
    assert list(found.predictions) == ["c", "case2", "case10"]
    assert (found.unscored, found.unpredicted) == (("b",), ("a",))


def test_without_any_description_each_value_is_a_class(tmp_path, predictions):
    put(predictions, "a", 7, 40)
    put(tmp_path / "labels", "a", 7, 255)
    found = match(predictions, tmp_path / "labels")
    assert found.reference.labels.scored() == {"7": (1,), "40": (2,), "255": (3,)}
    assert classes_found(found, "a") == ([1, 2, 0, 0], [1, 3, 0, 0])


def test_names_of_the_data_set_above_the_labels_are_used(predictions, labels):
    put(predictions, "a", 2, 1)
    put(labels, "a", 2, 2)
    found = match(predictions, labels)
    assert found.names(found.reference["a"]) == ["wall", "cavity"]
    assert classes_found(found, "a") == ([2, 1, 0, 0], [2, 2, 0, 0])


def test_names_said_beside_the_predictions_serve_labels_that_have_none(tmp_path, predictions):
    put(predictions, "a", 3)
    put(tmp_path / "labels", "a", 5)
    say(predictions, labels={"background": 0, "wall": 3, "cavity": 5}, regions={"heart": [1, 2]}, model={"step": 7})
    found = match(predictions, tmp_path / "labels")
    assert found.reference.labels.scored() == {"heart": (1, 2)}
    assert found.model == {"step": 7}
    assert classes_found(found, "a") == ([1, 0, 0, 0], [2, 0, 0, 0])


def test_classes_are_matched_by_name_where_values_differ(predictions, labels):
    put(predictions, "a", 10, 20, 30)
    put(labels, "a", 1, 2, 2)
    say(predictions, labels={"background": 0, "cavity": 10, "scar": 20, "wall": 30})
    found = match(predictions, labels)
    assert classes_found(found, "a") == ([2, 0, 1, 0], [1, 2, 2, 0])


def test_a_class_that_the_model_does_not_know_is_not_scored_but_told(predictions, labels):
    put(predictions, "a", 1)
    put(labels, "a", 1, 2)
    say(predictions, labels={"background": 0, "cavity": 1})
    found = match(predictions, labels)
    assert found.names(found.reference["a"]) == ["cavity"]
    assert found.unpredictable == ("wall",)


def test_a_region_needs_all_of_its_classes(tmp_path, predictions):
    regions = {"background": 0, "tumour": [1, 2], "core": [2]}
    describe(tmp_path / "data", regions, regions_class_order=[1, 2])
    put(tmp_path / "data" / "labelsTs", "a", 1, 2)
    put(predictions, "a", 2)
    say(predictions, labels={"background": 0, "core": 2})
    found = match(predictions, tmp_path / "data" / "labelsTs")
    assert found.names(found.reference["a"]) == ["core"]
    assert found.unpredictable == ("tumour",)


def test_predictions_of_nnunet_are_read_by_the_dataset_json_beside_them(predictions, labels):
    describe(predictions, {"background": 0, "cavity": 1, "wall": 2})
    put(predictions, "a", 1, 2)
    put(labels, "a", 1, 2)
    assert classes_found(match(predictions, labels), "a") == ([2, 1, 0, 0], [1, 2, 0, 0])


def test_tasks_domains_and_groups_come_from_the_data_set(predictions, tmp_path):
    root = tmp_path / "data"
    describe(root, {"background": 0, "wall": 1, "cavity": 2}, tasks={"cavities": ["cavity"]})
    for case in ("a", "b"):
        put(root / "imagesTs", f"{case}_0000", 1)
        put(root / "labelsTs", case, 1, 2)
        put(predictions, case, 1, 2)
    (root / "cases.csv").write_text("case,split,domain,task,group\na,test,here,default,p1\nb,test,there,cavities,p2\n")
    for source in (root / "labelsTs", root):
        found = match(predictions, source)
        a, b = found.reference["a"], found.reference["b"]
        assert (a.domain, b.domain, a.group, b.group) == ("here", "there", "p1", "p2")
        assert (found.names(a), found.names(b)) == (["wall", "cavity"], ["cavity"])


def test_labels_of_splits_that_were_not_predicted_are_not_missed(predictions, tmp_path):
    root = tmp_path / "data"
    describe(root, {"background": 0, "wall": 1})
    for kind, cases in (("Tr", ("a", "b")), ("Ts", ("c", "d"))):
        for case in cases:
            put(root / f"images{kind}", f"{case}_0000", 1)
            put(root / f"labels{kind}", case, 1)
    put(predictions, "c", 1)
    assert match(predictions, root).unpredicted == ("d",)


def test_uncertainty_maps_are_no_predictions(predictions, labels):
    put(predictions, "a", 1)
    put(predictions, "b_uncertainty", 1)
    put(labels, "a", 1)
    write_map(predictions / "a_uncertainty.nii.gz", np.full(GRID.shape, 0.5), GRID)
    found = match(predictions, labels)
    assert (list(found.predictions), found.unscored) == (["a"], ("b_uncertainty",))


def test_endings_may_differ(predictions, labels):
    put(predictions, "a", 1, ending=".mha")
    put(labels, "a", 1)
    assert classes_found(match(predictions, labels), "a") == ([1, 0, 0, 0], [1, 0, 0, 0])


SHIFTED = Grid(GRID.shape, GRID.affine + np.array([[0, 0, 0, 3.0]] + [[0] * 4] * 3))


@pytest.mark.parametrize(
    ("grid", "values", "words"),
    [
        (Grid((4, 5, 7), GRID.affine), [1], ["case a", "a.nii.gz", "shape 4 × 5 × 7 instead of 4 × 5 × 6"]),
        (Grid(GRID.shape, np.diag([1.0, 1.0, 3.0, 1.0])), [1], ["case a", "spacing 1 × 1 × 3 mm"]),
        (SHIFTED, [1], ["case a", "3 mm away"]),
        (Grid(GRID.shape, np.diag([-1.0, 1.0, 2.0, 1.0])), [1], ["case a", "orientation LAS instead of RAS"]),
        (GRID, [1, 9], ["case a", "undeclared values 9", "prediction.json"]),
    ],
    ids=["shape", "spacing", "origin", "orientation", "values"],
)
def test_a_prediction_that_does_not_fit_its_label_is_named_in_one_line(predictions, labels, grid, values, words):
    put(predictions, "a", *values, grid=grid)
    put(labels, "a", 1)
    found = match(predictions, labels)
    with pytest.raises(DataError) as caught:
        found.read(found.reference["a"])
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("broken", ["prediction", "label"])
def test_a_damaged_file_is_named_with_its_case(predictions, labels, broken):
    put(predictions, "a", 1)
    put(labels, "a", 1)
    file = (predictions if broken == "prediction" else labels) / "a.nii.gz"
    file.write_bytes(file.read_bytes()[:60])
    found = match(predictions, labels)
    with pytest.raises(DataError, match=r"case a: .*a\.nii\.gz"):
        found.read(found.reference["a"])


def test_nothing_in_common_says_what_names_there_are(predictions, labels):
    put(predictions, "pred_a", 1)
    put(labels, "a", 1)
    with pytest.raises(DataError, match="predicted cases: pred_a"):
        match(predictions, labels)


def test_no_class_in_common_is_refused(predictions, labels):
    put(predictions, "a", 1)
    put(labels, "a", 1)
    say(predictions, labels={"background": 0, "liver": 1})
    with pytest.raises(DataError, match="of liver, labels of wall, cavity: no name is in both"):
        match(predictions, labels)


def test_two_files_of_one_case_are_refused(predictions, labels):
    put(predictions, "a", 1)
    put(predictions, "a", 1, ending=".nii")
    put(labels, "a", 1)
    with pytest.raises(DataError, match=r"case a: .*keep one file per case"):
        match(predictions, labels)


def test_a_folder_that_is_not_there_is_refused(tmp_path, labels):
    with pytest.raises(DataError, match="no such folder"):
        match(tmp_path / "nowhere", labels)


@pytest.mark.parametrize("text", ["{", "[]", '{"labels": 3}', '{"labels": {"a": "x"}}', "{}"])
def test_a_prediction_json_that_says_nothing_is_refused(predictions, labels, text):
    put(predictions, "a", 1)
    put(labels, "a", 1)
    (predictions / "prediction.json").write_text(text)
    with pytest.raises(DataError, match=r"prediction\.json: does not say"):
        match(predictions, labels)
