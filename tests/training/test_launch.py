"""Processes that torchrun started do what one process does."""

import os
import subprocess
import sys

import pytest
import torch
import yaml

from semivox.errors import RunError, SettingError
from semivox.training import fit, launch
from semivox.training.checkpoint import load_checkpoint
from semivox.training.run import RunFolder


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, "-m", "semivox", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture
def words(write_protocol, tmp_path) -> list[str]:
    """A training of three steps, labelled and unlabelled streams shared by two processes, on the CPU."""

    def even_batches(content):
        content["plan"]["batch"] = {"labelled": 2, "unlabelled": 2}
        content["plan"]["network"]["settings"] = {"width": 4, "levels": 3, "norm": "group", "dropout": 0}
        # Adam's first steps are as long where a gradient is rounding alone.
        content["training"] |= {"iterations": 3, "optimiser": "sgd", "warmup_share": 0}
        content["methods"]["mean_teacher"]["training"]["learning_rate"] = 0.05

    protocol = write_protocol(even_batches)
    command = ["train", str(tmp_path / "data" / "phantom"), "--protocol", str(protocol), "--method", "mean_teacher"]
    return [*command, "--device", "cpu", "--no-test"]


def test_two_processes_of_torchrun_take_the_steps_of_one(words, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, "-m", "semivox", *words, "--out", str(one)], check=True, timeout=600)
    done = torchrun(*words, "--out", str(two))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done: ") == 1, "only the first speaks"
    assert yaml.safe_load((two / "config.yaml").read_text())["training"]["devices"] == 2
    alone, shared = (load_checkpoint(RunFolder(folder).last)["method"] for folder in (one, two))
    assert alone.keys() == shared.keys()
    for name, value in alone.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            torch.testing.assert_close(shared[name], value, atol=2e-5, rtol=1e-4, msg=name)


def test_a_run_is_taken_up_by_as_many_processes_as_it_began_with(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "started", lambda: 3)
    with pytest.raises(RunError, match="shares its batches among 2 processes, and 3 were started; start 2"):
        fit.fit_on_devices(make_config(devices=2), RunFolder(tmp_path / "run"))


def test_a_process_alone_was_started_by_nobody(monkeypatch):
    assert (launch.launched(), launch.started(), launch.nodes()) == (None, 1, 1)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert (launch.launched(), launch.started(), launch.nodes()) == (None, 1, 1)


def test_tasks_of_slurm_know_their_place(monkeypatch):
    given = {"SLURM_NTASKS": 6, "SLURM_PROCID": 4, "SLURM_NNODES": 3, "SLURM_LOCALID": 0, "SLURM_JOB_NAME": "train"}
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SettingError, match="Use `--ntasks-per-node=6` instead"):
        launch.launched()
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    assert launch.launched().global_rank() == 4
    assert (launch.started(), launch.nodes()) == (6, 3)


def test_torchrun_wins_over_the_slurm_job_that_it_runs_in(monkeypatch):
    given = {"SLURM_NTASKS": 3, "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": 8, "LOCAL_WORLD_SIZE": 4, "RANK": 1}
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    assert (launch.started(), launch.nodes()) == (8, 2)


def test_the_end_of_another_process_is_one_line():
    with pytest.raises(RunError, match="process 1: another process has ended"), launch.losing_nobody(1):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:51033")
    with pytest.raises(RuntimeError, match="shapes"), launch.losing_nobody(1):
        raise RuntimeError("shapes do not fit")
