import hashlib
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from semivox.data.case import Case, Dataset
from semivox.data.labels import LabelMap
from semivox.errors import DataError, RunError
from semivox.planning.fingerprint import Fingerprint, fingerprint

LABELS = LabelMap(("background", "organ"), (0, 1))


@pytest.fixture
def make_dataset(tmp_path):
    """A function (arrays, affine, channels) → a data set with one training case per array."""

    def make(*arrays, affine=None, channels=("MRI",)) -> Dataset:
        cases = []
        for index, array in enumerate(arrays):
            path = tmp_path / f"case{index}_0000.nii.gz"
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
            cases.append(Case(f"case{index}", (path,)))
        return Dataset("small", tmp_path, channels, LABELS, tuple(cases))

    return make


def body(shape=(12, 10, 8), margin=2, seed=0) -> np.ndarray:
    """Values from 1 on in a box, zeros around it."""
    array = np.zeros(shape, np.int16)
    inside = tuple(slice(margin, -margin) for _ in shape)
    array[inside] = np.random.default_rng(seed).integers(1, 1000, array[inside].shape)
    return array


def test_sizes_and_spacings_are_told_in_ras_order(make_dataset):
    # Axes lead to the patient's Posterior, Inferior and Left: X of the prepared scan is the file's last axis.
    affine = np.array([[0, 0, -5.0, 0], [-1.5, 0, 0, 0], [0, -2.0, 0, 0], [0, 0, 0, 1]])
    (scan,) = fingerprint(make_dataset(body((12, 10, 8), margin=1), affine=affine)).scans
    assert scan.shape == (8, 12, 10)
    assert scan.body == (6, 10, 8)
    assert scan.spacing_mm == (5.0, 1.5, 2.0)
    assert scan.dtype == "int16"
    assert not scan.is_picture


def test_intensities_are_those_of_the_body(make_dataset):
    array = body((40, 30, 20))
    (intensity,) = fingerprint(make_dataset(array)).scans[0].intensities
    values = array[array > 0]
    low, median, high = np.percentile(values, (0.5, 50, 99.5))
    assert intensity.median == pytest.approx(median, rel=0.01)
    assert (intensity.low, intensity.high) == pytest.approx((low, high), abs=1)
    assert intensity.mean == pytest.approx(values.clip(low, high).mean(), rel=0.01)
    assert intensity.deviation == pytest.approx(values.clip(low, high).std(), rel=0.01)


def test_air_is_no_part_of_the_body_in_a_channel_named_ct(make_dataset):
    array = np.full((20, 20, 20), -1000, np.int16)
    array[:10] = 40
    array[0, 0, 0] = -1024  # the corners differ: nothing is cropped
    assert fingerprint(make_dataset(array, channels=("CT",))).modalities[0].intensities[0].low == 40
    assert fingerprint(make_dataset(array, channels=("CT angiography",))).modalities[0].intensities[0].low == -1000


def test_every_scan_counts_alike_when_intensities_are_pooled(make_dataset):
    large, small = np.full((30, 30, 30), 100, np.int16), np.full((6, 6, 6), 300, np.int16)
    assert fingerprint(make_dataset(large, small)).modalities[0].intensities[0].mean == pytest.approx(200)


def test_unlabelled_scans_count_and_test_scans_do_not(make_dataset):
    dataset = make_dataset(np.full((6, 6, 6), 100, np.int16), np.full((6, 6, 6), 300, np.int16))
    cases = (dataset.cases[0], replace(dataset.cases[1], split="test"))
    prints = fingerprint(replace(dataset, cases=cases))
    assert [scan.case for scan in prints.scans] == ["case0", "case1"]
    assert [scan.case for scan in prints.training] == ["case0"]
    assert prints.modalities[0].intensities[0].mean == 100


def test_intensities_are_pooled_for_each_modality_over_unlabelled_scans_too(make_dataset):
    arrays = [np.full((6, 6, 6), value, np.int16) for value in (100, 300, 40, -1000)]
    dataset = make_dataset(*arrays)
    cases = [replace(case, channels=("CT",) if index > 1 else ("MRI",)) for index, case in enumerate(dataset)]
    prints = fingerprint(replace(dataset, cases=tuple(cases)))
    assert [(modality.name, modality.intensities[0].mean) for modality in prints.modalities] == [
        ("MRI", pytest.approx(200)),
        ("CT", pytest.approx(-480)),  # a scan of nothing but air keeps it
    ]
    assert [scan.channels for scan in prints.scans] == [("MRI",), ("MRI",), ("CT",), ("CT",)]


def test_class_volumes_are_in_millilitres(make_dataset, tmp_path):
    dataset = make_dataset(body((20, 20, 20)), affine=np.diag([2, 2, 5, 1]))
    label = np.zeros((20, 20, 20), np.uint8)
    label[:10, :10, :10] = 1
    nibabel.save(nibabel.Nifti1Image(label, np.diag([2, 2, 5, 1])), tmp_path / "label.nii.gz")
    case = replace(dataset.cases[0], label=tmp_path / "label.nii.gz")
    (scan,) = fingerprint(replace(dataset, cases=(case,)), classes=True).scans
    assert scan.class_ml == {"background": 140, "organ": 20}
    assert fingerprint(replace(dataset, cases=(case,))).scans[0].class_ml is None


def test_labels_are_opened_only_when_class_shares_are_asked_for(make_dataset, tmp_path):
    dataset = make_dataset(body())
    label = np.zeros((12, 10, 8), np.uint8)
    label[:3] = 1
    path = tmp_path / "label.nii.gz"
    case = replace(dataset.cases[0], label=path)
    labelled = replace(dataset, cases=(case,))
    path.write_bytes(b"nothing that could be read")
    assert fingerprint(labelled).scans[0].class_shares is None
    nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), path)
    assert fingerprint(labelled, classes=True).mean_class_shares() == {"background": 0.75, "organ": 0.25}
    assert fingerprint(labelled.hide_labels(0), classes=True).mean_class_shares() == {}


def test_checksums_are_sha256_of_the_image_files(make_dataset):
    dataset = make_dataset(body())
    content = dataset.cases[0].images[0].read_bytes()
    assert fingerprint(dataset).checksums() == {"case0_0000.nii.gz": hashlib.sha256(content).hexdigest()}


def test_workers_change_nothing_and_progress_counts_cases(make_dataset):
    dataset = make_dataset(*(body((12 + index, 10, 8), seed=index) for index in range(5)))
    seen = []
    assert fingerprint(dataset, workers=3, progress=lambda *step: seen.append(step)) == fingerprint(dataset)
    assert seen == [(done, 5) for done in range(1, 6)]


def test_json_gives_back_an_equal_fingerprint(make_dataset, tmp_path):
    prints = fingerprint(make_dataset(body(), body(seed=1)))
    prints.save(tmp_path / "fingerprint.json")
    assert Fingerprint.load(tmp_path / "fingerprint.json") == prints


def test_a_file_that_is_no_fingerprint_is_told_in_one_line(tmp_path):
    (tmp_path / "fingerprint.json").write_text('{"dataset": "x"}')
    with pytest.raises(RunError, match="is no fingerprint") as error:
        Fingerprint.load(tmp_path / "fingerprint.json")
    assert "\n" not in str(error.value)


def test_a_scan_that_cannot_be_read_is_named(make_dataset):
    dataset = make_dataset(body(), body())
    file = dataset.cases[1].images[0]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="case1"):
        fingerprint(dataset)
