import threading
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from semivox.data.labels import LabelMap
from semivox.errors import DataError, RunError
from semivox.inference import pipeline
from semivox.inference.inputs import Input
from semivox.inference.pipeline import Outputs, folder_names, predict_cases
from semivox.preparation.settings import Normalisation, Preparation

LABELS = LabelMap(("background", "organ"), (0, 7))
PREPARATION = Preparation(crop="none", resample="none", normalisation=(Normalisation(kind="none"),))
AFFINE = np.diag([-2.0, 1.0, 3.0, 1.0])


def bright(volume, task):
    """Probability 0.9 of the organ where the scan is above 100."""
    organ = torch.where(volume[0] > 100, 0.9, 0.1)
    return torch.stack([1 - organ, organ])


@pytest.fixture
def scans(tmp_path):
    """Three scans with a bright box each; case → where the box is."""
    inputs, masks = [], {}
    for index, case in enumerate(["a", "b", "c"]):
        array = np.zeros((10, 9, 8), np.int16)
        array[2 : 4 + index, 3:6, 1:5] = 200
        path = tmp_path / f"{case}_0000.nii.gz"
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)
        inputs.append(Input(case, (path,)))
        masks[case] = array > 100
    return inputs, masks


def run(inputs, folder, function=bright, **options):
    return predict_cases(inputs, function, PREPARATION, ["MRI"], LABELS, Outputs(folder, **options))


def test_predictions_lie_on_the_scans_own_grid_with_the_labels_file_values(scans, tmp_path):
    inputs, masks = scans
    files = run(inputs, tmp_path / "out")
    assert [file.name for file in files] == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    for file, mask in zip(files, masks.values(), strict=True):
        image = nibabel.load(file)
        np.testing.assert_array_equal(np.asarray(image.dataobj), 7 * mask)
        np.testing.assert_array_equal(image.affine, AFFINE)


def test_uncertainty_and_probabilities_are_written_on_demand(scans, tmp_path):
    inputs, masks = scans
    run(inputs[:1], tmp_path / "out", uncertainty=True, probabilities=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.nii.gz",
        "a_probabilities.npz",
        "a_uncertainty.nii.gz",
    ]
    entropy = np.asarray(nibabel.load(tmp_path / "out" / "a_uncertainty.nii.gz").dataobj)
    np.testing.assert_allclose(entropy, -(0.9 * np.log2(0.9) + 0.1 * np.log2(0.1)), atol=1e-5)
    probabilities = np.load(tmp_path / "out" / "a_probabilities.npz")["probabilities"]
    assert probabilities.dtype == np.float16
    np.testing.assert_allclose(probabilities[1], np.where(masks["a"], 0.9, 0.1), atol=1e-3)


def test_each_class_is_written_alone_on_the_scans_own_grid(scans, tmp_path):
    inputs, masks = scans
    folders = {"organ": "or_gan"}
    files = run(inputs, tmp_path / "out", class_folders=folders)
    for file, mask in zip(files, masks.values(), strict=True):
        alone = nibabel.load(tmp_path / "out" / "or_gan" / file.name)
        np.testing.assert_array_equal(np.asarray(alone.dataobj), mask)
        np.testing.assert_array_equal(alone.affine, AFFINE)
        assert alone.get_data_dtype() == np.uint8


def test_a_class_file_that_is_missing_is_made_again_and_no_other(scans, tmp_path):
    inputs, _ = scans
    run(inputs, tmp_path / "out", class_folders={"organ": "organ"})
    (tmp_path / "out" / "organ" / "b.nii.gz").unlink()
    calls = []
    run(inputs, tmp_path / "out", lambda *given: calls.append(1) or bright(*given), class_folders={"organ": "organ"})
    assert len(calls) == 1
    assert (tmp_path / "out" / "organ" / "b.nii.gz").exists()


def test_each_scan_is_prepared_by_its_modality_and_predicted_for_its_task(scans, tmp_path):
    inputs, _ = scans
    halved = (Normalisation(kind="range", low=0, high=400),)
    plan = PREPARATION.model_copy(update={"modalities": {"CT": halved}})
    inputs = [replace(inputs[0], modality="CT", task="p"), replace(inputs[1], modality="MRI", task="q")]
    seen = {}

    def note(volume, task):
        seen[task] = float(volume.max())
        return bright(volume, task)

    predict_cases(inputs, note, plan, ["CT / MRI"], LABELS, Outputs(tmp_path / "out"))
    assert seen == {"p": 0.5, "q": 200.0}


def test_folders_of_classes_are_safe_and_never_shared():
    names = ["LV", "lv", "left atrium", "left/atrium", "..", "", "x" * 300, "œsophage", "<b>"]
    folders = folder_names(names)
    assert list(folders) == names
    assert len({folder.casefold() for folder in folders.values()}) == len(names)
    assert all(folder and len(folder) < 70 and not set(folder) & set("./\\<> ") for folder in folders.values())
    assert (folders["LV"], folders["œsophage"]) == ("LV", "œsophage")


def test_probabilities_outside_the_crop_say_background(scans, tmp_path):
    inputs, masks = scans
    preparation = PREPARATION.model_copy(update={"crop": "body"})
    predict_cases(inputs[:1], bright, preparation, ["MRI"], LABELS, Outputs(tmp_path / "out", probabilities=True))
    probabilities = np.load(tmp_path / "out" / "a_probabilities.npz")["probabilities"]
    assert probabilities.shape == (2, 10, 9, 8)
    np.testing.assert_array_equal(probabilities[0][~masks["a"]], 1)
    np.testing.assert_array_equal(probabilities[1][~masks["a"]], 0)


def test_the_largest_component_is_kept_on_demand(tmp_path):
    array = np.zeros((10, 9, 8), np.int16)
    array[1:5, 1:5, 1:5] = array[8, 8, 7] = 200
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), tmp_path / "a.nii.gz")
    run([Input("a", (tmp_path / "a.nii.gz",))], tmp_path / "out", largest_component=True)
    array[8, 8, 7] = 0
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "out" / "a.nii.gz").dataobj), 7 * (array > 0))


def test_only_what_continues_over_slices_is_kept_on_demand(tmp_path):
    affine = AFFINE.copy()
    affine[:3, :3] = np.diag([1.0, 5.0, 1.0])  # slices across the second axis
    array = np.zeros((10, 9, 8), np.int16)
    array[1:5, 2:5, 1:5] = array[7:9, 7, 5:7] = array[0, 6:8, 0] = 200
    array[1:5, 4, 7], array[1:5, 6, 7] = 200, 200  # a gap of one slice
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "a.nii.gz")
    item = Input("a", (tmp_path / "a.nii.gz",))
    run([item], tmp_path / "out", keep_continuous=True)
    array[7:9, 7, 5:7] = 0
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "out" / "a.nii.gz").dataobj), 7 * (array > 0))
    run([item], tmp_path / "both", keep_continuous=True, largest_component=True)
    array[0, 6:8, 0] = array[1:5, 4, 7] = array[1:5, 6, 7] = 0
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "both" / "a.nii.gz").dataobj), 7 * (array > 0))


def test_a_case_that_is_done_is_not_computed_again(scans, tmp_path):
    inputs, _ = scans
    run(inputs[:2], tmp_path / "out")
    calls = []
    files = run(inputs, tmp_path / "out", function=lambda *given: calls.append(1) or bright(*given))
    assert len(calls) == 1
    assert len(files) == 3
    run(inputs, tmp_path / "out", function=lambda *given: calls.append(1) or bright(*given), uncertainty=True)
    assert len(calls) == 4, "a further output makes the case anew"


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_fault_in_one_case_names_it_and_does_not_stop_the_others(scans, tmp_path, broken):
    inputs, masks = scans
    case, (file,) = inputs[broken].case, inputs[broken].files
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match=rf"1 of 3 cases failed: case {case}: .*{file.name}") as error:
        run(inputs, tmp_path / "out")
    assert "\n" not in str(error.value)
    made = sorted(path.name.removesuffix(".nii.gz") for path in (tmp_path / "out").iterdir())
    assert made == sorted({*masks} - {case})


def test_out_of_memory_is_told_as_such_and_a_defect_of_ours_is_not_swallowed(scans, tmp_path):
    inputs, _ = scans

    def out_of_memory(volume, task):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    def defect(volume, task):
        raise RuntimeError("shapes differ")

    with pytest.raises(DataError, match=r"3 of 3 cases failed: case a: .*out of memory"):
        run(inputs, tmp_path / "out", function=out_of_memory)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(inputs, tmp_path / "out", function=defect)


def test_the_next_scan_is_read_while_one_is_computed(scans, tmp_path, monkeypatch):
    inputs, _ = scans
    read = {item.case: threading.Event() for item in inputs}
    real = pipeline.read_image

    def reading(case, dataset):
        read[case.id].set()
        return real(case, dataset)

    monkeypatch.setattr(pipeline, "read_image", reading)
    followers = iter(["b", "c", None])

    def waits_for_the_next(volume, task):
        follower = next(followers)
        assert follower is None or read[follower].wait(timeout=10)
        return bright(volume, task)

    run(inputs, tmp_path / "out", function=waits_for_the_next)


def test_a_large_scan_has_the_memory_to_itself(scans, tmp_path, monkeypatch):
    inputs, _ = scans
    monkeypatch.setattr(pipeline, "ALONE_ABOVE_BYTES", 0)
    events = []
    real_read, real_write = pipeline.read_image, pipeline.write_label
    monkeypatch.setattr(pipeline, "read_image", lambda *a: events.append("read") or real_read(*a))
    monkeypatch.setattr(pipeline, "write_label", lambda *a: real_write(*a) or events.append("written"))
    run(inputs, tmp_path / "out")
    assert events == ["read", "written"] * 3


def test_progress_counts_cases(scans, tmp_path):
    inputs, _ = scans
    seen = []
    outputs = Outputs(tmp_path / "out")
    predict_cases(
        inputs, bright, PREPARATION, ["MRI"], LABELS, outputs, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_folder_that_cannot_be_written_is_refused_before_any_scan_is_computed(scans, tmp_path):
    inputs, _ = scans
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(RunError, match="cannot be written to"):
        run(inputs, tmp_path / "out", function=None)
