"""MM-WHS's download: ct_train/ct_train_1001_image.nii.gz with ..._label.nii.gz, values 205 to 850."""

import nibabel as nib
import numpy as np
import pytest
from small_set import save_nifti

from semivox.data import mmwhs
from semivox.data.image import read_classes, read_image
from semivox.errors import DataError

SHAPE = (24, 22, 20)
LPS = np.diag([-1.5, -1.5, 2.0, 1.0])
PIR = np.array([[0, 0, 0.9, -3.0], [-1.1, 0, 0, 7.0], [0, -1.2, 0, 5.0], [0, 0, 0, 1]])
"""Axes along posterior, inferior and right."""


def heart(low=(8, 7, 6), high=(15, 14, 12)):
    """Seven structures side by side, those that are not used outermost; voxels of 421 here and there."""
    label = np.zeros(SHAPE, np.uint16)
    box = tuple(slice(start, stop + 1) for start, stop in zip(low, high, strict=True))
    label[box] = 500
    label[low[0], box[1], box[2]] = 205
    label[high[0], box[1], box[2]] = 820
    label[box[0], low[1], box[2]] = 420
    label[low[0] - 3, low[1] : high[1], low[2]] = 550
    label[high[0] + 4, low[1], low[2]] = 850
    label[low[0] - 2, low[1], low[2]] = 600
    label[1, 1, 1] = 421
    return label


def write_download(folder, affine=LPS, ending=".nii.gz", names=("ct_train_1001", "ct_train_1002", "mr_train_1001")):
    random = np.random.default_rng(0)
    for name in names:
        place = folder / name.rpartition("_")[0] / name
        save_nifti(place.with_name(f"{name}_image{ending}"), random.integers(-900, 900, SHAPE).astype(np.int16), affine)
        if "train" in name:
            save_nifti(place.with_name(f"{name}_label{ending}"), heart(), affine)
    return folder


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_each_modality_is_a_domain_and_all_seven_structures_are_there(tmp_path, ending):
    names = ("ct_train_1001", "mr_train_1001", "mr_train_1020", "ct_test_2001")
    source = write_download(tmp_path / "download", ending=ending, names=names)
    dataset = mmwhs.convert(source, tmp_path / "out")
    assert [(case.id, case.domain, case.split, case.label is not None) for case in dataset] == [
        ("ct_train_1001", "CT", "train", True),
        ("mr_train_1001", "MR", "train", True),
        ("mr_train_1020", "MR", "train", True),
        ("ct_test_2001", "CT", "test", False),
    ]
    assert dict(zip(dataset.labels.names, dataset.labels.values, strict=True)) == {
        "background": 0,
        "MYO": 205,
        "LAC": 420,
        "LVC": 500,
        "RAC": 550,
        "RVC": 600,
        "AA": 820,
        "PA": 850,
    }
    assert not dataset.is_cropped
    case = dataset["mr_train_1001"]
    expected = heart()
    expected[expected == 421] = 0
    assert np.array_equal(dataset.labels.to_values(read_classes(case, dataset).array), expected)
    original = nib.load(source / "mr_train" / f"mr_train_1001_image{ending}")
    assert np.array_equal(read_image(case, dataset).array[0], np.asarray(original.dataobj))
    assert "421" in (tmp_path / "out" / "README.txt").read_text()


def slow_cut(image, label):
    """As the published script does it, on arrays along superior, posterior, left: four voxels below the first and up
    to four above the last of four structures, the upper end exclusive."""
    kept = (label == 205) | (label == 420) | (label == 500) | (label == 820)
    places = [index for index in np.ndindex(kept.shape) if kept[index]]
    for axis in range(3):
        along = [place[axis] for place in places]
        start, stop = max(min(along) - 4, 0), min(max(along) + 4, kept.shape[axis])
        image, label = (array.take(range(start, stop), axis=axis) for array in (image, label))
    return image, label


@pytest.mark.parametrize("affine", [LPS, PIR])
def test_the_published_cut_is_the_box_of_four_structures_and_its_voxels_stay_where_they_were(tmp_path, affine):
    source = write_download(tmp_path / "download", affine)
    dataset = mmwhs.convert(source, tmp_path / "out", crop="published")
    assert dataset.is_cropped
    case = dataset["ct_train_1002"]
    found = read_image(case, dataset)
    assert found.grid.orientation == "LPS"
    whole = nib.load(source / "ct_train" / "ct_train_1002_image.nii.gz")
    turned = nib.as_closest_canonical(whole)  # RAS
    image = np.asarray(turned.dataobj)[::-1, ::-1].transpose(2, 1, 0)
    label = np.asarray(nib.as_closest_canonical(nib.load(whole.get_filename().replace("image", "label"))).dataobj)
    expected, expected_label = slow_cut(image, label[::-1, ::-1].transpose(2, 1, 0))
    assert np.array_equal(found.array[0], expected.transpose(2, 1, 0))
    values = dataset.labels.to_values(read_classes(case, dataset, found.grid).array)
    assert np.array_equal(values, np.where(expected_label == 421, 0, expected_label).transpose(2, 1, 0))
    corner = np.linalg.inv(whole.affine) @ found.grid.affine @ np.array([2, 3, 1, 1])
    assert np.asarray(whole.dataobj)[tuple(np.rint(corner[:3]).astype(int))] == found.array[0, 2, 3, 1]


def test_stray_labels_of_one_published_case_do_not_widen_its_box(tmp_path):
    source = write_download(tmp_path / "download", names=("mr_train_1002", "mr_train_1003"))
    for name in ("mr_train_1002", "mr_train_1003"):
        stray = heart()
        stray[2, 10, 10] = stray[10, 19, 10] = stray[10, 10, 3] = 500
        save_nifti(source / "mr_train" / f"{name}_label.nii.gz", stray, LPS)
    dataset = mmwhs.convert(source, tmp_path / "out", crop="published")
    shapes = {case.id: read_image(case, dataset).grid.shape for case in dataset}
    assert shapes == {"mr_train_1002": (15, 12, 14), "mr_train_1003": (19, 19, 16)}


def test_scans_without_a_label_cannot_be_cut_and_are_left_out(tmp_path):
    source = write_download(tmp_path / "download", names=("ct_train_1001", "ct_test_2001"))
    assert [case.id for case in mmwhs.convert(source, tmp_path / "out", crop="published")] == ["ct_train_1001"]


@pytest.mark.parametrize("crop", ["none", "published"])
def test_faults_are_one_line_and_leave_nothing(tmp_path, crop):
    def fails(message):
        with pytest.raises(DataError, match=message) as caught:
            mmwhs.convert(source, tmp_path / "out", crop=crop)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    source = write_download(tmp_path / "download")
    label = source / "ct_train" / "ct_train_1001_label.nii.gz"
    save_nifti(label, np.full(SHAPE, 7, np.uint16), LPS)
    fails(r"case ct_train_1001: .*_label\.nii\.gz: label has undeclared values 7")
    save_nifti(label, heart()[:-1], LPS)
    fails(r"label has shape 23 × 22 × 20 instead of 24 × 22 × 20, as in ct_train_1001_image\.nii\.gz")
    label.unlink()
    fails(r"case ct_train_1001: .*: has no ct_train_1001_label\.nii\.gz beside it; copy the label too")
    source = tmp_path / "other"
    save_nifti(source / "heart_image.nii.gz", np.zeros((2, 2, 2), np.int16))
    fails(r"holds heart_image\.nii\.gz and no file of the name ct_train_1001_image\.nii\.gz")


def test_a_label_without_the_published_structures_cannot_be_cut(tmp_path):
    source = write_download(tmp_path / "download")
    save_nifti(source / "ct_train" / "ct_train_1001_label.nii.gz", np.full(SHAPE, 850, np.uint16), LPS)
    with pytest.raises(DataError, match="label holds none of 205, 420, 500, 820"):
        mmwhs.convert(source, tmp_path / "out", crop="published")
