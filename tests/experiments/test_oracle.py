"""Prompts from labels, from the command's side: what is asked for, and that whatever is made of it says so."""

import json
import shutil

import numpy as np
import pytest

from semivox.data.image import read_label, write_label
from semivox.data.volume import Grid
from semivox.errors import DataError, SettingError
from semivox.evaluation.evaluate import evaluate
from semivox.experiments.predict import predict
from semivox.experiments.train import keep_model
from semivox.testing.workbench import tiny_config
from semivox.training.fit import fit, read_data, training_data
from semivox.training.run import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """Three steps of SSS."""
    run = RunFolder(tmp_path_factory.mktemp("sss") / "run")
    run.create()
    config = tiny_config("sss", settings={"slices": 2}, iterations=3)
    fit(config, run)
    keep_model(run, config, training_data(read_data(config.data), None))
    return run


@pytest.fixture
def scans(phantom):
    cases = phantom.split("test")
    return [case.images[0] for case in cases], cases[0].label.parent


def test_the_labels_boxes_prompt_and_scores_say_so(run, scans, tmp_path):
    images, labels = scans
    predict(run.path, images, tmp_path / "own")
    predict(run.path, images, tmp_path / "oracle", oracle_prompts=labels)
    own, oracle = (read_label(next((tmp_path / name).glob("*.nii.gz"))).array for name in ("own", "oracle"))
    assert not np.array_equal(own, oracle)
    about = json.loads((tmp_path / "oracle" / "prediction.json").read_text())
    assert about["model"]["prompts"] == "oracle"
    assert evaluate(tmp_path / "oracle", labels)["model"]["prompts"] == "oracle"
    assert "prompts" not in evaluate(tmp_path / "own", labels)["model"]


def test_labels_that_nobody_describes_hold_the_models_values(run, scans, tmp_path):
    images, labels = scans
    bare = tmp_path / "bare"
    shutil.copytree(labels, bare)
    predict(run.path, images, tmp_path / "described", oracle_prompts=labels)
    predict(run.path, images, tmp_path / "undescribed", oracle_prompts=bare)
    one, two = (sorted((tmp_path / name).glob("*.nii.gz")) for name in ("described", "undescribed"))
    for file, other in zip(one, two, strict=True):
        assert np.array_equal(read_label(file).array, read_label(other).array)


def test_a_scan_without_a_label_or_on_another_grid_is_named(run, scans, tmp_path):
    images, labels = scans
    bare = tmp_path / "bare"
    shutil.copytree(labels, bare)
    first, *_ = sorted(bare.iterdir())
    first.unlink()
    case = first.name.removesuffix(".nii.gz")
    with pytest.raises(DataError, match=rf"1 of 2 scans have no label there \({case}\); leave them out, or add their"):
        predict(run.path, images, tmp_path / "missing", oracle_prompts=bare)
    assert not (tmp_path / "missing").exists()
    write_label(first, np.zeros((4, 4, 4), np.uint8), Grid((4, 4, 4), np.eye(4)))
    with pytest.raises(DataError, match="label has"):
        predict(run.path, images, tmp_path / "grid", oracle_prompts=bare)


def test_labels_of_other_structures_and_several_models_are_refused(run, scans, tmp_path):
    images, labels = scans
    other = tmp_path / "other"
    (other / "labelsTs").mkdir(parents=True)
    shutil.copy(next(labels.iterdir()), other / "labelsTs")
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "tooth": 1}, "numTraining": 0}
    (other / "dataset.json").write_text(json.dumps({**described, "file_ending": ".nii.gz"}))
    with pytest.raises(DataError, match=r"labels are of tooth, the model's of .*: no name is in both"):
        predict(run.path, images, tmp_path / "out", oracle_prompts=other / "labelsTs")
    with pytest.raises(SettingError, match="prompts one model; leave --ensemble out"):
        predict(run.path, images, tmp_path / "out", oracle_prompts=labels, ensemble=[run.path])


def test_a_model_without_prompts_is_refused(scans, tmp_path):
    images, labels = scans
    run = RunFolder(tmp_path / "run")
    run.create()
    config = tiny_config("supervised", iterations=2)
    fit(config, run)
    keep_model(run, config, training_data(read_data(config.data), None))
    with pytest.raises(SettingError, match="supervised as trained here takes no prompts; leave it out"):
        predict(run.path, images, tmp_path / "out", oracle_prompts=labels)
