"""ACDC's download: training/patient001/Info.cfg beside frames of three axes with labels."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from semivox.data import acdc
from semivox.data.image import read_classes, read_image
from semivox.errors import DataError

SHAPE = (9, 8, 5)
SPACING_MM = (1.5, 1.25, 10.0)
PATIENTS = (("training/patient002", 1, 12), ("training/patient010", 2, 9), ("testing/patient101", 1, 14))


def scan(patient, frame):
    return np.random.default_rng(1000 * patient + frame).integers(0, 400, SHAPE).astype(np.int16)


def label(patient, frame):
    array = np.zeros(SHAPE, np.uint8)
    array[2:7, 2:6, 1:4] = 2
    array[3:6, 3:5, 1:4] = 3
    array[7, 3, 1 + (patient + frame) % 3] = 1
    return array


def save(path, array):
    """As in the download: voxels of 1 mm in the sform, their true size in the qform alone."""
    image = nib.Nifti1Image(array, None)
    image.set_qform(np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0]), code=1)
    image.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=1)
    image.header.set_zooms((*SPACING_MM, 1.0)[: array.ndim])
    nib.save(image, path)


def write_download(root):
    for place, ed, es in PATIENTS:
        folder = root / place
        folder.mkdir(parents=True)
        number = int(folder.name[-3:])
        (folder / "Info.cfg").write_text(f"ED: {ed}\nES: {es}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n")
        for frame in (ed, es):
            save(folder / f"{folder.name}_frame{frame:02d}.nii.gz", scan(number, frame))
            save(folder / f"{folder.name}_frame{frame:02d}_gt.nii.gz", label(number, frame))
        save(folder / f"{folder.name}_4d.nii.gz", np.stack([scan(number, frame) for frame in (ed, es)], axis=-1))
        (folder / "MANDATORY_CITATION.md").write_text("Bernard et al.")
    return root


@pytest.fixture
def download(tmp_path):
    return write_download(tmp_path / "ACDC" / "database")


def test_two_frames_of_each_patient_in_the_challenges_split(download, tmp_path):
    dataset = acdc.convert(download, tmp_path / "out")
    assert [(case.id, case.patient, case.split) for case in dataset] == [
        ("patient002_frame01", "patient002", "train"),
        ("patient002_frame12", "patient002", "train"),
        ("patient010_frame02", "patient010", "train"),
        ("patient010_frame09", "patient010", "train"),
        ("patient101_frame01", "patient101", "test"),
        ("patient101_frame14", "patient101", "test"),
    ]
    assert all(case.label is not None for case in dataset)
    assert dataset.labels.foreground == ("RV", "MYO", "LV")


def test_voxels_and_their_size_are_the_files_own_whatever_the_sform_says(download, tmp_path):
    dataset = acdc.convert(download, tmp_path / "out")
    case = dataset["patient010_frame09"]
    volume = read_image(case, dataset)
    assert np.array_equal(volume.array[0], scan(10, 9))
    assert np.array_equal(read_classes(case, dataset, volume.grid).array, label(10, 9))
    assert volume.grid.spacing_mm == SPACING_MM
    assert volume.grid.orientation == "LPS"
    assert "left, posterior, superior" in (tmp_path / "out" / "README.txt").read_text()


def test_the_folder_above_the_download_does_as_well(download, tmp_path):
    assert len(acdc.convert(download.parent.parent / "ACDC", tmp_path / "out").cases) == 6


def test_testing_patients_may_come_without_labels(download, tmp_path):
    for file in (download / "testing").rglob("*_gt.nii.gz"):
        file.unlink()
    dataset = acdc.convert(download, tmp_path / "out")
    assert [case.label is None for case in dataset] == [False] * 4 + [True] * 2


def frame(download, name="patient002_frame12"):
    return download / "training" / "patient002" / f"{name}.nii.gz"


SPOILT = {
    "an image is missing": (
        lambda root: frame(root).unlink(),
        r"case patient002_frame12: .*_frame12\.nii\.gz: there is no such file, but Info\.cfg names its frame; copy it",
    ),
    "a training label is missing": (
        lambda root: frame(root, "patient002_frame01_gt").unlink(),
        r"case patient002_frame01: .*_frame01_gt\.nii\.gz: there is no such file, but Info\.cfg names its frame; copy",
    ),
    "Info.cfg is missing": (
        lambda root: (root / "testing" / "patient101" / "Info.cfg").unlink(),
        r"case patient101: .*Info\.cfg: cannot be read \(.*No such file.*\); copy it again",
    ),
    "Info.cfg says no ED": (
        lambda root: (root / "training" / "patient002" / "Info.cfg").write_text("ES: 12\nGroup: DCM\n"),
        r"case patient002: .*Info\.cfg: does not say ED; copy it again",
    ),
    "Info.cfg says a word": (
        lambda root: (root / "training" / "patient002" / "Info.cfg").write_text("ED: 1\nES: late\n"),
        r"case patient002: .*Info\.cfg: has 'late' for ES, which is no frame; copy it again",
    ),
    "a label of another shape": (
        lambda root: save(frame(root, "patient002_frame12_gt"), label(2, 12)[:, :, :4]),
        r"case patient002_frame12: .*_gt\.nii\.gz: has shape 9 × 8 × 4, the image 9 × 8 × 5; copy both again",
    ),
    "a label with another value": (
        lambda root: save(frame(root, "patient002_frame12_gt"), np.full(SHAPE, 9, np.uint8)),
        r"case patient002_frame12: .*_gt\.nii\.gz: label has undeclared values 9, declared are .*; copy it again",
    ),
    "a frame with the whole cycle": (
        lambda root: save(frame(root), np.stack([scan(2, 1)] * 3, axis=-1)),
        r"case patient002_frame12: .*_frame12\.nii\.gz: has shape 9 × 8 × 5 × 3 where x, y and slice are due; copy it",
    ),
    "a truncated file": (
        lambda root: frame(root).write_bytes(frame(root).read_bytes()[:200]),
        r"case patient002_frame12: .*_frame12\.nii\.gz: cannot be read as NIfTI \(.*\); copy it again",
    ),
    "a patient who is there twice": (
        lambda root: shutil.copytree(root / "training", root / "copy" / "training"),
        r"case patient002_frame01: .*: is there twice, also as .*; remove one of them",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_download_is_one_line_and_leaves_nothing(download, tmp_path, name):
    spoil, message = SPOILT[name]
    spoil(download)
    with pytest.raises(DataError, match=message) as caught:
        acdc.convert(download, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("below", "message"),
    [
        ("training", r"patient002: lies in neither .*; name the folder that holds training and testing"),
        ("training/patient002", r"holds no patient\[0-9\]\*/\*; name the folder that holds training/patient001/Info"),
        ("validation", r"there is no such folder; name the folder that holds training/patient001/Info"),
    ],
)
def test_a_folder_inside_the_download_is_refused_with_the_one_that_is_meant(download, tmp_path, below, message):
    with pytest.raises(DataError, match=message) as caught:
        acdc.convert(download / below, tmp_path / "out")
    assert "\n" not in str(caught.value)
