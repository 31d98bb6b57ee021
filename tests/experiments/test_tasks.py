"""Runs over two data sets, CT and MR, each labelled for organs of its own."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

import semivox
from semivox.errors import DataError, SettingError
from semivox.methods.model import load_model
from semivox.preparation.settings import Normalisation
from semivox.reporting.report import write_report
from semivox.training.run import RunFolder

OTHER_NAMES = {"liver": "spleen", "kidney": "pancreas", "vessel": "aorta"}
WINDOW = Normalisation(kind="ct", low=0.0, high=60.0, mean=20.0, deviation=15.0)


@pytest.fixture(scope="module")
def sets(phantom, tmp_path_factory):
    """The phantom called MRI, and again as CT with other names of its organs."""
    roots = {}
    for name, channel in (("mr", "MRI"), ("ct", "CT")):
        root = roots[name] = tmp_path_factory.mktemp("sets") / name
        shutil.copytree(phantom.root, root)
        content = json.loads((root / "dataset.json").read_text())
        labels = {(OTHER_NAMES.get(key, key) if name == "ct" else key): v for key, v in content["labels"].items()}
        changes = {"name": name, "channel_names": {"0": channel}, "labels": labels}
        (root / "dataset.json").write_text(json.dumps(content | changes))
    return roots


@pytest.fixture
def train(sets, make_config, tmp_path):
    """A function (*sets, **arguments) → the run folder of a training of three steps."""
    plan = make_config().plan
    preparation = plan.preparation.model_copy(update={"modalities": {"CT": (WINDOW,)}})
    plan.model_copy(update={"preparation": preparation}).save(tmp_path / "plan.yaml")

    def run(*names: str, method: str = "mean_teacher", out: str = "run", **arguments) -> RunFolder:
        defaults = {"plan": tmp_path / "plan.yaml", "iterations": 3, "device": "cpu", "precision": "32"}
        folders = [sets[name] for name in names or ("mr", "ct")]
        return RunFolder(semivox.train(folders, method, out=tmp_path / out, **{**defaults, **arguments}))

    return run


def content_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


def classes_in(path):
    return set(np.unique(np.asarray(nib.load(path).dataobj)).tolist())


def test_test_cases_are_predicted_for_their_own_task_and_one_of_each_for_all(train, capsys):
    run = train(labelled=1, settings=["training.balance={tasks: true, classes: true}"])
    told = capsys.readouterr().err
    assert "mr (liver, kidney and vessel: 1 labelled, 5 unlabelled), ct (spleen, pancreas and aorta: 1 lab" in told
    about = content_of(run.predictions / "prediction.json")
    assert about["task"] == {f"{name}__phantom_00{place}": name for name in ("mr", "ct") for place in (7, 8)}
    assert about["modality"] == {
        case: task.replace("mr", "MRI").replace("ct", "CT") for case, task in about["task"].items()
    }
    assert list(about["labels"]) == ["background", "liver", "kidney", "vessel", "spleen", "pancreas", "aorta"]
    for case, task in about["task"].items():
        own = {"mr": {0, 1, 2, 3}, "ct": {0, 4, 5, 6}}[task]
        assert classes_in(run.predictions / f"{case}.nii.gz") <= own
    crossed = content_of(run.all_classes / "prediction.json")
    assert (crossed["task"], len(list(run.all_classes.glob("*.nii.gz")))) == ("default", 2)
    metrics = content_of(run.metrics)
    assert {task: set(summary) - {"mean"} for task, summary in metrics["tasks"].items()} == {
        "mr": {"liver", "kidney", "vessel"},
        "ct": {"spleen", "pancreas", "aorta"},
    }
    page = write_report(run.path).read_text(encoding="utf-8")
    assert page.count("<h3>Task ") == 2
    assert "Mean over tasks" in page
    assert "ct, annotated for spleen, pancreas and aorta" in page

    before = (run.predictions / "prediction.json").stat().st_mtime_ns
    shutil.rmtree(run.all_classes)
    semivox.resume(run.path)  # what is there is taken for what it is, what is gone is made again
    assert len(list(run.all_classes.glob("*.nii.gz"))) == 2
    assert (run.predictions / "prediction.json").stat().st_mtime_ns >= before


def test_a_new_scan_is_prepared_as_its_task_or_modality_says(train, sets, tmp_path):
    run = train(method="supervised")
    (stored,) = run.path.parent.glob("stores/*")
    assert {folder.name.partition("-")[2] != "" for folder in stored.glob("images*")} == {True, False}
    scan = sets["ct"] / "imagesTs" / "phantom_007_0000.nii.gz"

    def predicted(name: str, **arguments) -> np.ndarray:
        (label,) = semivox.predict(run.path, scan, tmp_path / name, probabilities=True, **arguments)
        return np.load(label.with_name("phantom_007_probabilities.npz"))["probabilities"]

    with pytest.raises(SettingError) as error:
        predicted("unsaid")
    assert "trained on MRI, CT, which are prepared differently; say" in str(error.value)
    assert "--task: mr (MRI), ct (CT)" in str(error.value)
    assert not (tmp_path / "unsaid").exists()
    with pytest.raises(SettingError, match="unknown modality 'PET'; there are: CT, MRI"):
        predicted("unknown", modality="PET")
    with pytest.raises(SettingError, match="unknown task 'cct'; did you mean 'ct'"):
        predicted("unknown", task="cct")

    as_ct, of_ct, as_mr = predicted("a", modality="CT"), predicted("b", task="ct"), predicted("c", modality="MRI")
    assert np.array_equal(of_ct[4:], as_ct[4:])
    assert not of_ct[1:4].any()
    assert not np.allclose(as_ct, as_mr)
    assert content_of(tmp_path / "b" / "prediction.json")["modality"] == "CT"
    own = nib.load(run.predictions / "ct__phantom_007.nii.gz")
    assert np.array_equal(np.asarray(own.dataobj), np.asarray(nib.load(tmp_path / "b" / "phantom_007.nii.gz").dataobj))


def test_a_model_of_one_modality_asks_for_none(train, sets, tmp_path, capsys):
    train("mr", method="supervised", out="mr", test=False)
    assert "plan: no scan is of the modality 'CT' that it names; there are: MRI" in capsys.readouterr().err
    run = train("ct", method="supervised")  # its plan is one of CT and MRI
    assert "no scan is of" not in capsys.readouterr().err
    assert load_model(run.path).facts["modalities"] == {"default": ["CT"]}
    scan = sets["ct"] / "imagesTs" / "phantom_007_0000.nii.gz"
    (label,) = semivox.predict(run.path, scan, tmp_path / "out")
    own = nib.load(run.predictions / "phantom_007.nii.gz")
    assert np.array_equal(np.asarray(own.dataobj), np.asarray(nib.load(label).dataobj))
    assert content_of(tmp_path / "out" / "prediction.json")["modality"] == "CT"


def test_each_class_of_a_task_gets_a_folder_that_can_be_scored(train, sets, tmp_path):
    run = train(method="supervised")
    scans, out = sets["mr"] / "imagesTs", tmp_path / "out"
    semivox.predict(run.path, scans, out, task="mr", each_class=True)
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["kidney", "liver", "vessel"]
    for case in ("phantom_007", "phantom_008"):
        whole = np.asarray(nib.load(out / f"{case}.nii.gz").dataobj)
        for value, name in enumerate(("liver", "kidney", "vessel"), 1):
            assert np.array_equal(np.asarray(nib.load(out / name / f"{case}.nii.gz").dataobj), whole == value)
    alone, joint = (semivox.evaluate(folder, sets["mr"] / "labelsTs") for folder in (out / "kidney", out))
    assert alone["summary"]["kidney"] == joint["summary"]["kidney"]
    assert set(alone["summary"]) == {"kidney", "mean"}

    everything = tmp_path / "everything"
    semivox.predict(run.path, scans, everything, modality="MRI", each_class=True)
    assert len([path for path in everything.iterdir() if path.is_dir()]) == 6


def named(root, names) -> None:
    """Declares the labels of a data set under other names."""
    content = content_of(root / "dataset.json")
    content["labels"] = {names.get(name, name): value for name, value in content["labels"].items()}
    (root / "dataset.json").write_text(json.dumps(content))


@pytest.fixture
def own_sets(sets, tmp_path):
    """The two sets, free to be changed."""
    for name in sets:
        shutil.copytree(sets[name], tmp_path / "own" / name)
    return {name: tmp_path / "own" / name for name in sets}


def labelled_in(root):
    return semivox.read_dataset(root).labelled()


def told_of(train, folders, capsys, monkeypatch, sets, **arguments) -> str:
    for name in sets:
        monkeypatch.setitem(sets, name, folders[name])
    train(test=False, **arguments)
    return capsys.readouterr().err


def test_one_name_for_organs_of_different_size_is_told_by_training_labels_alone(
    train, sets, own_sets, capsys, monkeypatch
):
    # What one set calls liver is a bit of a vessel in the other; whoever opens a label that is hidden fails.
    named(own_sets["ct"], {"aorta": "liver"})
    shown, hidden = (own_sets["ct"] / "labelsTr" / f"{case.id}.nii.gz" for case in labelled_in(own_sets["ct"]))
    label = nib.load(shown)
    array = np.asarray(label.dataobj).copy()
    array.flat[np.flatnonzero(array == 3)[2:]] = 0
    nib.save(nib.Nifti1Image(array, label.affine), shown)
    hidden.write_bytes(b"hidden")
    told = told_of(train, own_sets, capsys, monkeypatch, sets, labelled=1)
    assert "class 'liver' is" in told
    assert "ml in ct; if it means something else there, name it apart in dataset.json" in told
    assert told.count("name it apart") == 1


def test_tasks_that_lack_one_side_are_told(train, sets, own_sets, capsys, monkeypatch):
    table = own_sets["mr"] / "cases.csv"
    rows = table.read_text().splitlines()
    for case in semivox.read_dataset(own_sets["mr"]).unlabelled():
        case.images[0].unlink()
        rows = [row for row in rows if case.id not in row]
    table.write_text("\n".join(rows))
    told = told_of(train, own_sets, capsys, monkeypatch, sets)
    assert "task mr has no unlabelled case: it is trained on its 2 labelled ones alone" in told


def test_a_task_whose_classes_nobody_labels_is_refused_with_its_name(train, sets, own_sets, capsys, monkeypatch):
    shutil.rmtree(own_sets["ct"] / "labelsTr")
    with pytest.raises(DataError, match=r"^class 'spleen' of task ct is in none of the \d labelled training cases"):
        told_of(train, own_sets, capsys, monkeypatch, sets)
