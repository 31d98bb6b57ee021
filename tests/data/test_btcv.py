"""BTCV's download: RawData/Training/img/img0001.nii.gz with label/label0001.nii.gz, RawData/Testing/img."""

import nibabel as nib
import numpy as np
import pytest
from small_set import save_nifti

from semivox.data import btcv
from semivox.data.image import read_classes
from semivox.errors import DataError


def write_download(folder, training=("0002", "0010", "0021"), testing=("0061",), ending=".nii.gz"):
    random = np.random.default_rng(0)
    for part, numbers in (("Training", training), ("Testing", testing)):
        for number in numbers:
            image = random.integers(-1000, 1000, (6, 5, 4)).astype(np.int16)
            save_nifti(folder / "RawData" / part / "img" / f"img{number}{ending}", image)
            if part == "Training":
                label = random.integers(0, 14, (6, 5, 4)).astype(np.uint8)
                save_nifti(folder / "RawData" / part / "label" / f"label{number}{ending}", label)
    return folder


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_cases_are_called_as_their_images_and_those_without_label_are_test_cases(tmp_path, ending):
    source = write_download(tmp_path / "download", ending=ending)
    dataset = btcv.convert(source, tmp_path / "out")
    assert [(case.id, case.split, case.label is not None) for case in dataset] == [
        ("img0002", "train", True),
        ("img0010", "train", True),
        ("img0021", "train", True),
        ("img0061", "test", False),
    ]
    assert dataset.labels.count == 14
    assert dataset.labels.names[1] == "spleen"
    assert dataset.labels.names[13] == "left_adrenal_gland"
    original = source / "RawData" / "Training" / "label" / f"label0010{ending}"
    assert np.array_equal(read_classes(dataset["img0010"], dataset).array, np.asarray(nib.load(original).dataobj))


def test_a_training_image_without_its_label_is_one_line_and_leaves_nothing(tmp_path):
    source = write_download(tmp_path / "download")
    (source / "RawData" / "Training" / "label" / "label0010.nii.gz").unlink()
    with pytest.raises(
        DataError, match=r"case img0010: .*img0010\.nii\.gz: has no label0010\.nii\.gz .*; copy"
    ) as caught:
        btcv.convert(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_another_folder_is_told_what_is_wanted(tmp_path):
    save_nifti(tmp_path / "other" / "scan.nii.gz", np.zeros((2, 2, 2), np.int16))
    with pytest.raises(DataError, match=r"holds no img\[0-9\]\*\.nii\*; name the folder that holds Training/img"):
        btcv.convert(tmp_path / "other", tmp_path / "out")


def test_test_scans_alone_cannot_be_trained_on(tmp_path):
    source = write_download(tmp_path / "download", training=())
    with pytest.raises(DataError, match="holds images and none of their labels"):
        btcv.convert(source, tmp_path / "out")


def test_a_case_that_is_there_twice_is_refused(tmp_path):
    source = write_download(tmp_path / "download")
    write_download(source / "copy")
    with pytest.raises(DataError, match=r"case img0061: .*is there twice, also as .*; remove one of them"):
        btcv.convert(source, tmp_path / "out")
