"""BHSD's download: label_192 with images and `ground truths` of the same names, unlabel_1980 with scans alone."""

import numpy as np
import pytest
from small_set import AFFINE, SHAPE, save_nifti, scan

from semivox.data import bhsd
from semivox.data.image import read_classes, read_image
from semivox.errors import DataError

FIRST, SECOND, THIRD = "ID_0237f3c9_ID_40015688b9", "ID_2db7ee14_ID_2591d00dfc", "ID_2db7ee14_ID_f27e38fdfd"
WITHOUT = "ID_ffee0011_ID_00ffee2233"


def label():
    array = np.zeros(SHAPE, np.float32)
    for value in range(1, 6):
        array[value, 2:5, 3] = value
    return array


@pytest.fixture
def download(tmp_path):
    root = tmp_path / "BHSD"
    for seed, name in enumerate((FIRST, SECOND, THIRD)):
        save_nifti(root / "label_192" / "images" / f"{name}.nii.gz", scan(seed))
        save_nifti(root / "label_192" / "ground truths" / f"{name}.nii.gz", label())
    save_nifti(root / "unlabel_1980" / "part1" / f"{WITHOUT}.nii.gz", scan(9))
    return root


def test_labelled_scans_come_first_and_the_first_id_is_the_patient(download, tmp_path):
    dataset = bhsd.convert(download, tmp_path / "out")
    assert [(case.id, case.patient, case.split, case.label is not None) for case in dataset] == [
        (SECOND, "ID_2db7ee14", "train", True),
        (THIRD, "ID_2db7ee14", "train", True),
        (FIRST, "ID_0237f3c9", "train", True),
        (WITHOUT, "ID_ffee0011", "train", False),
    ]
    assert dict(zip(dataset.labels.names, dataset.labels.values, strict=True)) == {
        "background": 0,
        "epidural": 1,
        "intraparenchymal": 2,
        "intraventricular": 3,
        "subarachnoid": 4,
        "subdural": 5,
    }
    assert "no derivatives" in " ".join((tmp_path / "out" / "README.txt").read_text().split())


def test_voxels_values_and_place_are_those_of_the_files(download, tmp_path):
    dataset = bhsd.convert(download, tmp_path / "out")
    case = dataset[SECOND]
    volume = read_image(case, dataset)
    assert np.array_equal(volume.array[0], scan(1))
    assert np.allclose(volume.grid.affine, AFFINE, atol=1e-6)
    assert np.array_equal(read_classes(case, dataset, volume.grid).array, label())
    assert np.array_equal(read_image(dataset[WITHOUT], dataset).array[0], scan(9))


def test_scans_without_labels_may_be_absent_and_the_folder_may_be_the_one_above(download, tmp_path):
    (download / "unlabel_1980" / "part1" / f"{WITHOUT}.nii.gz").unlink()
    assert len(bhsd.convert(download.parent, tmp_path / "out").cases) == 3


def truth(root):
    return root / "label_192" / "ground truths" / f"{FIRST}.nii.gz"


SPOILT = {
    "a label is missing": (
        lambda root: truth(root).unlink(),
        rf"case {FIRST}: .*ground truths.*: there is no such file; copy the label too, or remove the image",
    ),
    "a label of another shape": (
        lambda root: save_nifti(truth(root), label()[:-1]),
        rf"case {FIRST}: .*: label has shape 11 × 10 × 8 instead of 12 × 10 × 8, as in {FIRST}\.nii\.gz; copy both",
    ),
    "a label elsewhere": (
        lambda root: save_nifti(truth(root), label(), np.diag([1.0, 1.0, 1.0, 1.0])),
        rf"case {FIRST}: .*: label has orientation RAS instead of LAS, as in .*; copy both again",
    ),
    "a label with another value": (
        lambda root: save_nifti(truth(root), np.where(label() == 5, 9, label())),
        rf"case {FIRST}: .*: label has undeclared values 9, declared are .*; copy it again",
    ),
    "another name": (
        lambda root: save_nifti(root / "unlabel_1980" / "scan_1.nii.gz", scan(3)),
        r"scan_1\.nii\.gz: is not named ID_PATIENT_ID_SCAN\.nii\.gz, so that its patient is not known; give it",
    ),
    "a scan with a label and without": (
        lambda root: save_nifti(root / "unlabel_1980" / f"{FIRST}.nii.gz", scan(0)),
        rf"case {FIRST}: .*unlabel_1980.*: is there twice, also as .*label_192.*; remove one of them",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_download_is_one_line_and_leaves_nothing(download, tmp_path, name):
    spoil, message = SPOILT[name]
    spoil(download)
    with pytest.raises(DataError, match=message) as caught:
        bhsd.convert(download, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", ["label_192", "label_192/images", "unlabel_1980"])
def test_a_folder_inside_the_download_is_refused_with_the_one_that_is_meant(download, tmp_path, below):
    mend = r"holds no label_192/images/\*\.nii\.gz; name the folder that holds label_192 and unlabel_1980"
    with pytest.raises(DataError, match=mend) as caught:
        bhsd.convert(download / below, tmp_path / "out")
    assert "\n" not in str(caught.value)
