import pytest

from semivox.errors import DataError
from semivox.inference.inputs import Input, find_inputs


@pytest.fixture
def touch(tmp_path):
    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\0" * 128 + b"DICM" if name.endswith(".dcm") else b"x")
        return tmp_path

    return make


def names(inputs):
    return [(item.case, *(file.name for file in item.files)) for item in inputs]


def test_nnunet_names_and_plain_names_in_a_folder_are_cases(touch):
    folder = touch("b_0000.nii.gz", "a.nii.gz", "c.nrrd", "notes.txt", ".hidden.nii.gz")
    assert names(find_inputs([folder], channels=1)) == [
        ("a", "a.nii.gz"),
        ("b", "b_0000.nii.gz"),
        ("c", "c.nrrd"),
    ]


def test_channels_of_a_case_come_in_order(touch):
    folder = touch("x_0001.nii.gz", "x_0000.nii.gz", "y_0000.nii.gz", "y_0001.nii.gz")
    assert names(find_inputs([folder], channels=2)) == [
        ("x", "x_0000.nii.gz", "x_0001.nii.gz"),
        ("y", "y_0000.nii.gz", "y_0001.nii.gz"),
    ]


def test_single_files_keep_the_order_in_which_they_are_given(touch):
    folder = touch("p2.nii.gz", "p1.nii.gz", "other/q.mha")
    paths = [folder / "p2.nii.gz", folder / "p1.nii.gz", folder / "other"]
    assert names(find_inputs(paths, channels=1)) == [("p2", "p2.nii.gz"), ("p1", "p1.nii.gz"), ("q", "q.mha")]


def test_one_colour_picture_holds_all_channels(touch):
    assert names(find_inputs([touch("eye_0000.jpg")], channels=3)) == [("eye", "eye_0000.jpg")]


def test_a_dicom_folder_is_one_case_and_a_folder_of_them_several(touch):
    folder = touch("study/ct/1.dcm", "study/ct/2.dcm", "study/mr/1.dcm")
    assert find_inputs([folder / "study" / "ct"], channels=1) == [Input("ct", (folder / "study" / "ct",))]
    assert [item.case for item in find_inputs([folder], channels=1)] == ["ct", "mr"]


@pytest.mark.parametrize(
    ("files", "given", "channels", "words"),
    [
        (["a.nii.gz"], "missing.nii.gz", 1, "no such file or folder"),
        (["notes.txt"], ".", 1, "neither images"),
        (["x_0000.nii.gz", "x_0001.nii.gz"], ".", 3, "needs 3 channels, found 2"),
        (["x_0000.nii.gz", "x.nii.gz"], ".", 1, "needs 1 channel"),
        (["1/image.nii.gz", "2/image.nii.gz"], ".", 1, "case image: both"),
        (["dataset.json", "imagesTs/a_0000.nii.gz"], ".", 1, "whole data set"),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_one_line(touch, files, given, channels, words):
    folder = touch(*files)
    with pytest.raises(DataError, match=words) as error:
        find_inputs([folder / given], channels)
    assert "\n" not in str(error.value)
