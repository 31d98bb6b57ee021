import argparse

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from semivox.cli import init as command
from semivox.data.collecting import init
from semivox.data.image import read_classes, read_image
from semivox.errors import DataError, SettingError


def scan(path, value=7, shape=(4, 3, 2), dtype=np.int16):
    """A scan that is recognised by its value; a label if its type is uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(shape, dtype)
    array[0] = value
    nib.save(nib.Nifti1Image(array, np.eye(4), dtype=dtype), path)


def label(path, value=1):
    scan(path, value, dtype=np.uint8)


def pairs(dataset):
    """Case → (value of the image, value of the label or None)."""
    found = {}
    for case in dataset:
        values = [
            int(nib.load(file).dataobj[0, 0, 0]) for file in (*case.images, *([case.label] if case.label else []))
        ]
        found[case.id] = tuple(values)
    return found


@pytest.mark.parametrize(
    ("image", "label_name"),
    [
        ("c{}", "c{}"),
        ("c{}", "c{}_seg"),
        ("c{}", "c{}-label"),
        ("c{}", "c{}_mask"),
        ("c{}", "c{} GT"),
        ("c{}", "mask_c{}"),
        ("c{}_image", "c{}_label"),
        ("volume-{}", "segmentation-{}"),
        ("c{}_0000", "c{}"),
        ("c{}_0000", "c{}_0000"),
        ("P{}/scan", "P{}/mask"),
        ("P{}/c{}", "P{}/c{}_seg"),
        ("P{}/c{}", "c{}"),
        ("P{}/scan", "P{}/scan"),
    ],
)
def test_labels_find_their_images(tmp_path, image, label_name):
    for number in (1, 2, 3):
        scan(tmp_path / "images" / (image.replace("{}", str(number)) + ".nii.gz"), number)
    for number in (1, 3):
        label(tmp_path / "labels" / (label_name.replace("{}", str(number)) + ".nii.gz"), 10 + number)
    dataset = init(tmp_path / "images", tmp_path / "labels", out=tmp_path / "out")
    assert sorted(pairs(dataset).values()) == [(1, 11), (2,), (3, 13)]
    assert len(dataset.unlabelled()) == 1


def test_labels_beside_their_images_are_found_by_their_names(tmp_path):
    for number in (1, 2):
        scan(tmp_path / "in" / f"P{number}" / "image.nii.gz", number)
    label(tmp_path / "in" / "P2" / "seg.nii.gz", 5)
    dataset = init(tmp_path / "in", out=tmp_path / "out")
    assert pairs(dataset) == {"P1_image": (1,), "P2_image": (2, 5)}


def test_labels_in_a_folder_below_the_images_are_no_images(tmp_path):
    scan(tmp_path / "in" / "c1.nii.gz", 1)
    label(tmp_path / "in" / "labels" / "c1.nii.gz", 5)
    dataset = init(tmp_path / "in", tmp_path / "in" / "labels", out=tmp_path / "out")
    assert pairs(dataset) == {"c1": (1, 5)}


def test_channels(tmp_path):
    for number in (1, 2):
        for channel in (0, 1):
            scan(tmp_path / "in" / f"c{number}_{channel:04d}.nii.gz", 10 * number + channel)
    label(tmp_path / "labels" / "c2.nii.gz", 3)
    dataset = init(tmp_path / "in", tmp_path / "labels", out=tmp_path / "out")
    assert pairs(dataset) == {"c1": (10, 11), "c2": (20, 21, 3)}
    assert dataset.channels == ("channel_0", "channel_1")


def test_channels_of_one_case_with_its_label(tmp_path):
    for channel in (0, 1):
        scan(tmp_path / "in" / f"c_{channel:04d}.nii.gz", channel)
    label(tmp_path / "in" / "c_seg.nii.gz", 3)
    assert pairs(init(tmp_path / "in", out=tmp_path / "out")) == {"c": (0, 1, 3)}


@pytest.mark.parametrize("labelled", [True, False])
def test_four_digits_may_number_cases(tmp_path, labelled):
    for number in (1, 2) if not labelled else (0, 1, 2):
        scan(tmp_path / "in" / f"la_{number:04d}.nii.gz", number)
    if labelled:
        label(tmp_path / "labels" / "la_0001.nii.gz", 9)
    dataset = init(tmp_path / "in", tmp_path / "labels" if labelled else None, out=tmp_path / "out")
    assert pairs(dataset) == (
        {"la_0000": (0,), "la_0001": (1, 9), "la_0002": (2,)} if labelled else {"la_0001": (1,), "la_0002": (2,)}
    )


def test_values_become_classes(tmp_path):
    scan(tmp_path / "in" / "a.nii.gz")
    scan(tmp_path / "in" / "b.nii.gz")
    label(tmp_path / "labels" / "a.nii.gz", 255)
    label(tmp_path / "labels" / "b.nii.gz", 4)
    dataset = init(tmp_path / "in", tmp_path / "labels", out=tmp_path / "out")
    assert dict(zip(dataset.labels.names, dataset.labels.values, strict=True)) == {
        "background": 0,
        "class_1": 4,
        "class_2": 255,
    }
    assert read_classes(dataset["a"], dataset).array.max() == 2


def test_classes_get_the_names_given(tmp_path):
    scan(tmp_path / "in" / "a.nii.gz")
    label(tmp_path / "labels" / "a.nii.gz", 4)
    dataset = init(tmp_path / "in", tmp_path / "labels", out=tmp_path / "out", names=["liver"])
    assert dataset.labels.names == ("background", "liver")
    with pytest.raises(SettingError, match=r"names: 2 for the label values \[4\]; give one for each"):
        init(tmp_path / "in", tmp_path / "labels", out=tmp_path / "other", names=["liver", "tumour"])
    assert not (tmp_path / "other").exists()


def test_scans_without_any_label_are_all_unlabelled(tmp_path):
    scan(tmp_path / "in" / "a.nii.gz")
    dataset = init(tmp_path / "in", out=tmp_path / "out", names=["liver", "tumour"])
    assert len(dataset.unlabelled()) == 1
    assert dataset.labels.foreground == ("liver", "tumour")


def test_pictures_keep_their_endings(tmp_path):
    for folder in ("in", "labels"):
        (tmp_path / folder).mkdir()
    for name in ("eye1", "eye2"):
        Image.new("RGB", (6, 4), (9, 8, 7)).save(tmp_path / "in" / f"{name}.JPG")
    Image.new("L", (6, 4), 255).save(tmp_path / "labels" / "eye2_manual.png")
    dataset = init(tmp_path / "in", tmp_path / "labels", out=tmp_path / "out")
    assert dataset["eye1"].images[0].name == "eye1_0000.jpg"
    assert dataset["eye2"].label.name == "eye2.png"
    assert read_image(dataset["eye1"], dataset).array.shape == (3, 6, 4, 1)


def test_a_header_with_its_values_elsewhere_becomes_one_file(tmp_path):
    (tmp_path / "in").mkdir()
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    image.SetSpacing((0.5, 0.6, 2.0))
    sitk.WriteImage(image, str(tmp_path / "in" / "a.mhd"))
    dataset = init(tmp_path / "in", out=tmp_path / "out")
    assert dataset["a"].images[0].name == "a_0000.mha"
    volume = read_image(dataset["a"], dataset)
    np.testing.assert_array_equal(volume.array[0], np.arange(24).reshape(2, 3, 4).T)
    assert volume.grid.spacing_mm == pytest.approx((0.5, 0.6, 2.0))


def test_links_instead_of_copies(tmp_path):
    scan(tmp_path / "in" / "a.nii.gz")
    dataset = init(tmp_path / "in", out=tmp_path / "out", link=True)
    assert dataset["a"].images[0].readlink() == tmp_path / "in" / "a.nii.gz"


def test_names_are_made_safe_and_hidden_files_are_passed_over(tmp_path):
    scan(tmp_path / "in" / "..odd name (1).nii.gz".replace("..", "x.."))
    scan(tmp_path / "in" / "._a.nii.gz")
    dataset = init(tmp_path / "in", out=tmp_path / "out")
    assert [case.id for case in dataset] == ["x..odd_name_1"]


def write(tmp_path, images, labels=()):
    for number, name in enumerate(images):
        scan(tmp_path / "images" / name, number)
    for name in labels:
        label(tmp_path / "labels" / name)


@pytest.mark.parametrize(
    ("images", "labels", "what"),
    [
        (["a.nii.gz"], ["b.nii.gz"], r"b\.nii\.gz: label without an image of that name"),
        (["P1/a.nii.gz", "P2/a.nii.gz"], ["a.nii.gz"], "label may belong to 2 images: P1/a, P2/a"),
        (["a.nii.gz"], ["a_seg.nii.gz", "a_mask.nii.gz"], r"a_seg\.nii\.gz: a second label of a, beside a_mask"),
        (["a.nii.gz", "a.nii"], [], r"a\.nii\.gz: is the same case as a\.nii"),
        (["a.nii.gz", "b.nii"], [], r"b\.nii: ends in \.nii, others in \.nii\.gz"),
        (["a b.nii.gz", "a_b.nii.gz"], [], "gets the same case id, a_b"),
        (["a.nii.gz", "A.nii.gz"], [], "gets the same case id"),
        (["c_0000.nii.gz", "c_0001.nii.gz"], [], "may be 2 cases or 2 channels of one"),
        (["c_0000.nii.gz", "c_0001.nii.gz", "d_0000.nii.gz"], [], "has the numbers 0000 where others have 0000, 0001"),
        (["c_0000.nii.gz", "c_0002.nii.gz", "d_0000.nii.gz", "d_0002.nii.gz"], [], "has the numbers 0000, 0002"),
        (
            ["c_0000.nii.gz", "c_0001.nii.gz", "d_0000.nii.gz", "d_0001.nii.gz"],
            ["c_0000.nii.gz"],
            "is one of 2 channels, and a label has its name",
        ),
    ],
)
def test_ambiguity_is_refused_by_name_and_leaves_nothing(tmp_path, images, labels, what):
    write(tmp_path, images, labels)
    with pytest.raises(DataError, match=what) as caught:
        init(tmp_path / "images", tmp_path / "labels" if labels else None, out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert {entry.name for entry in tmp_path.iterdir()} <= {"images", "labels"}


def test_an_image_given_as_label_is_refused(tmp_path):
    scan(tmp_path / "images" / "a.nii.gz")
    (tmp_path / "labels").mkdir()
    array = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "labels" / "a.nii.gz")
    with pytest.raises(DataError, match="label has 1000 different values, as an image has"):
        init(tmp_path / "images", tmp_path / "labels", out=tmp_path / "out")


def test_dicom_folders_are_sent_to_convert(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0001").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(DataError, match=r"holds DICOM files; run: semivox convert .* --from dicom"):
        init(tmp_path / "in", out=tmp_path / "out")


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_folders_without_scans_are_one_line(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=f"{name}: "):
        init(tmp_path / name, out=tmp_path / "out")


def test_an_existing_data_set_is_never_overwritten(tmp_path):
    scan(tmp_path / "in" / "a.nii.gz")
    init(tmp_path / "in", out=tmp_path / "out")
    with pytest.raises(SettingError, match="already exists"):
        init(tmp_path / "in", out=tmp_path / "out")


def test_command_says_what_there_is(tmp_path, capsys):
    scan(tmp_path / "in" / "a.nii.gz")
    label(tmp_path / "in" / "a_seg.nii.gz")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args([str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--names", "liver"]))
    assert "1 cases, 1 of them with a label\nclasses: liver" in capsys.readouterr().out
