import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_set import save_nifti, scan, write_small_set

from semivox.data.case import Case, Dataset
from semivox.data.description import read_description
from semivox.data.labels import LabelMap
from semivox.data.layout import read_dataset, survey, write_description
from semivox.data.scans import natural_order, scans_in
from semivox.errors import DataError, SemivoxError, SettingError

REAL = Path(__file__).parents[3] / "shared" / "data"


def ids(cases: tuple[Case, ...]) -> list[str]:
    return [case.id for case in cases]


def edit(root: Path, **entries: object) -> None:
    """Replaces entries of dataset.json; None removes one."""
    file = root / "dataset.json"
    content = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


# --- what is read ---------------------------------------------------------------------------------------------------


def test_an_image_without_a_label_is_unlabelled(small_set: Path) -> None:
    data = read_dataset(small_set)
    assert ids(data.labelled()) == ["a1", "a2", "a3"]
    assert ids(data.unlabelled()) == ["a10"]
    assert ids(data.split("test")) == ["t1", "t2"]
    assert data["a2"].images == (small_set / "imagesTr" / "a2_0000.nii.gz",)
    assert data["t1"].label == small_set / "labelsTs" / "t1.nii.gz"
    assert (data.name, data.channels, data.file_ending) == ("small", ("MRI 0",), ".nii.gz")


def test_without_a_table_the_order_is_the_natural_one_and_test_cases_come_last(small_set: Path) -> None:
    assert ids(read_dataset(small_set).cases) == ["a1", "a2", "a3", "a10", "t1", "t2"]


def test_case2_comes_before_case10() -> None:
    names = ["case10", "case2", "case1b", "10", "9", "case02", "a", "case"]
    assert sorted(names, key=natural_order) == ["9", "10", "a", "case", "case1b", "case02", "case2", "case10"]


@given(st.lists(st.text()))
def test_natural_order_is_defined_for_any_names(names: list[str]) -> None:
    assert sorted(sorted(names), key=natural_order) == sorted(sorted(names, reverse=True), key=natural_order)


def test_the_table_gives_order_split_domain_task_and_group(small_set: Path) -> None:
    edit(small_set, tasks={"one side": ["left"]})
    (small_set / "cases.csv").write_text(
        "\ufeffcase, group,domain,split,task,age\n"
        "t2,p3,B,test,,40\na3,p1,A,train,one side,50\na1,p2,,val,,\na2,p1,A,,,\na10,,,,,\nt1,,,,,\n",
        encoding="utf-8",
    )
    data = read_dataset(small_set)
    assert ids(data.cases) == ["t2", "a3", "a1", "a2", "a10", "t1"]
    assert [case.split for case in data] == ["test", "train", "val", "train", "train", "test"]
    assert [case.domain for case in data] == ["B", "A", "default", "A", "default", "default"]
    assert [case.task for case in data] == ["default", "one side", "default", "default", "default", "default"]
    assert [case.patient for case in data] == ["p3", "p1", "p2", "p1", "a10", "t1"]
    assert data.tasks == {"one side": ("left",)}


def test_a_table_may_have_any_subset_of_the_columns(small_set: Path) -> None:
    (small_set / "cases.csv").write_text("case\nt1\na10\na3\na2\na1\nt2\n")
    data = read_dataset(small_set)
    assert ids(data.cases) == ["t1", "a10", "a3", "a2", "a1", "t2"]
    assert data["t1"].split == "test"


def test_fold_0_of_splits_final_names_the_validation_cases(small_set: Path) -> None:
    folds = [{"train": ["a1"], "val": ["a2"]}, {"train": ["a2"], "val": ["a1"]}]
    (small_set / "splits_final.json").write_text(json.dumps(folds))
    data = read_dataset(small_set)
    assert ids(data.labelled()) == ["a1"]
    assert ids(data.split("val")) == ["a2"]
    assert ids(data.unlabelled()) == ["a10"]
    assert "a3" not in ids(data.cases)  # labelled, and in neither list: nnU-Net does not train on it


def test_the_split_column_goes_before_splits_final(small_set: Path) -> None:
    (small_set / "splits_final.json").write_text(json.dumps([{"train": ["a1", "a3"], "val": ["a2"]}]))
    (small_set / "cases.csv").write_text("case,split\na1,val\na2,train\na3,train\na10,train\nt1,test\nt2,test\n")
    assert ids(read_dataset(small_set).split("val")) == ["a1"]


def test_several_channels_are_files_in_order(tmp_path: Path) -> None:
    data = read_dataset(write_small_set(tmp_path / "two", channels=2))
    assert data.channels == ("MRI 0", "MRI 1")
    assert [path.name for path in data["a1"].images] == ["a1_0000.nii.gz", "a1_0001.nii.gz"]


def test_values_names_and_ignore_are_as_declared(small_set: Path) -> None:
    edit(small_set, labels={"LV": 500, "background": -1, "MYO": 0, "ignore": 99})
    labels = read_dataset(small_set).labels
    assert labels == LabelMap(("background", "LV", "MYO"), (-1, 500, 0), ignore_value=99)


REGIONS = {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}


def test_regions_are_trained_as_disjoint_classes_and_scored_as_unions(small_set: Path) -> None:
    edit(small_set, labels=REGIONS, regions_class_order=[1, 2, 3])
    labels = read_dataset(small_set).labels
    assert labels.names == ("background", "whole tumour (1)", "core (2)", "enhancing")
    assert labels.values == (0, 1, 2, 3)
    assert labels.ignore_value == 4
    assert labels.scored() == {"whole tumour": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}


def test_files_listed_in_dataset_json_are_read_where_they_lie(small_set: Path, tmp_path: Path) -> None:
    save_nifti(tmp_path / "elsewhere" / "x.nii.gz", scan(99))
    listed = {
        "x": {"images": [str(tmp_path / "elsewhere" / "x.nii.gz")]},
        "b": {"images": ["imagesTr/a1_0000.nii.gz"], "label": "labelsTr/a1.nii.gz"},
    }
    edit(small_set, dataset=listed)
    data = read_dataset(small_set)
    assert ids(data.cases) == ["b", "x", "t1", "t2"]
    assert data["b"].label == small_set / "labelsTr" / "a1.nii.gz"
    assert data["x"].label is None


def write_pictures(root: Path, mode: str, ending: str = ".png", **entries: object) -> Path:
    (root / "imagesTr").mkdir(parents=True)
    for case in ("a", "b"):
        Image.new(mode, (6, 4)).save(root / "imagesTr" / f"{case}_0000{ending}")
    content = {"channel_names": {"0": "photograph"}, "labels": {"background": 0, "vessel": 1}, "file_ending": ending}
    (root / "dataset.json").write_text(json.dumps(content | entries))
    return root


def test_one_colour_picture_is_three_channels(tmp_path: Path) -> None:
    assert read_dataset(write_pictures(tmp_path / "a", "RGB")).channels == ("red", "green", "blue")
    assert read_dataset(write_pictures(tmp_path / "b", "L")).channels == ("photograph",)
    named = {"channel_names": {"0": "R", "1": "G", "2": "B"}}
    assert read_dataset(write_pictures(tmp_path / "c", "RGB", **named)).channels == ("R", "G", "B")


def test_endings_of_images_and_labels_may_differ(tmp_path: Path) -> None:
    root = write_pictures(
        tmp_path / "a", "RGB", ".jpg", file_ending=None, image_ending="_0000.jpg", label_ending=".png"
    )
    (root / "labelsTr").mkdir()
    Image.new("L", (6, 4)).save(root / "labelsTr" / "b.png")
    data = read_dataset(root)
    assert ids(data.labelled()) == ["b"]
    assert data.file_ending == ".png"
    assert data["b"].images[0].name == "b_0000.jpg"


def test_the_first_picture_may_be_broken(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "a", "RGB")
    (root / "imagesTr" / "a_0000.png").write_bytes(b"")
    assert read_dataset(root).channels == ("red", "green", "blue")


def test_restricting_the_labels_by_name(small_set: Path) -> None:
    data = read_dataset(small_set, labels=["right"])
    assert data.labels.names == ("background", "right")
    assert data.to_classes(data["a1"], np.array([0, 1, 2])).tolist() == [0, 0, 1]
    with pytest.raises(SettingError, match="did you mean 'right'"):
        read_dataset(small_set, labels=["rihgt"])


def test_hidden_files_are_passed_over(small_set: Path) -> None:
    for name in (".DS_Store", "._a1_0000.nii.gz"):
        (small_set / "imagesTr" / name).write_bytes(b"x")
    assert survey(small_set)[1] == []


# --- scans that lie elsewhere ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "_0000"])
def test_unlabelled_scans_are_added_at_the_end(small_set: Path, tmp_path: Path, suffix: str) -> None:
    for name in ("u10", "u2"):
        save_nifti(tmp_path / "more" / f"{name}{suffix}.nii.gz", scan(50))
    data = read_dataset(small_set, unlabelled=tmp_path / "more")
    assert ids(data.unlabelled()) == ["a10", "u2", "u10"]
    assert data.domains == ("default",)


def test_plain_names_may_end_in_four_digits(tmp_path: Path) -> None:
    for name in ("patient_0000", "patient_0001"):
        save_nifti(tmp_path / f"{name}.nii.gz", scan(1))
    assert [case.id for case in scans_in(tmp_path)] == ["patient_0000", "patient_0001"]


def test_unlabelled_scans_are_of_the_only_domain_or_of_their_own(small_set: Path, tmp_path: Path) -> None:
    save_nifti(tmp_path / "siteC" / "u.nii.gz", scan(50))
    rows = ["case,domain", *(f"{case},A" for case in ("a1", "a2", "a3", "a10", "t1", "t2"))]
    (small_set / "cases.csv").write_text("\n".join(rows))
    assert read_dataset(small_set, unlabelled=tmp_path / "siteC")["u"].domain == "A"
    (small_set / "cases.csv").write_text("\n".join(rows).replace("t1,A", "t1,B"))
    assert read_dataset(small_set, unlabelled=tmp_path / "siteC")["u"].domain == "siteC"


def test_scans_of_any_format_are_found_in_a_folder(tmp_path: Path) -> None:
    save_nifti(tmp_path / "b_0000.nii.gz", scan(1))
    Image.new("L", (3, 3)).save(tmp_path / "a_0000.png")
    (tmp_path / "notes.txt").write_text("no scan")
    assert [case.id for case in scans_in(tmp_path)] == ["a", "b"]
    assert [case.id for case in scans_in(tmp_path, ending=".png")] == ["a"]


@pytest.mark.parametrize(
    ("channels", "names", "message"),
    [(1, [], "holds no scan"), (2, ["a_0000"], "channel 0001 is missing"), (2, ["a"], "no channel number")],
)
def test_folders_without_whole_scans_are_refused(tmp_path: Path, channels: int, names: list[str], message: str) -> None:
    for name in names:
        save_nifti(tmp_path / f"{name}.nii.gz", scan(1))
    with pytest.raises(DataError, match=message):
        scans_in(tmp_path, channels)


# --- what is wrong --------------------------------------------------------------------------------------------------


def table(root: Path, text: str) -> None:
    (root / "cases.csv").write_text("case,split,task,group\na1,,,\na2,,,\na3,,,\na10,,,\nt1,,,\nt2,,,\n" + text)


def move(root: Path, old: str, new: str) -> None:
    (root / old).rename(root / new)


LAYOUT_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no description": (lambda root: (root / "dataset.json").unlink(), "semivox init"),
    "bad json": (lambda root: (root / "dataset.json").write_text('{"labels": '), "is not valid JSON.*line 1"),
    "no object": (lambda root: (root / "dataset.json").write_text("[]"), "holds no JSON object"),
    "no channels": (lambda root: edit(root, channel_names=None), "lacks `channel_names`"),
    "odd channels": (lambda root: edit(root, channel_names={"1": "MRI"}), "number them from 0"),
    "no labels": (lambda root: edit(root, labels=None), "lacks `labels`"),
    "no background": (lambda root: edit(root, labels={"organ": 1}), 'add "background": 0'),
    "only background": (lambda root: edit(root, labels={"background": 0}), "only the background"),
    "value twice": (lambda root: edit(root, labels={"background": 0, "a": 1, "b": 1}), "declared twice"),
    "no number": (lambda root: edit(root, labels={"background": 0, "a": "1"}), "gives 'a' the value \"1\""),
    "decathlon": (lambda root: edit(root, channel_names=None, modality={"0": "MRI"}), "--from msd"),
    "no ending": (lambda root: edit(root, file_ending=None), "lacks `file_ending`"),
    "unknown ending": (lambda root: edit(root, file_ending=".xyz"), "declares the ending '.xyz'"),
    "lossy labels": (lambda root: edit(root, file_ending=".jpg"), "store them as .png"),
    "task of unknown label": (lambda root: edit(root, tasks={"heart": ["LV"]}), "task 'heart' names the label 'LV'"),
    "listed without images": (lambda root: edit(root, dataset={"a": {"label": "x"}}), "`dataset` lists no files"),
    "listed but not there": (
        lambda root: edit(root, dataset={"a1": {"images": ["imagesTr/z.nii.gz"]}}),
        r"case a1: .*imagesTr/z\.nii\.gz: there is no such file",
    ),
    "task of no list": (lambda root: edit(root, tasks={"heart": "left"}), "`tasks` gives no list"),
    "other ending": (lambda root: edit(root, file_ending=".nrrd"), "holds no images"),
    "channel missing": (
        lambda root: edit(root, channel_names={"0": "T1", "1": "T2"}),
        r"case a1: .*imagesTr/a1_0000.*channel 0001 is missing",
    ),
    "channel too many": (
        lambda root: save_nifti(root / "imagesTr" / "a2_0001.nii.gz", scan(1)),
        r"case a2: .*a2_0001\.nii\.gz: is one channel too many",
    ),
    "no channel number": (
        lambda root: save_nifti(root / "imagesTr" / "b.nii.gz", scan(1)),
        r"case b: .*b\.nii\.gz.*rename it to b_0000\.nii\.gz",
    ),
    "label alone": (
        lambda root: (root / "imagesTr" / "a2_0000.nii.gz").unlink(),
        r"case a2: .*labelsTr/a2\.nii\.gz: label of a case that has no image in imagesTr",
    ),
    "id twice": (
        lambda root: save_nifti(root / "imagesTs" / "a1_0000.nii.gz", scan(1)),
        r"case a1: .*imagesTs/a1_0000\.nii\.gz: has the id of another case",
    ),
    "row twice": (lambda root: table(root, "a1,,,\n"), r"case a1: .*cases\.csv: is listed twice"),
    "row without image": (lambda root: table(root, "b,,,\n"), r"case b: .*cases\.csv: is listed but has no image"),
    "unknown split": (
        lambda root: (root / "cases.csv").write_text("case,split\na1,trian\na2,\na3,\na10,\nt1,\nt2,\n"),
        r"case a1: .*cases\.csv: unknown split 'trian'; did you mean 'train'",
    ),
    "unknown task": (
        lambda root: (root / "cases.csv").write_text("case,task\na1,heart\na2,\na3,\na10,\nt1,\nt2,\n"),
        r"case a1: .*unknown task 'heart'",
    ),
    "misspelt column": (
        lambda root: (root / "cases.csv").write_text("case,domian\na1,\na2,\na3,\na10,\nt1,\nt2,\n"),
        "unknown column `domian`; did you mean `domain`",
    ),
    "no case column": (lambda root: (root / "cases.csv").write_text("id;split\na1;train\n"), "has no column `case`"),
    "patient on both sides": (
        lambda root: (root / "cases.csv").write_text("case,group\na1,p\na2,\na3,\na10,\nt1,p\nt2,\n"),
        r"case t1: .*cases\.csv: patient p is in test and, with case a1, in train",
    ),
    "folds of another set": (
        lambda root: (root / "splits_final.json").write_text('[{"train": ["a1", "a2"], "val": ["a3", "z"]}]'),
        r"case z: .*splits_final\.json: is named in fold 0 but has no image",
    ),
    "folds that are none": (lambda root: (root / "splits_final.json").write_text("{}"), "is not a list of folds"),
    "case in train and val": (
        lambda root: (root / "splits_final.json").write_text('[{"train": ["a1", "a2"], "val": ["a3", "a2"]}]'),
        r"case a2: .*splits_final\.json: is in `train` and in `val`",
    ),
}


@pytest.mark.parametrize("name", LAYOUT_FAULTS)
def test_a_fault_of_the_layout_is_one_line_that_names_the_file(small_set: Path, name: str) -> None:
    spoil, message = LAYOUT_FAULTS[name]
    spoil(small_set)
    with pytest.raises(DataError, match=message) as error:
        read_dataset(small_set)
    assert str(small_set) in str(error.value)
    assert "\n" not in str(error.value)
    assert "; " in str(error.value)


def test_a_survey_goes_on_to_the_end(small_set: Path) -> None:
    for name in ("label alone", "id twice", "no channel number"):
        LAYOUT_FAULTS[name][0](small_set)
    data, faults = survey(small_set)
    assert {fault.case for fault in faults} == {"a1", "a2", "b"}
    assert data is not None
    assert ids(data.cases) == ["a1", "a3", "a10", "t1", "t2"]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        read_dataset(tmp_path / "nothing")


def test_files_of_another_ending_are_a_warning(small_set: Path) -> None:
    move(small_set, "labelsTr/a2.nii.gz", "labelsTr/a2.nii")
    save_nifti(small_set / "imagesTr" / "a4_0000.nii", scan(1))
    data, faults = survey(small_set)
    assert data is not None
    assert data["a2"].label is None
    assert sorted(fault.file.name for fault in faults if fault.file) == ["a2.nii", "a4_0000.nii"]
    assert not any(fault.is_error for fault in faults)
    assert read_dataset(small_set).cases == data.cases


def test_a_case_without_a_row_comes_last_with_a_warning(small_set: Path) -> None:
    (small_set / "cases.csv").write_text("case\na2\na1\nt1\nt2\na10\n")
    data, faults = survey(small_set)
    assert data is not None
    assert ids(data.cases)[-1] == "a3"
    assert [(fault.case, fault.is_error) for fault in faults] == [("a3", False)]


# --- writing --------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(small_set: Path) -> None:
    edit(small_set, labels=REGIONS, tasks={"inner": ["core"]})
    (small_set / "cases.csv").write_text(
        "case,group,domain,task,split\nt1,p,B,,\na1,q,A,inner,val\na2,,A,,\na3,,,,\na10,,,,\nt2,,,,\n"
    )
    data = read_dataset(small_set)
    assert data.tasks == {"inner": ("core (2)", "enhancing")}
    write_description(data)
    assert read_dataset(small_set) == data
    content = json.loads((small_set / "dataset.json").read_text())
    assert content["regions_class_order"] == [1, 2, 3]
    assert content["numTraining"] == 3


def test_columns_that_say_nothing_are_not_written(small_set: Path) -> None:
    data = read_dataset(small_set)
    write_description(data)
    lines = (small_set / "cases.csv").read_text().splitlines()
    assert lines[0] == "case,split"
    assert lines[1:3] == ["a1,train", "a2,train"]


def test_pictures_with_labels_of_another_ending_are_written_and_read_back(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "a", "RGB", ".jpg", file_ending=None, image_ending=".jpg", label_ending=".png")
    data = read_dataset(root)
    write_description(data)
    assert read_dataset(root) == replace(data, name="a")


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda name: name.lower() not in ("background", "ignore")),
        st.integers(-(2**40), 2**40).filter(lambda value: value != 0),
        min_size=1,
        max_size=6,
    )
)
def test_any_names_and_values_survive_writing(labels: dict[str, int]) -> None:
    if len(set(labels.values())) < len(labels):
        return
    with TemporaryDirectory() as folder:
        root = Path(folder)
        label_map = LabelMap(("background", *labels), (0, *labels.values()))
        write_description(Dataset("set", root, ("MRI",), label_map, (Case("c", (root / "c_0000.nii.gz",)),)))
        assert read_description(root).labels == label_map


@settings(deadline=None, max_examples=60)
@given(
    st.binary(max_size=40)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_no_content_of_dataset_json_ends_in_a_traceback(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "dataset.json").write_bytes(content)
        with pytest.raises(SemivoxError):
            read_dataset(Path(folder))


# --- real scans -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason="the real scans are not here")
@pytest.mark.parametrize(
    ("name", "labelled", "unlabelled", "val", "test", "test_labelled"),
    [
        ("la", 32, 0, 0, 20, 10),
        ("acdc", 72, 0, 12, 40, 20),
        ("mscmr", 0, 25, 5, 15, 15),
        ("sunnybrook", 90, 0, 0, 45, 45),
        ("segthor", 16, 0, 0, 5, 5),
        ("hippocampus", 80, 0, 0, 20, 20),
        ("retina", 40, 0, 0, 28, 28),
    ],
)
def test_real_sets_are_read_as_published(
    name: str, labelled: int, unlabelled: int, val: int, test: int, test_labelled: int
) -> None:
    data = read_dataset(REAL / name)
    assert len(data.labelled()) == labelled
    assert len(data.unlabelled()) == unlabelled
    assert len(data.split("val")) == val
    assert len(data.split("test")) == test
    assert sum(case.label is not None for case in data.split("test")) == test_labelled
    published = (REAL / name / "cases.csv").read_text().splitlines()[1:]
    assert ids(data.cases) == [row.split(",")[0] for row in published]
