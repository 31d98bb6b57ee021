"""NIH Pancreas-CT's download: DICOM series in PANCREAS_0001/STUDY/SERIES, rows counting forwards; label0001.nii.gz."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from test_dicom import write_series

from semivox.data import pancreas_ct
from semivox.data.dicom import read_series
from semivox.data.image import read_classes, read_image
from semivox.errors import DataError

FORWARDS = (1, 0, 0, 0, -1, 0)
"""ImageOrientationPatient of the archive's files: rows count towards the front."""
SHAPE = (7, 6, 5)
LABELS = "TCIA_pancreas_labels-02-05-2017"
STUDY = "11-24-2015-NA-PANCREAS{}-Pancreas-18957/Pancreas-63502"


def write_case(folder, number, axes="LPS", shape=SHAPE, spacing=(0.7, 0.5), shift_mm=0.0, **changes):
    """A series and its label, brighter voxels marked, stored along other axes than the series. Returns the marks."""
    series = folder / "Pancreas-CT" / f"PANCREAS_{number}" / STUDY.format(number)
    write_series(series, orientation=FORWARDS, shape=shape, spacing=spacing, seed=int(number), **changes)
    volume = read_series(series)
    marks = (volume.array[0] > 1200).astype(np.uint8)
    turn = ornt_transform(io_orientation(volume.grid.affine), axcodes2ornt(axes))
    affine = volume.grid.affine @ inv_ornt_aff(turn, volume.grid.shape)
    affine[0, 3] += shift_mm
    label = folder / LABELS / f"label{number}.nii.gz"
    label.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(apply_orientation(marks, turn), affine), label)
    return marks


@pytest.mark.parametrize("axes", ["LAS", "RAS", "LPS", "LPI", "SRA", "PSL"])
def test_a_label_lies_on_its_scan_whichever_way_it_is_stored(tmp_path, capsys, axes):
    write_case(tmp_path / "download", "0001", axes)
    dataset = pancreas_ct.convert(tmp_path / "download", tmp_path / "out")
    (case,) = dataset
    image = read_image(case, dataset)
    classes = read_classes(case, dataset, image.grid)
    assert np.array_equal(classes.array, image.array[0] > 1200)
    assert np.array_equal(image.array, read_series(tmp_path / "download" / "Pancreas-CT" / "PANCREAS_0001").array)
    assert capsys.readouterr().err == ""


def test_every_patient_is_a_training_case_and_duplicates_are_left_out_with_a_line(tmp_path, capsys):
    for number in ("0010", "0002", "0025", "0070"):
        write_case(tmp_path / "download", number)
    (tmp_path / "download" / "Pancreas-CT" / "PANCREAS_0002" / "LICENSE").write_text("CC BY")
    dataset = pancreas_ct.convert(tmp_path / "download", tmp_path / "out")
    assert [(case.id, case.split) for case in dataset] == [("PANCREAS_0002", "train"), ("PANCREAS_0010", "train")]
    assert (dataset.labels.foreground, dataset.channels, dataset.name) == (("pancreas",), ("CT",), "pancreas-ct")
    assert not dataset.is_cropped
    assert capsys.readouterr().err == "left out as duplicates: PANCREAS_0025, PANCREAS_0070\n"


def test_a_label_whose_header_puts_it_elsewhere_is_taken_and_named(tmp_path, capsys):
    write_case(tmp_path / "download", "0001")
    marks = write_case(tmp_path / "download", "0002", shift_mm=40.0)
    dataset = pancreas_ct.convert(tmp_path / "download", tmp_path / "out")
    case = dataset["PANCREAS_0002"]
    image = read_image(case, dataset)
    assert np.array_equal(read_classes(case, dataset, image.grid).array, marks)
    (line,) = capsys.readouterr().err.splitlines()
    assert "the labels of PANCREAS_0002 have another place than their scan" in line


def test_the_published_cut_leaves_25_mm_around_the_label_in_its_place(tmp_path):
    spacing_mm = (4.0, 4.0)
    folder = tmp_path / "download"
    write_case(folder, "0001", shape=(40, 36, 60), spacing=spacing_mm)
    marks = np.zeros((40, 36, 60), np.uint8)
    marks[10:30, 12:28, 20:40] = 1
    rewrite(folder, lambda array, affine: (marks, affine))
    dataset = pancreas_ct.convert(folder, tmp_path / "out", crop="published")
    whole = pancreas_ct.convert(folder, tmp_path / "whole")
    assert dataset.is_cropped
    cut, image = (read_image(one["PANCREAS_0001"], one) for one in (dataset, whole))
    classes = read_classes(dataset["PANCREAS_0001"], dataset, cut.grid)
    margins = [(int(hit[0]), n - 1 - int(hit[-1])) for n, hit in zip(cut.grid.shape, _hits(classes.array), strict=True)]
    assert margins == [(6, 6), (6, 6), (10, 10)], "25 mm at 4, 4 and 2.5 mm"
    start = np.rint(np.linalg.inv(image.grid.affine) @ cut.grid.affine[:, 3])[:3].astype(int)
    box = tuple(slice(first, first + n) for first, n in zip(start, cut.grid.shape, strict=True))
    assert np.array_equal(image.array[0][box], cut.array[0])
    assert "25 mm" in (tmp_path / "out" / "README.txt").read_text()


def _hits(array):
    return [np.flatnonzero(array.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]


def rewrite(folder, change):
    """Stores the label anew, as `change` makes it of its array and affine."""
    file = folder / LABELS / "label0001.nii.gz"
    stored = nib.load(file)
    nib.save(nib.Nifti1Image(*change(np.asarray(stored.dataobj), stored.affine)), file)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (
            lambda folder: rewrite(folder, lambda array, affine: (array[..., :-1], affine)),
            r"case PANCREAS_0001: .*label0001\.nii\.gz: label has shape 7 × 6 × 4 instead of 7 × 6 × 5",
        ),
        (
            lambda folder: rewrite(folder, lambda array, affine: (array, affine @ np.diag([2, 1, 1, 1]))),
            "label has spacing 1 × 0.7 × 2.5 mm instead of 0.5 × 0.7 × 2.5 mm",
        ),
        (
            lambda folder: rewrite(folder, lambda array, affine: (array * 3, affine)),
            "label has undeclared values 3",
        ),
        (
            lambda folder: (folder / LABELS / "label0001.nii.gz").rename(folder / "label9.nii"),
            r"case PANCREAS_0001: .*there is no label0001\.nii\.gz below .*; put the unpacked labels",
        ),
        (
            lambda folder: write_case(folder / "again", "0001"),
            "is there twice, also as .*; remove one of them",
        ),
        (
            lambda folder: (folder / "Pancreas-CT" / "PANCREAS_0001").rename(folder / "Pancreas-CT" / "first"),
            "holds no folder PANCREAS_0001; name the folder that holds",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(tmp_path, spoil, what):
    write_case(tmp_path / "download", "0001")
    spoil(tmp_path / "download")
    with pytest.raises(DataError, match=what) as caught:
        pancreas_ct.convert(tmp_path / "download", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_empty_label_cannot_be_cut_around(tmp_path):
    write_case(tmp_path / "download", "0001")
    rewrite(tmp_path / "download", lambda array, affine: (array * 0, affine))
    with pytest.raises(DataError, match=r"case PANCREAS_0001: .*: label is empty; copy it again"):
        pancreas_ct.convert(tmp_path / "download", tmp_path / "out", crop="published")
