"""Wrong input, through the command line as a user meets it: one line that says what, where and how to mend it.

Whatever is wrong, nothing half-written stays, and the command that failed can be repeated once the fault is mended.
"""

import fcntl
import gzip
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from semivox.cli import main
from semivox.data.case import Dataset

IMAGE, LABEL = "imagesTr/phantom_000_0000.nii.gz", "labelsTr/phantom_000.nii.gz"
UNLABELLED = "imagesTr/phantom_003_0000.nii.gz"
TEST_IMAGE, TEST_LABEL = "imagesTs/phantom_007_0000.nii.gz", "labelsTs/phantom_007.nii.gz"
TRAIN = ("train", "data", "--plan", "plan.yaml", "--device", "cpu", "--precision", "32")

PLAN = """
preparation: {resample: none, normalisation: [{kind: zscore}]}
patch: [16, 16, 12]
batch: {labelled: 2, unlabelled: 2}
network: {name: vnet, settings: {width: 4, levels: 2, norm: group}}
"""


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int
    out: str
    lines: list[str]
    """Of stderr, without blank ones."""


@pytest.fixture
def semivox(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Answer(code, captured.out, [line for line in captured.err.splitlines() if line.strip()])

    return call


@pytest.fixture(scope="module")
def trained(phantom: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, `plan.yaml` and `run`, two steps of training long."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(phantom.root, folder / "data")
    (folder / "plan.yaml").write_text(PLAN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*TRAIN, "--iterations", "2", "--out", "run"]) == 0
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `trained` to spoil, as the working directory; its run refers to its own data."""
    folder = tmp_path / "here"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    edit_config(lambda config: config["data"].update(datasets=[str(folder / "data")], store=str(folder / "stores")))
    return folder


def edit_config(change: Callable[[dict[str, Any]], object]) -> None:
    path = Path("run/config.yaml")
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def edit_model(change: Callable[[dict[str, Any]], object]) -> None:
    path = Path("run/model/model.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def cut(path: str, share: float = 0.5) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(len(content) * share)])


def with_values(path: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    scan = nib.load(path)
    array = change(np.asarray(scan.dataobj))
    nib.save(nib.Nifti1Image(array, scan.affine, dtype=array.dtype), path)


def shrink(*paths: str) -> None:
    for path in paths:
        with_values(path, lambda array: array[8:13, 8:12, 6:9])


def with_affine(path: str, *scales: float) -> None:
    scan = nib.load(path)
    affine = scan.affine @ np.diag([*scales, 1.0])
    nib.save(nib.Nifti1Image(np.asarray(scan.dataobj), affine), path)


def with_header(path: str, place: slice, content: bytes) -> None:
    """Writes into the header of a .nii.gz what nibabel would refuse to write."""
    scan = bytearray(gzip.decompress(Path(path).read_bytes()))
    scan[place] = content
    Path(path).write_bytes(gzip.compress(bytes(scan)))


def with_nan(array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float32)
    array[3, 3, 3] = np.nan
    return array


def replace_by_dead_link(path: str) -> None:
    Path(path).unlink()
    Path(path).symlink_to("nowhere.nii.gz")


def one_patient(*cases: str) -> None:
    table = Path("data/cases.csv")
    head, *rows = table.read_text().splitlines()
    rows = [f"{row},{'p' if row.split(',')[0] in cases else ''}" for row in rows]
    table.write_text("\n".join([f"{head},group", *rows]))


# --- faults in the data: `inspect` lists them, `train` refuses ------------------------------------------------------

DATA: dict[str, tuple[Callable[[], object], str, str]] = {
    "truncated": (lambda: cut(f"data/{IMAGE}"), IMAGE, "truncated"),
    "zero bytes": (lambda: cut(f"data/{UNLABELLED}", 0), UNLABELLED, "is empty (0 bytes)"),
    "not a NIfTI": (lambda: Path(f"data/{IMAGE}").write_text("x" * 999), IMAGE, "is not a valid NIfTI"),
    "fewer voxels than declared": (
        lambda: Path(f"data/{IMAGE}").write_bytes(
            gzip.compress(gzip.decompress(Path(f"data/{IMAGE}").read_bytes())[:2000])
        ),
        IMAGE,
        "could the file be damaged",
    ),
    "more voxels than memory": (
        lambda: with_header(f"data/{IMAGE}", slice(42, 48), (30000).to_bytes(2, "little") * 3),
        IMAGE,
        "more voxels than memory can hold",
    ),
    "four axes": (lambda: with_values(f"data/{IMAGE}", lambda array: np.stack([array] * 2, 3)), IMAGE, "has 4 axes"),
    "another shape": (lambda: with_values(f"data/{LABEL}", lambda array: array[:-1]), LABEL, "label has shape"),
    "another spacing": (lambda: with_affine(f"data/{LABEL}", 1, 1, 1.5), LABEL, "label has spacing"),
    "another orientation": (lambda: with_affine(f"data/{LABEL}", -1, 1, 1), LABEL, "label has orientation"),
    "undeclared values": (lambda: with_values(f"data/{LABEL}", lambda array: array * 7), LABEL, "undeclared values 7"),
    "NaN": (lambda: with_values(f"data/{UNLABELLED}", with_nan), UNLABELLED, "NaN or infinite"),
    "constant": (lambda: with_values(f"data/{IMAGE}", np.ones_like), IMAGE, "is constant"),
    "overflow": (
        lambda: with_header(f"data/{IMAGE}", slice(112, 116), np.float32(3e38).tobytes()),
        IMAGE,
        "overflows float32",
    ),
    "label without image": (
        lambda: shutil.copy(f"data/{LABEL}", "data/labelsTr/z.nii.gz"),
        "labelsTr/z.nii.gz",
        "has no image",
    ),
    "missing channel": (
        lambda: Path(f"data/{UNLABELLED}").rename("data/imagesTr/phantom_003_0001.nii.gz"),
        "imagesTr/phantom_003_0001.nii.gz",
        "channel 0000 is missing",
    ),
    "duplicate id": (
        lambda: shutil.copy(f"data/{IMAGE}", f"data/{IMAGE}".replace("Tr", "Ts")),
        IMAGE.replace("Tr", "Ts"),
        "the id of another case",
    ),
    "patient in train and test": (lambda: one_patient("phantom_000", "phantom_007"), "cases.csv", "patient p is in"),
    "dead link to a label": (lambda: replace_by_dead_link(f"data/{LABEL}"), LABEL, "a link that leads nowhere"),
    "dead link to a scan": (lambda: replace_by_dead_link(f"data/{UNLABELLED}"), UNLABELLED, "that leads nowhere"),
    "folder named like a label": (
        lambda: [Path(f"data/{LABEL}").unlink(), Path(f"data/{LABEL}").mkdir()],
        LABEL,
        "is a folder, not a file",
    ),
    "broken test label": (lambda: cut(f"data/{TEST_LABEL}"), TEST_LABEL, "truncated"),
}


@pytest.mark.parametrize("name", DATA)
def test_a_fault_in_the_data_is_one_line_and_leaves_no_run(here: Path, semivox: Callable[..., Answer], name: str):
    spoil, file, what = DATA[name]
    spoil()
    listed = semivox("inspect", "data")
    assert listed.code == 2
    assert what.split()[0] in listed.out
    assert "1 error" in listed.out
    refused = semivox(*TRAIN, "--iterations", 2, "--out", "new/run")
    assert refused.code == 2
    assert len(refused.lines) == 1, refused.lines
    assert what in refused.lines[0]
    assert str(here / "data" / file) in refused.lines[0]
    assert not Path("new/run").exists()


def test_the_same_command_works_once_the_fault_is_mended(here: Path, semivox: Callable[..., Answer]):
    whole = Path(f"data/{LABEL}").read_bytes()
    cut(f"data/{LABEL}")
    command = (*TRAIN, "--iterations", 1, "--out", "again", "--no-test")
    assert semivox(*command).code == 2
    Path(f"data/{LABEL}").write_bytes(whole)
    assert semivox(*command).code == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda: with_values(f"data/{LABEL}", np.zeros_like),
        lambda: shrink(f"data/{IMAGE}", f"data/{LABEL}"),
        lambda: with_header(f"data/{IMAGE}", slice(268, 272), np.float32(99).tobytes()),
        lambda: with_header(f"data/{UNLABELLED}", slice(112, 116), np.float32(1000).tobytes()),
    ],
    ids=["empty label", "smaller than the patch", "qform and sform disagree", "integers overflow elsewhere"],
)
def test_what_is_only_doubtful_does_not_stop_training(here: Path, semivox: Callable[..., Answer], spoil: Callable):
    spoil()
    assert semivox("inspect", "data").code == 0
    assert semivox(*TRAIN, "--iterations", 1, "--out", "new", "--no-test").code == 0


# --- faults in what was asked for ------------------------------------------------------------------------------------

ASKED: list[tuple[str, str]] = [
    ("trian data", "did you mean 'train'?"),
    ("train", "which data set?"),
    ("train data --lablled 3", "did you mean '--labelled'?"),
    ("train data --method mean_techer", "did you mean 'mean_teacher'?"),
    ("train data --network vnte", "did you mean 'vnet'?"),
    ("train nowhere", "there is no such folder"),
    ("train data/imagesTr", "dataset.json: there is no such file"),
    ("TRAIN --labelled 99", "ask for at most"),
    ("TRAIN --labelled some", "give a number, or DOMAIN=NUMBER"),
    ("TRAIN --labelled scanner_c=1", "unknown domain 'scanner_c'"),
    ("TRAIN --labelled scanner_a=1 --labelled scanner_a=2", "gives a number twice"),
    ("TRAIN --labelled 0", "no training case has a label"),
    ("TRAIN --labels livre", "did you mean 'liver'?"),
    ("TRAIN --unlabelled nowhere", "nowhere: holds no scan"),
    ("TRAIN --network unet", "the plan plan.yaml names its network"),
    ("TRAIN --seed -1", "setting seed: input should be greater than or equal to 0"),
    ("TRAIN --seed 99999999999999999999999", "setting seed"),
    ("TRAIN --devices 0", "setting training.devices"),
    ("TRAIN --devices 3", "cannot be shared by 3 devices"),
    ("TRAIN --iterations 0", "give at least 1"),
    ("TRAIN --init-from nowhere", "nowhere: there is no such folder; give the folder of a run"),
    ("TRAIN --plan nowhere.yaml", "cannot be read as a plan"),
    ("TRAIN --plan data/dataset.json", "preparation: field required"),
    ("TRAIN --out plan.yaml", "cannot be written"),
    ("TRAIN --out /proc/run", "cannot be written"),
    ("TRAIN --out data", "holds other files"),
    ("TRAIN --out run", "already holds a run"),
    ("TRAIN -s consistncy_weight=1", "did you mean 'consistency_weight'?"),
    ("TRAIN -s consistency_weight=much", "consistency_weight: input should be a valid number"),
    ("TRAIN -s training.lerning_rate=1", "did you mean 'training.learning_rate'?"),
    ("TRAIN -s training.learning_rate=.inf", "training.learning_rate: input should be a finite number"),
    ("TRAIN -s data.labelled=1", "give --labelled instead"),
    ("TRAIN -s method.name=supervised", "give --method instead"),
    ("TRAIN -s training.device=cuda", "give --device instead"),
    ("TRAIN -s training.precision=auto", "give --precision instead"),
    ("TRAIN -s data.store=/proc/x", "cannot be written"),
    ("TRAIN -s plan.patch=[0,1,2]", "each at least 1"),
    ("TRAIN -s plan.preparation.spacing_mm=[0,1,1]", "spacing_mm.0: input should be greater than 0"),
    ("TRAIN -s plan.network.settings.wdth=4", "did you mean 'width'?"),
    ("TRAIN -s plan.batch.labelled=9999999", "lower plan.batch.unlabelled, plan.batch.labelled or plan.patch"),
    ("TRAIN -s plan.batch.unlabelled=0", "the method needs unlabelled scans"),
    ("TRAIN -s inference.flips=[7]", "a patch has no axis 7"),
    ("train --resume nowhere", "is not a run folder"),
    ("train --resume plan.yaml", "is not a run folder"),
    ("train --resume run --iterations 1", "was planned for 2"),
    ("predict run empty --out new", "holds neither images"),
    ("predict run nowhere --out new", "there is no such file or folder"),
    ("predict run data --out new", "is a whole data set"),
    ("predict data data/imagesTs --out new", "holds no trained model"),
    ("predict run data/imagesTs --out new -s overlp=0.2", "did you mean 'overlap'?"),
    ("predict run data/imagesTs --out new -s training.iterations=3", "unknown inference setting"),
    ("predict run data/imagesTs --out new -s flips=[5]", "a patch has no axis 5"),
    ("predict run data/imagesTs --out new --task liver", "unknown task"),
    ("predict run data/imagesTs --out plan.yaml", "cannot be written"),
    ("evaluate nowhere data/labelsTs", "there is no such folder"),
    ("evaluate run/predictions data/labelsTr", "no prediction in run/predictions has a label"),
    ("evaluate run/predictions data/labelsTs --out /proc/x/m.json", "cannot be written"),
    ("evaluate run/predictions data/labelsTs --out data", "cannot be written"),
    ("evaluate run/predictions data/labelsTs --tolerance nan", "give a distance of 0 or more"),
    ("evaluate run/predictions data/labelsTs --workers -1", "--workers"),
    ("evaluate run/predictions data/labelsTs --unit cm", "choose from 'mm', 'voxel'"),
    ("report data", "is not a run folder"),
    ("compare run data", "is not a run folder"),
    ("compare run --out /proc/x.json", "cannot be written"),
    ("train data --protocol acdc_cup", "did you mean 'acdc_cpu'?"),
    ("train data --protocol nowhere.yaml", "cannot be read as a protocol"),
    ("train data --protocol plan.yaml", "plan.yaml: name: field required"),
    ("train data --protocol acdc_cpu", "unknown label 'RV'"),
    ("TRAIN --protocol acdc_cpu", "argument --protocol: not allowed with argument --plan"),
    ("TRAIN --development -s data.development=1", "give --development instead"),
    ("TRAIN -s protocol=acdc", "give --protocol instead"),
    ("benchmark", "the following arguments are required: PROTOCOL"),
    ("benchmark acdc_cup", "did you mean 'acdc_cpu'?"),
    ("benchmark acdc_cpu", "where do its data lie? Give --data ROOT"),
    ("benchmark acdc_cpu --data nowhere", "nowhere/acdc: there is no such folder"),
    ("benchmark acdc_cpu --data . --method mean_techer", "did you mean 'mean_teacher'?"),
    ("benchmark acdc_cpu --data . --labelled all", "labelled-only with all labels is run anyway"),
    ("benchmark acdc_cpu --data . --budget soon", "soon is not a time; give it as 90s, 10m or 1h30m"),
    ("benchmark acdc_cpu --data . --seeds 0", "--seeds"),
    ("benchmark acdc_cpu --data . --methd mt", "did you mean '--method'?"),
    ("init nowhere --out new", "there is no such folder"),
    ("init empty --out new", "holds no scan"),
    ("init data/imagesTr --out data", "already exists"),
    ("init data/imagesTr data/labelsTr --out new --names liver", "give one for each"),
    ("convert empty --from dicm --out new", "did you mean 'dicom'?"),
    ("convert empty --from dicom --out new", "holds no DICOM scans"),
    ("convert empty --from msd --out new", "there is no such file"),
    ("convert empty --from h5 --out new", "name the folder that holds"),
    ("methods mean_techer", "did you mean 'mean_teacher'?"),
    ("methods none.py:Mine", "there is no file"),
    ("networks vnte", "did you mean 'vnet'?"),
    ("inspect data --workers 0", "--workers"),
    ("demo --iterations 0", "--iterations"),
    ("demo --out plan.yaml", "cannot be written"),
]


@pytest.mark.parametrize(("command", "what"), ASKED, ids=[command for command, _ in ASKED])
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    here: Path, semivox: Callable[..., Answer], command: str, what: str
):
    Path("empty").mkdir()
    words = command.split()
    if words[0] == "TRAIN":
        given = words[1:]
        defaults = {"--iterations": "2", "--out": "new"}
        words = [*TRAIN, *given, *(w for key, value in defaults.items() if key not in given for w in (key, value))]
    answer = semivox(*words)
    assert answer.code == 2
    assert [line for line in answer.lines if line.startswith("semivox: ")] == answer.lines[-1:], answer.lines
    assert what in answer.lines[-1]
    assert not Path("new").exists()


def test_a_run_in_use_is_refused(here: Path, semivox: Callable[..., Answer]):
    with open("run/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = semivox("train", "--resume", "run")
        assert (answer.code, len(answer.lines)) == (2, 1)
        assert "is in use by another process" in answer.lines[0]
    assert Path("run/config.yaml").exists()


def test_a_store_of_another_version_is_refused(here: Path, semivox: Callable[..., Answer]):
    shutil.rmtree("stores")
    assert semivox(*TRAIN, "--iterations", 1, "--out", "first", "--no-test").code == 0
    (store,) = Path("stores").glob("*/store.json")
    store.write_text(json.dumps({**json.loads(store.read_text()), "format": 99}))
    answer = semivox(*TRAIN, "--iterations", 2, "--out", "new")
    assert answer.code == 2
    assert "store of format 99" in answer.lines[-1]
    assert "delete the folder" in answer.lines[-1]
    assert not Path("new").exists()


def test_changed_data_are_prepared_again(here: Path, semivox: Callable[..., Answer]):
    shutil.rmtree("stores")
    assert semivox(*TRAIN, "--iterations", 1, "--out", "first", "--no-test").code == 0
    (image,) = Path("stores").glob("*/images/phantom_003.npy")
    before = np.load(image)
    with_values(f"data/{UNLABELLED}", lambda array: array[::-1].copy())
    assert semivox(*TRAIN, "--iterations", 1, "--out", "new", "--no-test").code == 0
    assert not np.array_equal(before, np.load(image))


def test_a_full_disk_while_a_checkpoint_is_written_is_one_line(
    here: Path, semivox: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534\nframes")

    monkeypatch.setattr(torch, "save", full)
    answer = semivox(*TRAIN, "--iterations", 1, "--out", "new")
    assert answer.code == 2
    assert "free some space" in answer.lines[-1]
    assert not Path("new").exists()


def test_a_disk_that_is_nearly_full_is_told_before_anything_is_made(
    here: Path, semivox: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**30, 2**30, 0))
    answer = semivox(*TRAIN, "--iterations", 1, "--out", "new")
    assert (answer.code, len(answer.lines)) == (2, 1), answer.lines
    assert "less than 200 MiB are free" in answer.lines[0]
    assert not Path("new").exists()


# --- a run that was damaged or edited --------------------------------------------------------------------------------

CHECKPOINT = "run/checkpoints/last.pt"

RUN: dict[str, tuple[Callable[[], object], str]] = {
    "unknown field": (
        lambda: edit_config(lambda c: c["training"].update(lerning_rate=1)),
        "unknown field 'lerning_rate'; did you mean 'learning_rate'?",
    ),
    "wrong type": (lambda: edit_config(lambda c: c["training"].update(learning_rate="abc")), "a valid number"),
    "unknown method": (lambda: edit_config(lambda c: c["method"].update(name="meen_teacher")), "did you mean"),
    "method from a file": (lambda: edit_config(lambda c: c["method"].update(name="evil.py:X")), "name it again"),
    "another network": (
        lambda: edit_config(lambda c: c["plan"]["network"]["settings"].update(width=8)),
        "does not fit its config.yaml",
    ),
    "2-D of a 3-D run": (lambda: edit_config(lambda c: c["plan"].update(patch=[16, 16])), "does not fit its config"),
    "another optimiser": (lambda: edit_config(lambda c: c["training"].update(optimiser="sgd")), "does not fit its"),
    "no data": (lambda: edit_config(lambda c: c["data"].update(datasets=[])), "data.datasets"),
    "no such axis": (lambda: edit_config(lambda c: c["inference"].update(flips=[9])), "no axis 9"),
    "empty config": (lambda: Path("run/config.yaml").write_text(""), "config.yaml"),
    "config that runs code": (
        lambda: Path("run/config.yaml").write_text("!!python/object/apply:os.system [touch executed]"),
        "config.yaml: cannot be read",
    ),
    "truncated checkpoint": (lambda: cut(CHECKPOINT), "is damaged or not a checkpoint"),
    "empty checkpoint": (lambda: cut(CHECKPOINT, 0), "is damaged or not a checkpoint"),
    "pickle": (lambda: Path(CHECKPOINT).write_bytes(pickle.dumps(os.system)), "carries more than weights"),
    "checkpoint with code": (
        lambda: torch.save({"format": 1, "x": os.system}, CHECKPOINT),
        "carries more than weights",
    ),
    "checkpoint of another version": (lambda: torch.save({"format": 99}, CHECKPOINT), "of this version"),
    "checkpoint without weights": (lambda: torch.save({"format": 1, "step": 1}, CHECKPOINT), "does not fit its"),
    "damaged log": (lambda: Path("run/log.csv").write_text("hello\n1,2\n"), "log.csv: is damaged"),
    "no folder": (lambda: shutil.rmtree("data"), "there is no such folder"),
    "a scan is gone": (lambda: Path(f"data/{UNLABELLED}").unlink(), "phantom_003"),
    "a label is broken now": (lambda: cut(f"data/{LABEL}"), "truncated"),
}


@pytest.mark.parametrize("name", RUN)
def test_a_damaged_run_is_one_line_and_stays_as_it_is(here: Path, semivox: Callable[..., Answer], name: str):
    edit_config(lambda config: config["training"].update(iterations=4))
    shutil.rmtree("run/model")
    spoil, what = RUN[name]
    spoil()
    config, checkpoint = Path("run/config.yaml").read_bytes(), Path(CHECKPOINT).read_bytes()
    answer = semivox("train", "--resume", "run")
    assert answer.code == 2
    assert [line for line in answer.lines if line.startswith("semivox: ")] == answer.lines[-1:], answer.lines
    assert what in answer.lines[-1]
    assert (Path("run/config.yaml").read_bytes(), Path(CHECKPOINT).read_bytes()) == (config, checkpoint)
    assert not Path("executed").exists()


MODEL: dict[str, tuple[Callable[[], object], str]] = {
    "truncated weights": (lambda: cut("run/model/model.safetensors"), "is damaged or not a Semivox model"),
    "no weights": (lambda: Path("run/model/model.safetensors").unlink(), "model.safetensors is missing"),
    "no JSON": (lambda: Path("run/model/model.json").write_text("{"), "is damaged or not a Semivox model"),
    "another version": (lambda: edit_model(lambda m: m.update(format=9)), "another version"),
    "method from a file": (lambda: edit_model(lambda m: m["facts"].update(method="evil.py:X")), "never names code"),
    "another network": (
        lambda: edit_model(lambda m: m["plan"]["network"]["settings"].update(width=8)),
        "do not belong to its description",
    ),
    "no tasks": (lambda: edit_model(lambda m: m.pop("tasks")), "is damaged or not a Semivox model"),
    "no fact": (lambda: edit_model(lambda m: m["facts"].pop("inference")), "lacks the fact 'inference'"),
    "unknown precision": (lambda: edit_model(lambda m: m["facts"].update(precision="64")), "unknown precision"),
}


@pytest.mark.parametrize("name", MODEL)
def test_a_damaged_model_is_one_line(here: Path, semivox: Callable[..., Answer], name: str):
    spoil, what = MODEL[name]
    spoil()
    answer = semivox("predict", "run", "data/imagesTs", "--out", "new")
    assert (answer.code, len(answer.lines)) == (2, 1), answer.lines
    assert what in answer.lines[0]
    assert not Path("new").exists()


# --- scans to predict, predictions to score --------------------------------------------------------------------------

SCANS: dict[str, tuple[Callable[[], object], str]] = {
    "truncated": (lambda: cut(f"data/{TEST_IMAGE}"), "truncated"),
    "NaN": (lambda: with_values(f"data/{TEST_IMAGE}", with_nan), "NaN or infinite"),
    "dead link": (lambda: replace_by_dead_link(f"data/{TEST_IMAGE}"), "a link that leads nowhere"),
}


@pytest.mark.parametrize("name", SCANS)
def test_one_scan_that_cannot_be_predicted_is_named_and_the_others_are_done(
    here: Path, semivox: Callable[..., Answer], name: str
):
    spoil, what = SCANS[name]
    spoil()
    answer = semivox("predict", "run", "data/imagesTs", "--out", "new")
    assert (answer.code, len(answer.lines)) == (2, 1), answer.lines
    assert "1 of 2 cases failed: case phantom_007" in answer.lines[0]
    assert what in answer.lines[0]
    assert sorted(file.name for file in Path("new").iterdir()) == ["phantom_008.nii.gz", "prediction.json"]


PREDICTION = "run/predictions/phantom_007.nii.gz"

SCORED: dict[str, tuple[Callable[[], object], str]] = {
    "truncated": (lambda: cut(PREDICTION), "truncated"),
    "another shape": (lambda: with_values(PREDICTION, lambda array: array[:-1]), "prediction has shape"),
    "another orientation": (lambda: with_affine(PREDICTION, -1, 1, 1), "prediction has orientation"),
    "undeclared label": (lambda: with_values(f"data/{TEST_LABEL}", lambda array: array * 9), "undeclared values 9"),
    "damaged note": (lambda: Path("run/predictions/prediction.json").write_text("{"), "prediction.json"),
}


@pytest.mark.parametrize("name", SCORED)
def test_a_prediction_that_cannot_be_scored_is_one_line(here: Path, semivox: Callable[..., Answer], name: str):
    spoil, what = SCORED[name]
    spoil()
    answer = semivox("evaluate", "run/predictions", "data/labelsTs", "--out", "m.json")
    assert (answer.code, len(answer.lines)) == (2, 1), answer.lines
    assert what in answer.lines[0]
    assert not Path("m.json").exists()


@pytest.mark.parametrize("name", ["<script>alert(1)<", "ä ö 日本", "a b; c", "[bold]x", "%s{0}"])
def test_odd_case_names_are_names(here: Path, semivox: Callable[..., Answer], name: str):
    shutil.copy(f"data/{TEST_IMAGE}", f"data/imagesTs/{name}_0000.nii.gz")
    shutil.copy(f"data/{TEST_LABEL}", f"data/labelsTs/{name}.nii.gz")
    assert semivox("inspect", "data").code == 0
    assert semivox("predict", "run", "data/imagesTs", "--out", "run/predictions").code == 0
    assert semivox("evaluate", "run/predictions", "data/labelsTs", "--out", "run/metrics.json").code == 0
    assert semivox("report", "run").code == 0
    assert "<script>alert(1)" not in Path("run/report.html").read_text()
    assert name in [case["case"] for case in json.loads(Path("run/metrics.json").read_text())["cases"]]


def test_links_and_another_working_directory_change_nothing(
    here: Path, semivox: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
):
    Path("link").symlink_to(here / "data")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert semivox("inspect", "../link").code == 0
    assert semivox("train", "--resume", "../run").code == 0
    assert semivox("predict", "../run", "../link/imagesTs", "--out", "p").code == 0
    whole, again = (nib.load(path) for path in (f"../{PREDICTION}", "p/phantom_007.nii.gz"))
    np.testing.assert_array_equal(np.asarray(whole.dataobj), np.asarray(again.dataobj))
