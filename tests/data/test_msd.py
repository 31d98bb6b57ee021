import json

import nibabel as nib
import numpy as np
import pytest

from semivox.data import msd
from semivox.data.image import read_classes, read_image
from semivox.errors import DataError

AFFINE = np.diag([0.5, 0.5, 3.0, 1.0])


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine, dtype=array.dtype), path)


def write_task(folder, modalities=("T2",), ending=".nii.gz", **entries):
    """Two training cases and a test case, as the Decathlon lays them out, listed against the order of their names."""
    rng = np.random.default_rng(0)
    shape = (5, 4, 3) if len(modalities) == 1 else (5, 4, 3, len(modalities))
    for name in ("imagesTr/p_02", "imagesTr/p_01", "imagesTs/p_09"):
        save(folder / f"{name}{ending}", rng.integers(0, 900, shape).astype(np.int16))
    for name in ("p_02", "p_01"):
        save(folder / f"labelsTr/{name}{ending}", rng.integers(0, 3, (5, 4, 3)).astype(np.uint8))
    content = {
        "name": "Prostate",
        "modality": {str(number): name for number, name in enumerate(modalities)},
        "labels": {"0": "background", "1": "PZ", "2": "TZ"},
        "training": [
            {"image": f"./imagesTr/{name}{ending}", "label": f"./labelsTr/{name}{ending}"} for name in ("p_02", "p_01")
        ],
        "test": [f"./imagesTs/p_09{ending}"],
    }
    (folder / "dataset.json").write_text(json.dumps(content | entries))
    return folder


def values(path):
    return np.asarray(nib.load(path).dataobj)


def test_cases_labels_and_splits_in_the_listed_order(tmp_path):
    source = write_task(tmp_path / "task")
    dataset = msd.convert(source, tmp_path / "out")
    assert dataset.name == "Prostate"
    assert dataset.labels.names == ("background", "PZ", "TZ")
    assert [(case.id, case.split, case.label is not None) for case in dataset] == [
        ("p_02", "train", True),
        ("p_01", "train", True),
        ("p_09", "test", False),
    ]
    for case in dataset.labelled():
        assert case.images[0].read_bytes() == (source / "imagesTr" / f"{case.id}.nii.gz").read_bytes()
        assert case.label.read_bytes() == (source / "labelsTr" / f"{case.id}.nii.gz").read_bytes()


def test_channels_of_a_4d_scan_become_files(tmp_path):
    source = write_task(tmp_path / "task", ("T2", "ADC"))
    dataset = msd.convert(source, tmp_path / "out")
    assert dataset.channels == ("T2", "ADC")
    for case in dataset.labelled():
        volume = read_image(case, dataset)
        np.testing.assert_array_equal(volume.array, np.moveaxis(values(source / f"imagesTr/{case.id}.nii.gz"), 3, 0))
        np.testing.assert_allclose(volume.grid.affine, AFFINE)
        assert volume.array.dtype == np.int16
        np.testing.assert_array_equal(
            read_classes(case, dataset, volume.grid).array, values(source / f"labelsTr/{case.id}.nii.gz")
        )


def test_uncompressed_files_are_compressed(tmp_path):
    source = write_task(tmp_path / "task", ending=".nii")
    dataset = msd.convert(source, tmp_path / "out")
    case = dataset["p_01"]
    assert case.images[0].name == "p_01_0000.nii.gz"
    np.testing.assert_array_equal(values(case.images[0]), values(source / "imagesTr" / "p_01.nii"))


def test_label_values_keep_their_numbers(tmp_path):
    source = write_task(tmp_path / "task", labels={"2": "TZ", "0": "background", "10": "rest", "1": "PZ"})
    labels = msd.convert(source, tmp_path / "out").labels
    assert dict(zip(labels.names, labels.values, strict=True)) == {"background": 0, "PZ": 1, "TZ": 2, "rest": 10}


def test_a_case_without_label_is_unlabelled(tmp_path):
    source = write_task(tmp_path / "task", training=["./imagesTr/p_01.nii.gz"], test=[])
    dataset = msd.convert(source, tmp_path / "out")
    assert [case.id for case in dataset.unlabelled()] == ["p_01"]


def write_spleen(folder):
    """Task09 in small: files that a Mac left beside the others, which dataset.json does not list."""
    labels = {"0": "background", "1": "spleen"}
    source = write_task(folder, ("CT",), name="Spleen", labels=labels)
    for name in ("p_02", "p_01"):
        label = np.zeros((60, 50, 40), np.uint8)
        label[30:34, 20:24, 10:14] = 1
        save(source / f"labelsTr/{name}.nii.gz", label, np.diag([2.0, 2.0, 4.0, 1.0]))
        save(source / f"imagesTr/{name}.nii.gz", label.astype(np.int16) * 100, np.diag([2.0, 2.0, 4.0, 1.0]))
    (source / "imagesTr" / "._p_02.nii.gz").write_bytes(b"Mac OS X")
    (source / "labelsTr" / "._p_02.nii.gz").write_bytes(b"Mac OS X")
    return source


def test_what_is_not_listed_is_passed_over(tmp_path):
    dataset = msd.convert(write_spleen(tmp_path / "task"), tmp_path / "out")
    assert [(case.id, case.split) for case in dataset] == [("p_02", "train"), ("p_01", "train"), ("p_09", "test")]
    assert not dataset.is_cropped


def test_the_published_cut_leaves_25_mm_around_the_label_and_leaves_out_what_has_none(tmp_path):
    dataset = msd.convert(write_spleen(tmp_path / "task"), tmp_path / "out", crop="published")
    assert dataset.is_cropped
    assert [case.id for case in dataset] == ["p_02", "p_01"]
    volume = read_image(dataset["p_01"], dataset)
    classes = read_classes(dataset["p_01"], dataset, volume.grid).array
    assert volume.array.shape == (1, 48, 48, 24), "58 mm with its margins: 96 mm"
    assert np.array_equal(classes * 100, volume.array[0])
    assert int(classes.sum()) == 4**3
    np.testing.assert_allclose(volume.grid.affine[:3, 3], [2 * 8, 0, 0])


def test_a_task_of_which_no_cut_is_published_is_refused(tmp_path):
    with pytest.raises(DataError, match="is of the task 'Prostate', of which no cut is published; leave --crop out"):
        msd.convert(write_task(tmp_path / "task"), tmp_path / "out", crop="published")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ({"training": [{"image": "../secret.nii.gz"}]}, "outside of its folder"),
        ({"training": [{"image": "/etc/passwd"}]}, "outside of its folder"),
        ({"training": [{"image": "imagesTr/p_07.nii.gz"}]}, r"p_07\.nii\.gz: is listed in dataset\.json and not there"),
        ({"training": [{"label": "labelsTr/p_01.nii.gz"}]}, "lists None where a file name is due"),
        ({"training": ["imagesTr/p_01.nii.gz"] * 2}, "lists two images of this name"),
        ({"training": {}}, "has no list `training`"),
        ({"modality": {"1": "T2"}}, "`modality` does not number names from 0"),
        ({"modality": {"0": "T2", "1": "ADC"}}, "has 1 channels .* where 2 are declared"),
        ({"labels": {"background": "0"}}, "`labels` does not number names from 0"),
    ],
)
def test_faults_are_one_line_and_leave_nothing(tmp_path, entries, what):
    source = write_task(tmp_path / "task", **entries)
    save(tmp_path / "secret.nii.gz", np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(DataError, match=what) as caught:
        msd.convert(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["secret.nii.gz", "task"]


def test_linked_file_outside_of_the_task_is_refused(tmp_path):
    source = write_task(tmp_path / "task", training=["imagesTr/link.nii.gz"])
    save(tmp_path / "secret.nii.gz", np.zeros((2, 2, 2), np.uint8))
    (source / "imagesTr" / "link.nii.gz").symlink_to(tmp_path / "secret.nii.gz")
    with pytest.raises(DataError, match="outside of its folder"):
        msd.convert(source, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"no NIfTI at all", None])
def test_damaged_scan_is_named_and_leaves_nothing(tmp_path, content):
    source = write_task(tmp_path / "task", ("T2", "ADC"))
    victim = source / "imagesTs" / "p_09.nii.gz"
    victim.write_bytes(victim.read_bytes()[:150] if content is None else content)
    with pytest.raises(DataError, match=r"p_09\.nii\.gz: cannot be read as NIfTI"):
        msd.convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_without_description_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"dataset\.json: there is no such file; name the folder of a Decathlon task"):
        msd.convert(tmp_path, tmp_path / "out")
