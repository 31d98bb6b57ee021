import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_set import AFFINE, SHAPE, box_label, save_nifti, scan, set_scaling, write_small_set

from semivox.data import image, integrity
from semivox.data.fault import Fault, FaultError
from semivox.data.integrity import check, check_case
from semivox.data.layout import read_dataset

REAL = Path(__file__).parents[3] / "shared" / "data"


@dataclass(frozen=True)
class Spoilt:
    """One way to spoil the two-channel set: what is done, and the one line that must tell of it."""

    spoil: Callable[[Path], object]
    case: str
    file: str
    what: str
    is_error: bool = True


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def with_values(root: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Writes the voxels of a file anew, on the same grid."""
    loaded = nib.load(root / name)
    save_nifti(root / name, change(np.asarray(loaded.dataobj)), loaded.affine)


def with_affine(root: Path, name: str, change: np.ndarray) -> None:
    """Writes the affine of a file anew: `change` acts on the voxel axes."""
    loaded = nib.load(root / name)
    save_nifti(root / name, np.asarray(loaded.dataobj), loaded.affine @ change)


def with_qform(path: Path) -> None:
    loaded = nib.load(path)
    fresh = nib.Nifti1Image(np.asarray(loaded.dataobj), loaded.affine)
    fresh.set_sform(loaded.affine, code=1)
    fresh.set_qform(loaded.affine @ np.diag([-1.0, 1.0, 1.0, 1.0]), code=1)
    nib.save(fresh, path)


def nan_voxel(array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float32)
    array[0, 0, 0], array[1, 1, 1] = np.nan, np.inf
    return array


IMAGE, SECOND, LABEL = "imagesTr/a2_0000.nii.gz", "imagesTr/a2_0001.nii.gz", "labelsTr/a2.nii.gz"

FAULTS = {
    "truncated image": Spoilt(lambda root: cut(root / SECOND, 0.5), "a2", SECOND, "truncated"),
    "zero-byte image": Spoilt(lambda root: cut(root / IMAGE, 0), "a2", IMAGE, "is empty"),
    "truncated label": Spoilt(lambda root: cut(root / LABEL, 0.7), "a2", LABEL, "truncated"),
    "zero-byte label": Spoilt(lambda root: cut(root / LABEL, 0), "a2", LABEL, "is empty"),
    "not a NIfTI": Spoilt(lambda root: (root / IMAGE).write_text("hello"), "a2", IMAGE, "is not a valid NIfTI file"),
    "four axes": Spoilt(
        lambda root: with_values(root, IMAGE, lambda array: np.stack([array, array], axis=3)), "a2", IMAGE, "has 4 axes"
    ),
    "four axes in a label": Spoilt(
        lambda root: with_values(root, LABEL, lambda array: np.stack([array, array], axis=3)), "a2", LABEL, "has 4 axes"
    ),
    "label of another shape": Spoilt(
        lambda root: with_values(root, LABEL, lambda array: array[:-1]), "a2", LABEL, "label has shape 11 × 10 × 8"
    ),
    "label of another spacing": Spoilt(
        lambda root: with_affine(root, LABEL, np.diag([1.0, 1.0, 1.5, 1.0])), "a2", LABEL, "label has spacing"
    ),
    "label of another orientation": Spoilt(
        lambda root: with_affine(root, LABEL, np.diag([-1.0, 1.0, 1.0, 1.0])), "a2", LABEL, "label has orientation RAS"
    ),
    "label of another place": Spoilt(
        lambda root: with_affine(root, LABEL, nib.affines.from_matvec(np.eye(3), [0, 0, 2])), "a2", LABEL, "4 mm away"
    ),
    "channels of different shape": Spoilt(
        lambda root: with_values(root, SECOND, lambda array: array[:, :-2]), "a2", SECOND, "has shape 12 × 8 × 8"
    ),
    "channels of different spacing": Spoilt(
        lambda root: with_affine(root, SECOND, np.diag([1.0, 1.0, 1.5, 1.0])), "a2", SECOND, "has spacing"
    ),
    "undeclared value": Spoilt(
        lambda root: with_values(root, LABEL, lambda array: array * 3), "a2", LABEL, "label has undeclared values 3, 6"
    ),
    "value between classes": Spoilt(
        lambda root: with_values(root, LABEL, lambda array: array.astype(np.float32) / 2),
        "a2",
        LABEL,
        "not whole numbers",
    ),
    "NaN voxel": Spoilt(
        lambda root: with_values(root, SECOND, nan_voxel), "a2", SECOND, "2 voxels that are NaN or infinite"
    ),
    "constant image": Spoilt(
        lambda root: with_values(root, IMAGE, np.ones_like), "a2", IMAGE, "is constant: every voxel is 1"
    ),
    "empty label": Spoilt(
        lambda root: with_values(root, LABEL, np.zeros_like), "a2", LABEL, "label is empty", is_error=False
    ),
    "label without image": Spoilt(
        lambda root: shutil.copy(root / LABEL, root / "labelsTr/b.nii.gz"),
        "b",
        "labelsTr/b.nii.gz",
        "no image in imagesTr",
    ),
    "missing channel": Spoilt(lambda root: (root / SECOND).unlink(), "a2", IMAGE, "channel 0001 is missing"),
    "duplicate id": Spoilt(
        lambda root: [save_nifti(root / f"imagesTs/a2_000{channel}.nii.gz", scan(80 + channel)) for channel in (0, 1)],
        "a2",
        "imagesTs/a2_0000.nii.gz",
        "has the id of another case",
    ),
    "patient in train and test": Spoilt(
        lambda root: (root / "cases.csv").write_text("case,group\na1,\na2,p\na3,\na10,\nt1,p\nt2,\n"),
        "t1",
        "cases.csv",
        "patient p is in test and, with case a2, in train",
    ),
    "the same scan in train and test": Spoilt(
        lambda root: [
            shutil.copy(root / f"imagesTr/a2_000{c}.nii.gz", root / f"imagesTs/t1_000{c}.nii.gz") for c in (0, 1)
        ],
        "t1",
        "imagesTs/t1_0000.nii.gz",
        "voxel for voxel, the scan of case a2",
    ),
    "the same scan twice": Spoilt(
        lambda root: [
            shutil.copy(root / f"imagesTr/a2_000{c}.nii.gz", root / f"imagesTr/a3_000{c}.nii.gz") for c in (0, 1)
        ],
        "a3",
        "imagesTr/a3_0000.nii.gz",
        "voxel for voxel, the scan of case a2",
        is_error=False,
    ),
    "qform and sform disagree": Spoilt(
        lambda root: with_qform(root / IMAGE), "a2", IMAGE, "qform and sform disagree", is_error=False
    ),
    "integers overflow through scaling": Spoilt(
        lambda root: set_scaling(root / IMAGE, 1000.0, 0.0),
        "a2",
        IMAGE,
        "outside int16: integers overflow",
        is_error=False,
    ),
    "float32 overflows through scaling": Spoilt(
        lambda root: set_scaling(root / IMAGE, 3e38, 0.0), "a2", IMAGE, "overflows float32"
    ),
}


@pytest.fixture
def two_channels(tmp_path: Path) -> Path:
    return write_small_set(tmp_path / "two", channels=2)


def test_a_clean_set_has_no_fault(two_channels: Path) -> None:
    assert check(two_channels) == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_alone_with_case_file_and_mend(two_channels: Path, name: str) -> None:
    spoilt = FAULTS[name]
    spoilt.spoil(two_channels)
    faults = check(two_channels)
    assert len(faults) == 1, [str(fault) for fault in faults]
    assert faults[0].case == spoilt.case
    assert faults[0].file == two_channels / spoilt.file
    assert spoilt.what in faults[0].what
    assert faults[0].mend
    assert faults[0].is_error == spoilt.is_error
    assert "\n" not in str(faults[0])


def test_all_faults_are_listed_at_once(two_channels: Path) -> None:
    (two_channels / "imagesTr/a1_0000.nii.gz").write_bytes(b"")
    with_values(two_channels, "imagesTr/a1_0001.nii.gz", nan_voxel)
    with_values(two_channels, "labelsTr/a1.nii.gz", lambda array: array[:-1] * 4)
    cut(two_channels / "labelsTs/t2.nii.gz", 0.5)
    (two_channels / "imagesTr/a3_0001.nii.gz").unlink()
    found = [(fault.case, fault.file.name) for fault in check(two_channels) if fault.file]
    assert found == [
        ("a3", "a3_0000.nii.gz"),
        ("a1", "a1_0000.nii.gz"),
        ("a1", "a1_0001.nii.gz"),
        ("a1", "a1.nii.gz"),
        ("a1", "a1.nii.gz"),
        ("t2", "t2.nii.gz"),
    ]


def test_a_broken_description_is_the_only_fault(two_channels: Path) -> None:
    (two_channels / "dataset.json").write_text("{")
    (fault,) = check(two_channels)
    assert fault.file == two_channels / "dataset.json"


def test_a_volume_smaller_than_any_patch_is_no_fault(tmp_path: Path) -> None:
    root = write_small_set(tmp_path / "tiny")
    for folder in ("imagesTr/a1_0000", "labelsTr/a1"):
        with_values(root, f"{folder}.nii.gz", lambda array: array[4:7, 3:5, 3:4])
    assert check(root) == []


def test_hidden_labels_are_never_opened(two_channels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = read_dataset(two_channels).hide_labels(1)
    for case in ("a2", "a3"):
        (two_channels / f"labelsTr/{case}.nii.gz").write_bytes(b"not a label")
    opened = []
    monkeypatch.setattr(integrity, "read_label", lambda path: opened.append(path.name) or image.read_label(path))
    assert check(data) == []
    assert opened == ["a1.nii.gz", "t1.nii.gz", "t2.nii.gz"]


def test_processes_find_what_one_process_finds(two_channels: Path) -> None:
    for name in ("truncated image", "the same scan in train and test"):
        FAULTS[name].spoil(two_channels)
    (two_channels / "imagesTs/t2_0000.nii.gz").write_bytes(b"")
    assert check(two_channels, workers=2) == check(two_channels) != []


def test_progress_counts_every_case(two_channels: Path) -> None:
    seen: list[tuple[int, int]] = []
    check(two_channels, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_scans_that_lie_elsewhere_are_checked_too(two_channels: Path, tmp_path: Path) -> None:
    for channel in (0, 1):
        save_nifti(tmp_path / f"more/u_000{channel}.nii.gz", np.full(SHAPE, 3, np.int16))
    faults = check(two_channels, unlabelled=tmp_path / "more")
    assert [(fault.case, "constant" in fault.what) for fault in faults] == [("u", True), ("u", True)]


def test_one_case_can_be_checked(two_channels: Path) -> None:
    FAULTS["NaN voxel"].spoil(two_channels)
    data = read_dataset(two_channels)
    assert check_case(data["a1"], data) == []
    assert [fault.case for fault in check_case(data["a2"], data)] == ["a2"]


def test_a_label_of_only_ignored_voxels_is_empty(tmp_path: Path) -> None:
    root = write_small_set(tmp_path / "ignored", labels={"background": 0, "left": 1, "right": 2, "ignore": 3})
    with_values(root, "labelsTr/a1.nii.gz", lambda array: np.full_like(array, 3))
    (fault,) = check(root)
    assert "label is empty" in fault.what


def test_a_header_that_says_nothing_of_orientation_is_a_warning(tmp_path: Path) -> None:
    root = write_small_set(tmp_path / "plain")
    loaded = nib.load(root / "imagesTr/a10_0000.nii.gz")
    fresh = nib.Nifti1Image(np.asarray(loaded.dataobj), None)
    fresh.header.set_zooms((1.0, 1.0, 2.0))
    fresh.header.set_xyzt_units("micron")
    nib.save(fresh, root / "imagesTr/a10_0000.nii.gz")
    first, second = check(root)
    assert "says nothing about orientation" in first.what
    assert "declares its voxel size in micron" in second.what
    assert not first.is_error
    assert not second.is_error


def test_a_fault_survives_the_way_between_processes() -> None:
    import pickle

    error = FaultError(Fault("a", Path("b.nii.gz"), "is empty", "copy it"))
    again = pickle.loads(pickle.dumps(error))
    assert again.fault == error.fault
    assert str(again) == "case a: b.nii.gz: is empty; copy it"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real scans are not here")
@pytest.mark.parametrize("name", ["hippocampus", "mscmr", "sunnybrook"])
def test_real_sets_have_no_fault(name: str) -> None:
    assert check(REAL / name) == []


def test_the_small_set_has_an_oblique_grid_and_two_classes(two_channels: Path) -> None:
    """What the list of faults takes for granted."""
    assert json.loads((two_channels / "dataset.json").read_text())["labels"] == {"background": 0, "left": 1, "right": 2}
    assert np.count_nonzero(AFFINE[:3, :3]) == 5
    assert np.unique(box_label()).tolist() == [0, 1, 2]


def test_a_class_that_no_labelled_training_case_has_is_a_fault_of_the_set(two_channels: Path) -> None:
    data = read_dataset(two_channels)
    names = (*data.labels.names, "spleen")
    labels = replace(data.labels, names=names, values=(*data.labels.values, 77))
    (fault,) = check(replace(data, labels=labels))
    assert (fault.case, fault.file, fault.is_error) == ("", data.root, True)
    assert "class 'spleen' is in none of the" in fault.what
    assert f"--labels {' '.join(data.labels.foreground)}" in fault.mend
    assert check(replace(data, labels=labels).hide_labels(0)) == [], "without any label nothing can be said"
