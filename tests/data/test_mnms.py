"""M&Ms's download: Training/Labeled/ID/ID_sa.nii.gz with ID_sa_gt.nii.gz (x, y, slice, frame), a csv of vendors."""

import csv

import nibabel as nib
import numpy as np
import pytest

from semivox.data import mnms
from semivox.data.image import read_classes, read_image
from semivox.errors import DataError

TABLE = "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"
COLUMNS = ["", "External code", "VendorName", "Vendor", "Centre", "ED", "ES", "Age", "Pathology", "Sex"]
OBLIQUE = np.array([[0.8, 0.5, 6.0, 0], [-0.9, 0.6, 3.0, 0], [0.1, -0.9, 7.0, 0], [0, 0, 0, 1]])
"""A short axis: its third axis runs along none of the patient's."""

PATIENTS = (
    ("A0S9V9", "B", "Training/Labeled", 0, 2),
    ("A1D0Q7", "A", "Training/Labeled", 3, 1),
    ("A2B3C4", "C", "Training/Unlabeled", 1, 3),
    ("B5C6D7", "D", "Validation", 2, 0),
    ("C1D2E3", "C", "Testing", 0, 1),
)


def scan(seed, frames=4):
    return np.random.default_rng(seed).integers(0, 400, (9, 8, 6, frames)).astype(np.int16)


def label(ed, es, frames=4):
    """Slices 1 to 4 at ED, 2 to 3 at ES."""
    array = np.zeros((9, 8, 6, frames), np.uint8)
    array[3:6, 3:6, 1:5, ed] = 2
    array[4, 4, 1:5, ed] = 1
    array[6, 4, 2:4, es] = 3
    return array


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, OBLIQUE), path)


def write_download(folder, patients=PATIENTS, rows=None):
    for seed, (code, _, part, ed, es) in enumerate(patients):
        save(folder / part / code / f"{code}_sa.nii.gz", scan(seed))
        if part != "Training/Unlabeled":
            save(folder / part / code / f"{code}_sa_gt.nii.gz", label(ed, es))
    with open(folder / TABLE, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, (code, vendor, _, ed, es) in enumerate(patients):
            told = (rows or {}).get(code, (vendor, ed, es))
            writer.writerow([number, code, "Siemens", told[0], 1, told[1], told[2], 50, "NOR", "F"])
    return folder


def test_two_frames_of_each_patient_with_vendor_and_the_challenges_split(tmp_path):
    dataset = mnms.convert(write_download(tmp_path / "download"), tmp_path / "out")
    told = {case.id: (case.domain, case.patient, case.split, case.label is not None) for case in dataset}
    assert told == {
        "A0S9V9_frame00": ("B", "A0S9V9", "train", True),
        "A0S9V9_frame02": ("B", "A0S9V9", "train", True),
        "A1D0Q7_frame03": ("A", "A1D0Q7", "train", True),
        "A1D0Q7_frame01": ("A", "A1D0Q7", "train", True),
        "A2B3C4_frame01": ("C", "A2B3C4", "train", False),
        "A2B3C4_frame03": ("C", "A2B3C4", "train", False),
        "B5C6D7_frame02": ("D", "B5C6D7", "val", True),
        "B5C6D7_frame00": ("D", "B5C6D7", "val", True),
        "C1D2E3_frame00": ("C", "C1D2E3", "test", True),
        "C1D2E3_frame01": ("C", "C1D2E3", "test", True),
    }
    assert dataset.labels.foreground == ("LV", "MYO", "RV")


def test_voxels_are_those_of_the_frame_and_slices_stay_slices(tmp_path):
    dataset = mnms.convert(write_download(tmp_path / "download"), tmp_path / "out")
    case = dataset["A1D0Q7_frame01"]
    volume = read_image(case, dataset)
    assert np.array_equal(volume.array[0], scan(1)[..., 1])
    assert np.array_equal(read_classes(case, dataset, volume.grid).array, label(3, 1)[..., 1])
    assert volume.grid.orientation == "LPS"
    assert volume.grid.spacing_mm == pytest.approx(np.sqrt((OBLIQUE[:3, :3] ** 2).sum(0)))
    assert "oblique" in (tmp_path / "out" / "README.txt").read_text()


def test_the_published_cut_keeps_labelled_slices_but_the_last(tmp_path):
    dataset = mnms.convert(write_download(tmp_path / "download"), tmp_path / "out", crop="published")
    assert dataset.is_cropped
    for case_id, frame, slices in (("A1D0Q7_frame03", 3, slice(1, 4)), ("A1D0Q7_frame01", 1, slice(2, 3))):
        case = dataset[case_id]
        volume = read_image(case, dataset)
        assert np.array_equal(volume.array[0], scan(1)[..., slices, frame])
        assert np.array_equal(read_classes(case, dataset, volume.grid).array, label(3, 1)[..., slices, frame])
    unlabelled = dataset["A2B3C4_frame01"]
    assert read_image(unlabelled, dataset).grid.shape == (9, 8, 6)


def test_an_unlabelled_patient_without_frames_is_left_out_and_named(tmp_path):
    source = write_download(tmp_path / "download", rows={"A2B3C4": ("C", "", "nan")})
    dataset = mnms.convert(source, tmp_path / "out")
    assert "A2B3C4" not in {case.patient for case in dataset}
    assert (
        "Left out, without label and without frames in the table: A2B3C4."
        in (tmp_path / "out" / "README.txt").read_text()
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"A0S9V9": ("B", 1, 3)}, r"case A0S9V9_frame01: .*_gt\.nii\.gz: label is empty at frame 1; .* count from 0"),
        ({"A0S9V9": ("B", 0, 4)}, r"case A0S9V9_frame04: .*: has no frame 4 \(shape 9 × 8 × 6 × 4\)"),
        ({"A0S9V9": ("B", "", 2)}, r"does not say ED and ES of A0S9V9"),
        ({"A0S9V9": ("B", "first", 2)}, r"has the frames ED 'first', ES '2' for A0S9V9, which are no numbers"),
        ({"A0S9V9": ("", 0, 2)}, r"has no vendor for A0S9V9, of which there is A0S9V9_sa\.nii\.gz"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line_and_leaves_nothing(tmp_path, rows, message):
    source = write_download(tmp_path / "download", rows=rows)
    with pytest.raises(DataError, match=message) as caught:
        mnms.convert(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_faults_are_one_line(tmp_path):
    def fails(source, message):
        with pytest.raises(DataError, match=message) as caught:
            mnms.convert(source, tmp_path / "out")
        assert "\n" not in str(caught.value)

    source = write_download(tmp_path / "no_table")
    (source / TABLE).rename(source / "table.txt")
    (source / "other.csv").write_text("a,b\n1,2\n")
    fails(source, r"holds no table with the columns External code, Vendor, ED, ES \(found other\.csv\); put 211230_")
    source = write_download(tmp_path / "damaged")
    file = source / "Testing" / "C1D2E3" / "C1D2E3_sa.nii.gz"
    file.write_bytes(file.read_bytes()[:90])
    fails(source, r"C1D2E3_sa\.nii\.gz: cannot be read as NIfTI")
    source = write_download(tmp_path / "values")
    save(source / "Testing" / "C1D2E3" / "C1D2E3_sa_gt.nii.gz", np.full((9, 8, 6, 4), 5, np.uint8))
    fails(source, "label has undeclared values 5")
    source = write_download(tmp_path / "flat")
    (source / "Testing").rename(source / "Elsewhere")
    fails(source, "lies in none of Training, Validation and Testing; keep the folders of the download")
    fails(tmp_path / "Training", "there is no such folder")
