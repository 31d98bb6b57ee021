"""Runs from data to report, as a user asks for them."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

import semivox
from semivox.errors import RunError, SettingError
from semivox.training.log import read_log
from semivox.training.run import RunFolder

OWN_METHOD = '''
from semivox.methods.supervised import Supervised


class Mine(Supervised):
    """Labelled only, by another name."""
'''


@pytest.fixture
def train(phantom, make_config, tmp_path):
    """A function (name, **arguments) → the run folder of a training of four steps."""
    plan = tmp_path / "plan.yaml"
    make_config().plan.save(plan)

    def run(name: str, method: str = "mean_teacher", **arguments) -> RunFolder:
        defaults = {"plan": plan, "iterations": 4, "device": "cpu", "precision": "32", "test": False}
        return RunFolder(semivox.train(phantom.root, method, out=tmp_path / name, **{**defaults, **arguments}))

    return run


def weights(run: RunFolder) -> bytes:
    return (run.model / "model.safetensors").read_bytes()


def config(run: RunFolder) -> dict:
    return yaml.safe_load(run.config.read_text(encoding="utf-8"))


def test_same_command_twice_gives_the_same_weights_and_another_seed_does_not(train):
    first = weights(train("first"))
    assert weights(train("second")) == first
    assert weights(train("third", seed=1)) != first


def test_config_alone_trains_the_same_model_with_a_baseline_beside_it(train, tmp_path):
    first, again = train("first"), RunFolder(tmp_path / "again")
    again.path.mkdir()
    shutil.copy(first.config, again.config)
    semivox.resume(again.path, baseline=True, test=False)
    assert weights(again) == weights(first)
    for run in (again, again.baseline):
        checksums = json.loads(run.environment.read_text(encoding="utf-8"))["data"]["image_sha256"]
        assert len(checksums) == 9


@pytest.mark.parametrize("change", ["changed", "added", "gone"])
def test_a_run_does_not_go_on_with_other_images(make_config, phantom, tmp_path, change):
    data = tmp_path / "data"
    shutil.copytree(phantom.root, data)
    make_config().plan.save(tmp_path / "plan.yaml")
    arguments = {"plan": tmp_path / "plan.yaml", "iterations": 2, "device": "cpu", "precision": "32", "test": False}
    run = RunFolder(semivox.train(data, "supervised", out=tmp_path / "run", **arguments))
    semivox.resume(run.path, iterations=3, test=False)
    image = data / "imagesTr" / "phantom_005_0000.nii.gz"  # without a label
    kept, table = image.read_bytes(), (data / "cases.csv").read_text()
    if change == "changed":
        image.write_bytes((data / "imagesTr" / "phantom_004_0000.nii.gz").read_bytes())
    elif change == "added":
        image.with_name("phantom_new_0000.nii.gz").write_bytes(kept)
        (data / "cases.csv").write_text(table + table.splitlines()[6].replace("phantom_005", "phantom_new") + "\n")
    else:
        image.unlink()
        (data / "cases.csv").write_text(table.replace(table.splitlines(keepends=True)[6], ""))
    with pytest.raises(RunError, match=r"phantom_(005|new)_0000\.nii\.gz.* began; put back what was there") as caught:
        semivox.resume(run.path, iterations=4, test=False)
    assert "\n" not in str(caught.value)
    assert (run.model / "model.json").exists(), "what was refused leaves all as it was"
    assert config(run)["training"]["iterations"] == 3


def test_extending_a_run_extends_its_baseline_too(train):
    run = train("run", baseline=True)
    semivox.resume(run.path, iterations=6, test=False)
    for one in (run, run.baseline):
        assert config(one)["training"]["iterations"] == 6
        assert int(read_log(one.log)[-1]["step"]) == 5


def test_test_cases_are_predicted_scored_and_reported(train, phantom):
    run = train("run", test=True)
    predicted = {path.name for path in run.predictions.glob("*.nii.gz")}
    assert predicted == {f"{case.id}.nii.gz" for case in phantom.split("test")}
    metrics = json.loads(run.metrics.read_text(encoding="utf-8"))
    assert [case["case"] for case in metrics["cases"]] == [case.id for case in phantom.split("test")]
    assert set(metrics["summary"]) == {*phantom.labels.names[1:], "mean"}
    assert "<html" in (run.path / "report.html").read_text(encoding="utf-8")


def test_a_resumed_run_leaves_test_cases_alone_as_it_began_until_told_otherwise(train):
    run = train("run", baseline=True)
    semivox.resume(run.path, iterations=5)
    for one in (run, run.baseline):
        assert int(read_log(one.log)[-1]["step"]) == 4, "the run went on"
        assert not one.predictions.exists()
        assert not one.metrics.exists()
        assert config(one)["data"]["score_test"] is False
    semivox.resume(run.path, test=True)
    for one in (run, run.baseline):
        assert one.metrics.exists()
        assert config(one)["data"]["score_test"] is True


def test_a_run_of_before_the_setting_is_scored_when_it_is_resumed(train):
    run = train("run")
    old = config(run)
    del old["data"]["score_test"]
    run.config.write_text(yaml.safe_dump(old), encoding="utf-8")
    semivox.resume(run.path)
    assert run.metrics.exists()


def test_a_plan_is_made_around_the_network_settings_that_are_given(train):
    settings = ["plan.network.settings.channels=[4, 8]", "plan.network.settings.strides=[2]"]
    run = train("run", plan=None, network="monai:UNet", settings=settings)
    # With MONAI's usual depth the small phantom would have no patch at all.
    assert config(run)["plan"]["network"]["settings"] == {"channels": [4, 8], "strides": [2]}


def test_an_alias_is_recorded_as_the_method_that_it_names(train):
    assert config(train("run", "cps"))["method"]["name"] == "cross_pseudo_supervision"


def test_a_method_in_a_file_is_named_again_for_resume_and_predict(train, phantom, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN_METHOD, encoding="utf-8")
    name = f"{file}:Mine"
    run = train("run", name, test=True)
    with pytest.raises(SettingError, match="name it again: --method"):
        semivox.resume(run.path)
    semivox.resume(run.path, method=name, iterations=6)
    with pytest.raises(SettingError, match="a model never names code to load"):
        semivox.predict(run.path, phantom.root / "imagesTs", tmp_path / "predicted", device="cpu")
    written = semivox.predict(run.path, phantom.root / "imagesTs", tmp_path / "predicted", device="cpu", method=name)
    assert [path.read_bytes() for path in written] == [(run.predictions / path.name).read_bytes() for path in written]


def test_weights_of_another_run_are_where_training_begins(train):
    donor = train("donor")
    heir = train("heir", init_from=donor.path, settings=["training.learning_rate=1e-30"])
    began, ended = (load_file(run.model / "model.safetensors") for run in (donor, heir))
    assert began.keys() == ended.keys()
    assert all(torch.allclose(began[name], ended[name], atol=1e-6) for name in began)
    assert config(heir)["training"]["init_from"] == str(donor.path)


def test_a_setting_without_its_section_is_answered_with_its_whole_name(train):
    with pytest.raises(SettingError, match=r"did you mean 'training\.learning_rate'"):
        train("run", settings=["learning_rate=0.1"])


def test_a_run_stopped_before_its_plan_says_how_to_go_on(tmp_path):
    with pytest.raises(RunError, match="give its first command again"):
        semivox.resume(tmp_path)
