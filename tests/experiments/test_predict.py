"""Prediction of scans as users bring them."""

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

import semivox
from semivox.errors import RunError, SettingError
from semivox.experiments.train import keep_model
from semivox.training.fit import fit, read_data, training_data
from semivox.training.run import RunFolder


@pytest.fixture
def make_run(make_config, tmp_path):
    """A function seed → a trained run."""

    def make(seed: int = 0) -> RunFolder:
        run, config = RunFolder(tmp_path / f"run{seed}"), make_config("supervised", iterations=3, seed=seed)
        run.create()
        fit(config, run)
        keep_model(run, config, training_data(read_data(config.data), None))
        return run

    return make


@pytest.fixture
def scan(phantom) -> nib.Nifti1Image:
    return nib.load(phantom.split("test")[0].images[0])


def rotated(affine: np.ndarray) -> np.ndarray:
    """`affine` turned by some degrees about each axis, and moved."""
    oblique = affine.copy()
    for (first, second), angle in zip(((0, 1), (1, 2), (0, 2)), (0.3, -0.4, 0.5), strict=True):
        turn = np.eye(3)
        turn[[first, second, first, second], [first, second, second, first]] = [
            *(np.cos(angle), np.cos(angle)),
            *(-np.sin(angle), np.sin(angle)),
        ]
        oblique[:3, :3] = turn @ oblique[:3, :3]
    oblique[:3, 3] = -33.25, 21.5, 101.125
    return oblique


def test_predictions_lie_on_the_scans_own_grid_in_every_orientation(make_run, scan, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    orientations = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
    for index, (axes, flips) in enumerate(orientations[::5]):
        nib.save(scan.as_reoriented(np.array([*zip(axes, flips, strict=True)])), folder / f"turned{index}.nii.gz")
    voxels = np.asarray(scan.dataobj)
    nib.save(nib.Nifti1Image(voxels, rotated(scan.affine)), folder / "oblique.nii.gz")
    nib.save(nib.Nifti1Image(voxels[:9, :7, :5], scan.affine), folder / "smaller_than_the_patch.nii.gz")
    nib.save(nib.Nifti1Image(voxels[:, :, 8:9], scan.affine), folder / "one_slice.nii.gz")

    predicted = {path.name: nib.load(path) for path in semivox.predict(make_run().path, folder, tmp_path / "out")}

    for path in folder.iterdir():
        own = nib.load(path)
        assert predicted[path.name].shape == own.shape, path.name
        assert np.array_equal(predicted[path.name].affine, own.affine), path.name
    turned = [nib.as_closest_canonical(found) for name, found in predicted.items() if name.startswith("turned")]
    assert len(turned) == 10
    assert len(np.unique(turned[0].dataobj)) > 1
    assert all(np.array_equal(found.dataobj, turned[0].dataobj) for found in turned)


def write_series(folder: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    """A DICOM series of `voxels` (X, Y, Z) on the RAS `affine`; the order of the files is not that of the slices."""
    folder.mkdir()
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for number, k in enumerate(np.random.default_rng(0).permutation(voxels.shape[2])):
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        content = pydicom.Dataset()
        content.file_meta = meta
        content.SOPClassUID, content.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        content.SeriesInstanceUID, content.StudyInstanceUID, content.FrameOfReferenceUID = series, study, frame
        content.Modality, content.InstanceNumber, content.SliceThickness = "MR", number + 1, float(f"{spacing[2]:.8f}")
        content.ImagePositionPatient = [float(f"{mm:.8f}") for mm in lps[:3, 3] + k * lps[:3, 2]]
        content.ImageOrientationPatient = [float(f"{c:.8f}") for c in (lps[:3, :2] / spacing[:2]).T.ravel()]
        content.PixelSpacing = [float(f"{spacing[1]:.8f}"), float(f"{spacing[0]:.8f}")]
        rows = np.ascontiguousarray(voxels[:, :, k].T.astype(np.int16))
        content.Rows, content.Columns = rows.shape
        content.SamplesPerPixel, content.PhotometricInterpretation = 1, "MONOCHROME2"
        content.BitsAllocated, content.BitsStored, content.HighBit, content.PixelRepresentation = 16, 16, 15, 1
        content.PixelData = rows.tobytes()
        content.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)


def test_a_dicom_series_is_predicted_as_the_same_scan_in_nifti(make_run, scan, tmp_path):
    affine, voxels = rotated(scan.affine), np.asarray(scan.dataobj)
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "nifti.nii.gz")
    write_series(tmp_path / "series", voxels, affine)
    paths = [tmp_path / "nifti.nii.gz", tmp_path / "series"]
    nifti, series = (
        nib.as_closest_canonical(nib.load(path)) for path in semivox.predict(make_run().path, paths, tmp_path / "out")
    )
    np.testing.assert_allclose(series.affine, nifti.affine, atol=1e-5)
    assert np.array_equal(series.dataobj, nifti.dataobj)


def test_what_is_done_is_skipped_and_never_mixed_with_other_weights_or_settings(make_run, phantom, tmp_path):
    run, other = make_run(0), make_run(1)
    scans, out = phantom.root / "imagesTs", tmp_path / "out"
    written = semivox.predict(run.path, scans, out)
    before = [path.stat().st_mtime_ns for path in written]
    assert semivox.predict(run.path, scans, out, settings={"batch": 1}) == written
    assert [path.stat().st_mtime_ns for path in written] == before
    for changes in ({"settings": {"flips": [0]}}, {"ensemble": [other.path]}):
        with pytest.raises(RunError, match="another model or setting"):
            semivox.predict(run.path, scans, out, **changes)
    with pytest.raises(RunError, match="another model or setting"):
        semivox.predict(other.path, scans, out)


def test_an_ensemble_averages_the_probabilities_of_its_runs(make_run, phantom, tmp_path):
    first, second = make_run(0), make_run(1)
    image = phantom.split("test")[0].images[0]

    def probabilities(name: str, run: RunFolder, **arguments) -> np.ndarray:
        (label,) = semivox.predict(run.path, image, tmp_path / name, probabilities=True, **arguments)
        return np.load(label.with_name(f"{phantom.split('test')[0].id}_probabilities.npz"))["probabilities"]

    both = probabilities("both", first, ensemble=[second.path]).astype(np.float32)
    mean = (probabilities("one", first).astype(np.float32) + probabilities("two", second)) / 2
    np.testing.assert_allclose(both, mean, atol=2e-3)
    assert np.abs(both - probabilities("one", first)).max() > 0.01


def test_flips_uncertainty_and_largest_component_leave_whole_files(make_run, phantom, tmp_path):
    settings = {"flips": [0, 1], "uncertainty": True, "largest_component": True}
    written = semivox.predict(make_run().path, phantom.root / "imagesTs", tmp_path / "out", settings=settings)
    for path in written:
        entropy = nib.load(path.with_name(path.name.replace(".nii.gz", "_uncertainty.nii.gz")))
        values = np.asarray(entropy.dataobj)
        assert entropy.shape == nib.load(path).shape
        assert values.min() >= 0
        assert 0 < values.max() <= 1
    with pytest.raises(SettingError, match="a patch has no axis 5"):
        semivox.predict(tmp_path / "run0", phantom.root / "imagesTs", tmp_path / "other", settings={"flips": [5]})


def test_a_task_leaves_the_classes_of_others_out(make_run, phantom, tmp_path):
    run = make_run()
    description = json.loads((run.model / "model.json").read_text(encoding="utf-8"))
    description["tasks"] = {"first": phantom.labels.foreground[:1], "rest": phantom.labels.foreground[1:]}
    (run.model / "model.json").write_text(json.dumps(description), encoding="utf-8")

    def predicted(task: str | None) -> tuple[np.ndarray, np.ndarray]:
        case = phantom.split("test")[0]
        out = tmp_path / str(task)
        (label,) = semivox.predict(run.path, case.images[0], out, task=task, probabilities=True)
        probabilities = np.load(out / f"{case.id}_probabilities.npz")["probabilities"]
        return np.asarray(nib.load(label).dataobj), probabilities.astype(np.float32)

    (whole, of_all), (rest, of_rest) = predicted(None), predicted("rest")
    assert 1 in whole
    assert 1 not in rest
    np.testing.assert_allclose(of_rest[0], of_all[0] + of_all[1], atol=2e-3)
    assert not of_rest[1].any()
    assert np.array_equal(of_rest[2:], of_all[2:])
    told = json.loads((tmp_path / "rest" / "prediction.json").read_text(encoding="utf-8"))
    assert list(told["labels"]) == ["background", *phantom.labels.foreground[1:]]
    with pytest.raises(SettingError, match="unknown task 'frist'; did you mean 'first'"):
        predicted("frist")
