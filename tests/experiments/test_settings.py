"""Runs whose cases make domain adaptation or generalisation, as a user asks for them."""

import csv
import json
import shutil

import pytest
import yaml

import semivox
from semivox.errors import DataError, SettingError
from semivox.experiments.configure import refuse_lengths_of_pictures
from semivox.planning.fingerprint import Fingerprint, Scan
from semivox.training.run import RunFolder

DOMAINS = {"phantom_000": "x", "phantom_001": "x", "phantom_007": "x"}
"""Of training with a label, training without, test; all others are of domain y, one training case with a label too."""

BROKEN = b"no image"


@pytest.fixture
def data(phantom, tmp_path):
    """The phantom as two domains: x, and y with a labelled and three unlabelled training cases, a validation case and a
    test case. Whoever opens a training or validation label of y fails."""
    folder = tmp_path / "data"
    shutil.copytree(phantom.root, folder)
    rows = [["case", "split", "domain"]]
    rows += [[case.id, case.split, DOMAINS.get(case.id, "y")] for case in phantom]
    with open(folder / "cases.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    for case in phantom:
        if case.label is not None and case.split != "test" and DOMAINS.get(case.id, "y") == "y":
            (folder / "labelsTr" / case.label.name).write_bytes(BROKEN)
    return folder


@pytest.fixture
def train(data, make_config, tmp_path):
    """A function (**arguments) → the run folder of a training of two steps on the two domains."""
    plan = tmp_path / "plan.yaml"
    make_config().plan.save(plan)

    def run(method: str = "mean_teacher", **arguments) -> RunFolder:
        defaults = {"plan": plan, "iterations": 2, "device": "cpu", "precision": "32", "test": False}
        return RunFolder(semivox.train(data, method, out=tmp_path / "run", **{**defaults, **arguments}))

    return run


def test_a_target_is_adapted_to_without_its_labels_and_every_domain_is_scored(train, capsys):
    run = train(labelled={"y": 0}, test=True, settings=["training.balance={domains: true, classes: true}"])
    told = capsys.readouterr().err
    assert "setting: unsupervised domain adaptation (UDA): labels in x, none in y" in told
    assert "y: labels that are not read: 1 training, 1 validation; -s uda.target_labels=true" in told
    assert "mean_teacher is not made for UDA" in told
    metrics = json.loads(run.metrics.read_text(encoding="utf-8"))
    assert set(metrics["domains"]) == {"x", "y"}
    assert metrics["domains"]["y"]["mean"]["dice"]["n"] == 1
    assert yaml.safe_load(run.config.read_text())["training"]["balance"] == {
        "tasks": False,
        "domains": True,
        "classes": True,
    }


def test_labels_of_a_target_choose_weights_only_where_that_is_asked_for(train):
    with pytest.raises(SettingError, match=r"no validation case has a label \(those of y do not count\)"):
        train(labelled={"y": 0}, settings=["training.selection=validation"])
    with pytest.raises(DataError, match=r"phantom_006\.nii\.gz"):
        train(labelled={"y": 0}, settings=["training.selection=validation", "uda.target_labels=true"])


def test_there_must_be_a_target_whose_labels_are_asked_for(train):
    with pytest.raises(SettingError, match=r"uda\.target_labels is true but no domain is a target"):
        train(unseen=["y"], settings=["uda.target_labels=true"])
    with pytest.raises(SettingError, match="setting uda: unknown field 'labels'"):
        train(labelled={"y": 0}, settings=["uda.labels=true"])


def test_a_domain_is_left_unseen(train, capsys):
    run = train(unseen=["y"])
    told = capsys.readouterr().err
    assert "setting: semi-supervised domain generalisation (SemiDG): trained on x, tested on y, never seen" in told
    assert "y: labels that are not read: 1 validation\n" in told
    config = yaml.safe_load(run.config.read_text())
    assert config["data"]["unseen"] == ["y"]
    assert config["plan"]["preparation"]["slices_last"] is False


def test_a_class_that_no_labelled_case_has_is_refused(train, data):
    description = json.loads((data / "dataset.json").read_text())
    description["labels"]["spleen"] = 9
    (data / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match=r"'spleen' is in none of the 1 labelled training cases.*--labels liver kidney"):
        train(labelled={"y": 0})


def test_scans_and_pictures_are_scored_in_voxels_together(make_config):
    def scan(split: str, is_picture: bool) -> Scan:
        told = {
            "case": split,
            "split": split,
            "domain": "x",
            "channels": ("MRI",),
            "dtype": "uint8",
            "intensities": (),
            "sha256": {},
        }
        box = {"shape": (9, 9, 9), "body": (9, 9, 9), "spacing_mm": (1.0, 1.0, 1.0)}
        return Scan(**told, **box, is_picture=is_picture)

    def prints(*scans: Scan) -> Fingerprint:
        return Fingerprint(dataset="d", channels=("MRI",), scans=scans, modalities=())

    config = make_config()
    refuse_lengths_of_pictures(config, prints(scan("train", False), scan("test", True)))
    with pytest.raises(SettingError, match=r"the test cases are scans and pictures.* -s plan\.metric_unit=voxel"):
        refuse_lengths_of_pictures(config, prints(scan("test", False), scan("test", True)))
    with pytest.raises(SettingError, match="the val cases"):
        refuse_lengths_of_pictures(config, prints(scan("val", False), scan("val", True)))
    in_voxels = config.model_copy(update={"plan": config.plan.model_copy(update={"metric_unit": "voxel"})})
    refuse_lengths_of_pictures(in_voxels, prints(scan("test", False), scan("test", True)))
