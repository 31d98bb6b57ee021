"""A training set for nnU-Net v2, from a run whose weights are random: what is tested is the data set, not the model."""

import csv
import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
import yaml
from benchmarks.turns import has_peers, peers_program
from PIL import Image

import semivox
from semivox.cli import main
from semivox.data.layout import read_dataset, write_description
from semivox.data.phantom import write_phantom
from semivox.errors import DataError, RunError, SemivoxError, SettingError
from semivox.experiments import pseudo_label as module
from semivox.methods.model import save_model
from semivox.preparation.settings import Normalisation
from semivox.training.config import DataSettings
from semivox.training.fit import build, read_data, training_data


@pytest.fixture
def phantom(tmp_path):
    """Four training cases (two with a label), one validation case, one test case."""
    return write_phantom(tmp_path / "data", cases=4, labelled=2, validation=1, test=1, size=(24, 24, 16))


@pytest.fixture
def make_run(make_config, tmp_path):
    """A function (folders of data sets, what else the data settings say) → a run folder with random weights."""

    def make(*folders: Path, dimensions: int = 3, seed: int = 0, **data) -> Path:
        config = make_config("supervised", dimensions=dimensions, seed=seed)
        config = config.model_copy(update={"data": DataSettings(datasets=folders, store=tmp_path / "stores", **data)})
        dataset = training_data(read_data(config.data), config.data.labelled)
        each = config.plan.preparation.model_copy(update={"normalisation": (Normalisation(),) * len(dataset.channels)})
        config = config.model_copy(update={"plan": config.plan.model_copy(update={"preparation": each})})
        method, problem = build(config, dataset)
        run = tmp_path / f"run{seed}"
        run.mkdir()
        config.save(run / "config.yaml")
        facts = {"method": "supervised", "dataset": dataset.name, "step": 0, "selection": "last", "seed": seed}
        facts |= {"scored_split": "test", "precision": "32", "inference": {}, "modalities": dataset.modalities}
        save_model(
            run / "model", method, problem, channels=dataset.channels, file_ending=dataset.file_ending, facts=facts
        )
        return run

    return make


def read(file: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """The values that nnU-Net's own readers give, channels first, and the spacing."""
    if file.name.endswith((".png", ".bmp", ".tif")):
        values = np.asarray(Image.open(file))
        return (values.transpose(2, 0, 1) if values.ndim == 3 else values[None]), (999.0, 1.0, 1.0)
    image = sitk.ReadImage(str(file))
    return sitk.GetArrayFromImage(image)[None], image.GetSpacing()


def check_as_nnunet_does(folder: Path) -> dict[str, np.ndarray]:
    """Asserts what nnU-Net v2's dataset_format.md and ignore_label.md demand; returns case → label."""
    about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    ending = about["file_ending"]
    assert ending in (".nii.gz", ".nrrd", ".mha", ".png", ".bmp", ".tif")
    values = [value for name, value in about["labels"].items() if name != "ignore"]
    singles = sorted({one for value in values for one in (value if isinstance(value, list) else [value])})
    assert about["labels"]["background"] == 0
    assert singles == list(range(len(singles)))
    assert about["labels"].get("ignore", len(singles)) == len(singles)
    images = [path.name.removesuffix(ending) for path in (folder / "imagesTr").iterdir()]
    cases = sorted({name[:-5] for name in images})
    assert sorted(path.name for path in (folder / "labelsTr").iterdir()) == [case + ending for case in cases]
    assert about["numTraining"] == len(cases)
    labels = {}
    for case in cases:
        files = sorted((folder / "imagesTr").glob(f"{case}_[0-9][0-9][0-9][0-9]{ending}"))
        channels = [read(file) for file in files]
        label, spacing = read(folder / "labelsTr" / f"{case}{ending}")
        assert sum(len(values) for values, _ in channels) == len(about["channel_names"])
        for array, own_spacing in channels:
            assert array.shape[1:] == label.shape[1:]
            np.testing.assert_allclose(own_spacing, spacing)
        assert set(np.unique(label)) <= {*singles, about["labels"].get("ignore", 0)}
        labels[case] = label[0]
    return labels


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with open(folder / "labels.csv", encoding="utf-8") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_nnunet_gets_every_training_case_with_a_label_and_hidden_ones_are_never_opened(phantom, make_run, tmp_path):
    run = make_run(phantom.root, labelled=1)
    kept, hidden = phantom.labelled()
    hidden.label.write_bytes(b"nobody may read this")
    for case in phantom.split("test"):
        case.label.write_bytes(b"nor this")
    out = tmp_path / "out"

    made = semivox.pseudo_label(run, phantom.root, out)

    labels = check_as_nnunet_does(out)
    (validation,) = phantom.split("val")
    assert set(labels) == {case.id for case in (*phantom.split("train"), validation)}
    assert [case.id for case in made] == [case.id for case in (*phantom.split("train"), validation)]
    for case in (kept, validation):
        np.testing.assert_array_equal(labels[case.id], sitk.GetArrayFromImage(sitk.ReadImage(str(case.label))))
    predicted = semivox.predict(run, [case.images[0] for case in phantom.unlabelled()], tmp_path / "predicted")
    for file in predicted:
        np.testing.assert_array_equal(labels[file.name.removesuffix(".nii.gz")], read(file)[0][0])
    sources = {case: row["label"] for case, row in rows_of(out).items()}
    assert sources == {case: "true" if case in (kept.id, validation.id) else "pseudo" for case in labels}
    assert json.loads((out / "splits_final.json").read_text()) == [
        {"train": [case.id for case in phantom.split("train")], "val": [validation.id]}
    ]


@pytest.mark.slow
@pytest.mark.skipif(not has_peers(), reason="needs the peers' environment, which `make peers` makes")
@pytest.mark.parametrize("min_confidence", [None, 0.5])
def test_nnunets_own_check_finds_no_fault_in_it(phantom, make_run, tmp_path, min_confidence):
    out = tmp_path / "Dataset501_Phantom"
    semivox.pseudo_label(make_run(phantom.root), phantom.root, out, min_confidence=min_confidence)
    check = "nnunetv2.experiment_planning.verify_dataset_integrity"
    code = f"import sys; from {check} import verify_dataset_integrity as check; check(sys.argv[1], 1)"
    done = subprocess.run([peers_program("python"), "-c", code, str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stdout
    assert "verify_dataset_integrity Done" in done.stdout
    next((out / "labelsTr").iterdir()).unlink()
    broken = subprocess.run([peers_program("python"), "-c", code, str(out)], capture_output=True, text=True)
    assert broken.returncode != 0, "the check itself sees what is missing"


def test_unsure_voxels_become_ignore_and_the_table_says_how_many(phantom, make_run, tmp_path):
    run = make_run(phantom.root)
    case = phantom.unlabelled()[0]
    semivox.predict(run, case.images, tmp_path / "predicted", probabilities=True)
    probabilities = np.load(tmp_path / "predicted" / f"{case.id}_probabilities.npz")["probabilities"].astype(np.float64)
    best, sure = probabilities.argmax(0), probabilities.max(0)
    limit = float(np.median(sure)) + 1e-4  # beside the rounding of float16

    semivox.pseudo_label(run, phantom.root, tmp_path / "out", min_confidence=limit)

    label = check_as_nnunet_does(tmp_path / "out")[case.id].T
    confidence = np.asarray(nib.load(tmp_path / "out" / "confidence" / f"{case.id}.nii.gz").dataobj)
    np.testing.assert_allclose(confidence, sure, atol=1e-3)
    second = np.sort(probabilities, axis=0)[-2]
    clear = (np.abs(sure - limit) > 2e-3) & (sure - second > 2e-3)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(label[clear], np.where(sure < limit, 4, best)[clear])
    row = rows_of(tmp_path / "out")[case.id]
    assert float(row["ignored"]) == pytest.approx(np.mean(label == 4), abs=1e-5)
    assert 0.2 < float(row["ignored"]) < 0.8
    assert float(row["confidence"]) == pytest.approx(sure.mean(), abs=1e-3)
    assert float(row["foreground_confidence"]) == pytest.approx(sure[best > 0].mean(), abs=1e-3)
    voxel_ml = np.prod(nib.load(case.images[0]).header.get_zooms()) / 1000
    for index, name in enumerate(("liver", "kidney", "vessel"), start=1):
        assert int(row[f"voxels/{name}"]) == np.count_nonzero(label == index)
        assert float(row[f"ml/{name}"]) == pytest.approx(np.count_nonzero(label == index) * voxel_ml, rel=1e-4)


@pytest.mark.parametrize("settings", [{"largest_component": True}, {"keep_continuous": True}])
def test_what_postprocessing_removes_is_not_called_sure(phantom, make_run, tmp_path, settings):
    run = make_run(phantom.root)
    case = phantom.unlabelled()[0]
    semivox.pseudo_label(run, phantom.root, tmp_path / "kept", settings=settings)
    semivox.pseudo_label(run, phantom.root, tmp_path / "all")
    kept, whole = (check_as_nnunet_does(tmp_path / name)[case.id].T for name in ("kept", "all"))
    removed = kept != whole
    assert removed.any()
    ours, before = (
        np.asarray(nib.load(tmp_path / name / "confidence" / f"{case.id}.nii.gz").dataobj) for name in ("kept", "all")
    )
    np.testing.assert_allclose(ours, np.where(removed, 1 - before, before), atol=1e-6)


def test_an_interrupted_one_goes_on_and_ends_as_one_that_was_not(phantom, make_run, tmp_path, monkeypatch):
    run, whole, out = make_run(phantom.root), tmp_path / "whole", tmp_path / "out"
    semivox.pseudo_label(run, phantom.root, whole)
    true_predictor = module.mean_predictor

    def interrupted(*arguments):
        predict, calls = true_predictor(*arguments), []

        def once(volume, task):
            calls.append(task)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return predict(volume, task)

        return once

    monkeypatch.setattr(module, "mean_predictor", interrupted)
    assert main(["pseudo-label", str(run), str(phantom.root), "--out", str(out), "--device", "cpu"]) == 130
    assert not (out / "dataset.json").exists()
    done = {path: path.stat().st_mtime_ns for path in (out / "labelsTr").iterdir()}
    assert len(done) == 4
    monkeypatch.setattr(module, "mean_predictor", true_predictor)
    (out / "labelsTr" / ".writing-left").mkdir()

    assert main(["pseudo-label", str(run), str(phantom.root), "--out", str(out), "--device", "cpu"]) == 0

    assert {path: path.stat().st_mtime_ns for path in done} == done
    files = {path.relative_to(whole) for path in whole.rglob("*")}
    assert files == {path.relative_to(out) for path in out.rglob("*")}
    for file in files:
        if file.suffix in (".json", ".csv"):
            assert (out / file).read_bytes() == (whole / file).read_bytes(), file
    whole_labels, labels = check_as_nnunet_does(whole), check_as_nnunet_does(out)
    for case, label in whole_labels.items():
        np.testing.assert_array_equal(labels[case], label)


def test_a_task_that_annotates_some_classes_gets_the_others_from_the_model(phantom, make_run, tmp_path, monkeypatch):
    other = write_phantom(tmp_path / "other", cases=2, labelled=1, test=1, size=(24, 24, 16), seed=3)
    about = json.loads((other.root / "dataset.json").read_text())
    about["labels"] = {"background": 0, "liver": 1, "left": 2, "right": 3}
    about["name"] = "other"
    (other.root / "dataset.json").write_text(json.dumps(about))
    run = make_run(phantom.root, other.root)
    names = ["background", "liver", "kidney", "vessel", "left", "right"]

    def predictor(*arguments):
        def predict(volume, task):
            """Bright: a kidney for sure. Dark: liver before vessel, and where no liver can be a vessel all the less."""
            shares = torch.zeros(6, *volume.shape[1:])
            bright = volume[0] > 0
            shares[2] = torch.where(bright, 0.8, 0.0)
            shares[0] = torch.where(bright, 0.2, 0.0)
            shares[1] = torch.where(bright, 0.0, 0.6)
            shares[3] = torch.where(bright, 0.0, 0.4)
            return shares

        return predict

    monkeypatch.setattr(module, "mean_predictor", predictor)
    semivox.pseudo_label(run, [other.root, phantom.root], tmp_path / "out", min_confidence=0.7)

    labels = check_as_nnunet_does(tmp_path / "out")
    values = json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"]
    assert values == {**{name: value for value, name in enumerate(names)}, "ignore": 6}
    case = other.labelled()[0]
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(case.label)))
    ours = labels[f"other__{case.id}"]
    for name, value in (("liver", 1), ("left", 2), ("right", 3)):
        np.testing.assert_array_equal(ours == values[name], truth == value)
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(case.images[0])))
    bright = image > image.mean()
    np.testing.assert_array_equal(ours == values["kidney"], bright & (truth == 0))
    np.testing.assert_array_equal(ours == values["ignore"], ~bright & (truth == 0))
    row = rows_of(tmp_path / "out")[f"other__{case.id}"]
    assert row["label"] == "completed"
    outside = truth == 0
    assert float(row["confidence"]) == pytest.approx(np.where(bright, 0.8, 0.6)[outside].mean(), rel=1e-4)
    confidence = np.asarray(nib.load(tmp_path / "out" / "confidence" / f"other__{case.id}.nii.gz").dataobj).T
    assert (confidence[truth > 0] == 1).all()


def test_colour_pictures_and_their_labels_share_a_lossless_ending(make_run, tmp_path):
    data = write_phantom(tmp_path / "pictures", cases=3, labelled=1, test=0, dimensions=2, size=(32, 24))
    for case in data:
        grey = Image.open(case.images[0]).convert("L")
        Image.merge("RGB", (grey, grey, grey.point(lambda value: 255 - value))).save(case.images[0])
    data = read_dataset(data.root)
    assert len(data.channels) == 3
    run = make_run(data.root, dimensions=2)
    semivox.pseudo_label(run, data.root, tmp_path / "out")
    labels = check_as_nnunet_does(tmp_path / "out")
    (case,) = data.labelled()
    np.testing.assert_array_equal(labels[case.id], np.asarray(Image.open(case.label)))
    assert "ml/liver" not in rows_of(tmp_path / "out")[case.id]
    assert (tmp_path / "out" / "confidence" / f"{data.unlabelled()[0].id}.tif").exists()


def test_values_are_consecutive_and_several_channels_stay_in_order(phantom, make_run, tmp_path):
    for case in phantom:
        image = nib.load(case.images[0])
        second = Path(str(case.images[0]).replace("_0000", "_0001"))
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1000, image.affine), second)
        if case.label:
            label = nib.load(case.label)
            nib.save(nib.Nifti1Image(np.asarray(label.dataobj).astype(np.int16) * 205, label.affine), case.label)
    about = json.loads((phantom.root / "dataset.json").read_text())
    about["channel_names"] = {"0": "T1", "1": "FLAIR"}
    about["labels"] = {"Background": 0, "liver": 205, "kidney": 410, "vessel": 615}
    (phantom.root / "dataset.json").write_text(json.dumps(about))
    run = make_run(phantom.root)
    semivox.pseudo_label(run, phantom.root, tmp_path / "out", link=True)
    labels = check_as_nnunet_does(tmp_path / "out")
    case = phantom.labelled()[0]
    np.testing.assert_array_equal(
        labels[case.id].astype(int) * 205, sitk.GetArrayFromImage(sitk.ReadImage(str(case.label)))
    )
    placed = tmp_path / "out" / "imagesTr" / f"{case.id}_0001.nii.gz"
    assert placed.is_symlink()
    assert placed.resolve().name == f"{case.id}_0001.nii.gz"
    made = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert list(made["channel_names"].values()) == ["T1", "FLAIR"]


def test_nothing_of_a_patient_is_written_but_the_images_themselves(phantom, make_run, tmp_path):
    table = (phantom.root / "cases.csv").read_text().splitlines()
    table = [f"{table[0]},group", *(f"{row},Doe^Jane-{index}" for index, row in enumerate(table[1:]))]
    (phantom.root / "cases.csv").write_text("\n".join(table))
    for case in phantom.labelled():
        label = nib.load(case.label)
        label.header["descrip"] = b"Doe^Jane"
        nib.save(label, case.label)
    run = make_run(phantom.root)
    semivox.pseudo_label(run, phantom.root, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and path.parent.name != "imagesTr":
            content = path.read_bytes()
            if path.name.endswith(".nii.gz"):
                content = bytes(nib.load(path).header.binaryblock)
            assert b"Doe" not in content, path
            assert str(tmp_path).encode() not in content, path


def test_scans_the_run_never_saw_keep_all_their_labels(phantom, make_run, tmp_path):
    run = make_run(phantom.root, labelled=1)
    site = write_phantom(tmp_path / "site", cases=3, labelled=1, test=0, size=(24, 24, 16), seed=5)
    semivox.pseudo_label(run, site.root, tmp_path / "out")
    sources = [row["label"] for row in rows_of(tmp_path / "out").values()]
    assert sources == ["true", "pseudo", "pseudo"]
    assert len(check_as_nnunet_does(tmp_path / "out")) == 3


def test_a_moved_data_set_is_not_taken_for_another_whose_labels_are_all_to_be_seen(phantom, make_run, tmp_path):
    run = make_run(phantom.root, labelled=1)
    checksums = {
        f"imagesTr/{source.name}": hashlib.sha256(source.read_bytes()).hexdigest()
        for case in phantom.split("train")
        for source in case.images
    }
    (run / "environment.json").write_text(json.dumps({"data": {"image_sha256": checksums}}))
    moved = tmp_path / "moved"
    shutil.copytree(phantom.root, moved)
    with pytest.raises(SettingError, match=r"was trained with this scan.*config\.yaml"):
        semivox.pseudo_label(run, moved, tmp_path / "out")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["datasets"] = [str(moved)]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert len(semivox.pseudo_label(run, moved, tmp_path / "out").cases) == 5


def all_labelled(phantom, run, tmp_path):
    for case in phantom.unlabelled():
        label = phantom.labelled()[0].label
        shutil.copyfile(label, label.with_name(f"{case.id}.nii.gz"))
    return phantom.root, {}


def other_channels(phantom, run, tmp_path):
    site = write_phantom(tmp_path / "site", cases=2, labelled=0, test=0, size=(24, 24, 16))
    write_description(replace(site, channels=("PET",)))
    return site.root, {}


def other_files(phantom, run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").write_text("")
    return phantom.root, {}


def made_otherwise(phantom, run, tmp_path):
    semivox.pseudo_label(run, phantom.root, tmp_path / "out")
    return phantom.root, {"min_confidence": 0.5}


def no_config(phantom, run, tmp_path):
    (run / "config.yaml").unlink()
    return phantom.root, {}


@pytest.mark.parametrize(
    ("arrange", "error", "told"),
    [
        (all_labelled, DataError, "every training case has a label"),
        (other_channels, SettingError, "channels PET.*channel_names"),
        (other_files, SettingError, "holds other files"),
        (made_otherwise, RunError, "another model, other settings"),
        (no_config, RunError, "no config.yaml"),
        (lambda phantom, run, tmp_path: (phantom.root, {"min_confidence": 1.5}), SettingError, "--min-confidence 1.5"),
        (lambda phantom, run, tmp_path: (tmp_path / "none", {}), SemivoxError, "no such folder"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line_before_anything_is_written(
    phantom, make_run, tmp_path, arrange, error, told
):
    run = make_run(phantom.root)
    datasets, options = arrange(phantom, run, tmp_path)
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(error, match=told) as raised:
        semivox.pseudo_label(run, datasets, tmp_path / "out", **options)
    assert "\n" not in str(raised.value)
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_one_of_several_data_sets_a_run_was_trained_on_is_refused(phantom, make_run, tmp_path):
    other = write_phantom(tmp_path / "other", cases=2, labelled=1, test=0, size=(24, 24, 16), seed=3)
    run = make_run(phantom.root, other.root)
    with pytest.raises(SettingError, match="give all of them"):
        semivox.pseudo_label(run, other.root, tmp_path / "out")


def test_a_scan_that_fails_is_named_and_the_rest_is_done(phantom, make_run, tmp_path):
    run = make_run(phantom.root)
    broken = phantom.unlabelled()[0].images[0]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:1000])
    with pytest.raises(DataError, match=phantom.unlabelled()[0].id):
        semivox.pseudo_label(run, phantom.root, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
    broken.write_bytes(whole)
    semivox.pseudo_label(run, phantom.root, tmp_path / "out")
    check_as_nnunet_does(tmp_path / "out")
