"""Methods whose network is SAM-2's encoder."""

import shutil
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from semivox.data.case import Dataset
from semivox.errors import SettingError
from semivox.experiments.train import keep_model, train
from semivox.methods.model import load_model
from semivox.networks.sam2_architecture import prompting
from semivox.planning.plan import NetworkChoice
from semivox.testing import Candidate
from semivox.testing.checks import (
    a_killed_run_resumes_exactly,
    a_loaded_model_predicts_what_the_trained_one_does,
    any_size_predicts,
    gradient_reaches_every_trained_weight,
    losses_are_finite_and_never_negative,
    losses_in_bf16_are_near_those_in_float32,
    padding_never_counts,
    training_learns,
    two_processes_give_the_loss_and_gradient_of_one,
)
from semivox.training.checkpoint import load_checkpoint
from semivox.training.config import Config
from semivox.training.fit import build, fit, read_data, training_data
from semivox.training.run import RunFolder

METHODS = {
    "mean_teacher": {},
    "cross_pseudo_supervision": {},
    # From random weights it is sure of background first, and at full weight teaches itself nothing else.
    "unimatch": {"ramp_share": 1.0},
    # A share of so short a run that the labelled stage can learn in.
    "bidirectional_copy_paste": {"pretraining_share": 0.5},
    "dual_task_consistency": {},
}
"""Methods, and where their settings differ from the defaults."""
CHECKS = (
    losses_are_finite_and_never_negative,
    padding_never_counts,
    losses_in_bf16_are_near_those_in_float32,
    gradient_reaches_every_trained_weight,
    any_size_predicts,
    a_loaded_model_predicts_what_the_trained_one_does,
    a_killed_run_resumes_exactly,
    training_learns,
    two_processes_give_the_loss_and_gradient_of_one,
)


@lru_cache(maxsize=1)
def candidate(name: str) -> Candidate:
    return Candidate(name, METHODS.get(name, {}), network="sam2")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", METHODS)
def test_contract(name, check, two_processes):
    method = candidate(name)
    method.processes = two_processes
    check(method)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A checkpoint of the miniature size."""
    torch.manual_seed(5)
    folder = tmp_path / "sam2"
    model = prompting("miniature")
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(model.shared_image_embedding.positional_embedding)
    model.save_pretrained(folder)
    return folder


def config_with(checkpoint: Path, method: str, **training) -> Config:
    """A short run of a method whose network begins with a checkpoint."""
    config = candidate(method).config(**training)
    network = NetworkChoice(name="sam2", settings={"size": "miniature", "weights": str(checkpoint)})
    return config.model_copy(update={"plan": config.plan.model_copy(update={"network": network})})


def dataset_of(config: Config) -> Dataset:
    return training_data(read_data(config.data), config.data.labelled)


def test_every_network_of_a_run_begins_with_the_weights_of_the_checkpoint(checkpoint):
    config = config_with(checkpoint, "cross_pseudo_supervision")
    method, _ = build(config, dataset_of(config))
    stored = load_file(checkpoint / "model.safetensors")["vision_encoder.backbone.patch_embed.projection.weight"]
    for network in (method.first, method.second):
        assert torch.equal(network.encoder.vision.backbone.patch_embed.projection.weight, stored)
    assert not torch.equal(method.first.classifier.weight, method.second.classifier.weight)


def test_a_run_goes_on_and_its_model_predicts_without_the_checkpoint(checkpoint, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create()
    fit(config_with(checkpoint, "mean_teacher", iterations=2, schedule="constant"), run)
    shutil.rmtree(checkpoint)
    config = config_with(checkpoint, "mean_teacher", iterations=4, schedule="constant")
    fit(config, run)
    content = load_checkpoint(run.last)
    assert content["step"] == 4
    keep_model(run, config, dataset_of(config))
    model = load_model(run.path)
    state = model.method.state_dict()
    teacher = [name for name in state if name.startswith("teacher.")]
    assert all(torch.equal(state[name], content["method"][name]) for name in teacher)
    assert model.method.predict(torch.randn(1, 1, 24, 24), "default").shape == (1, model.problem.classes, 24, 24)


def test_weights_that_are_not_there_are_refused_before_anything_is_prepared(phantom, tmp_path):
    """`phantom` has volumes, which are planned as slices."""
    choices = ["size=miniature", f"weights={tmp_path / 'nowhere'}"]
    with pytest.raises(SettingError, match=r"^sam2: weights '.*nowhere' are not on this machine; put config.json and"):
        train(
            phantom.root,
            network="sam2",
            out=tmp_path / "run",
            iterations=2,
            settings=[f"plan.network.settings.{choice}" for choice in choices],
        )
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "stores").exists()


def test_the_encoders_rate_holds_in_the_engine(checkpoint, tmp_path):
    config = config_with(checkpoint, "supervised", iterations=2)
    still = config.plan.network.model_copy(update={"settings": {**config.plan.network.settings, "encoder_rate": 0.0}})
    config = config.model_copy(update={"plan": config.plan.model_copy(update={"network": still})})
    method, _ = build(config, dataset_of(config))
    before = {name: tensor.clone() for name, tensor in method.network.state_dict().items()}
    run = RunFolder(tmp_path / "run")
    run.create()
    fit(config, run)
    trained = load_checkpoint(run.last)["method"]
    changed = {name for name, tensor in before.items() if not torch.equal(trained[f"network.{name}"], tensor)}
    assert changed
    assert not any(name.startswith("encoder.") for name in changed)
