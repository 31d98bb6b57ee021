"""Several processes share a run: timed, stopped and refused as one."""

import os
import signal
import socket
import threading
import time
from contextlib import suppress

import pytest
import torch
from test_resume import assert_equal

from semivox.errors import RunError
from semivox.testing.candidate import PowerCutError, power_cut_at
from semivox.training.checkpoint import load_checkpoint
from semivox.training.config import Config
from semivox.training.fit import fit, fit_on_devices, open_store, read_data, seconds_per_step, training_data
from semivox.training.run import RunFolder
from semivox.training.stopping import Interrupted


def started(folder) -> RunFolder:
    run = RunFolder(folder)
    run.create()
    return run


def interrupt_once_logged(run: RunFolder) -> None:
    """Ctrl-C, as soon as a step is in the log."""

    def wait() -> None:
        while not run.log.exists() or run.log.read_text(encoding="utf-8").count("\n") < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def test_minutes_are_turned_into_steps_with_one_device_and_its_share_of_the_batch(make_config):
    config = make_config("supervised", iterations=1, devices=2)
    dataset = training_data(read_data(config.data), None)
    assert 0 < seconds_per_step(config, dataset, open_store(config, dataset)) < 30


def test_ctrl_c_stops_all_processes_after_a_whole_step_that_is_saved(make_config, tmp_path):
    config: Config = make_config("supervised", iterations=100_000, checkpoint_every=100_000, devices=2)
    run = started(tmp_path / "run")
    interrupt_once_logged(run)
    with pytest.raises(Interrupted, match=f"semivox train --resume {run.path}"):
        fit_on_devices(config, run)
    assert 0 < load_checkpoint(run.last)["step"] < 100_000


def test_an_error_of_one_process_is_the_error_of_the_run(make_config, tmp_path):
    """Weights of a run with other networks do not fit: found in each process, told once, in one line."""
    from semivox.experiments.train import keep_model

    donor, other = started(tmp_path / "donor"), make_config("supervised", dimensions=2, iterations=1)
    fit(other, donor)
    keep_model(donor, other, training_data(read_data(other.data), None))
    config = make_config("supervised", devices=2, init_from=donor.path)
    with pytest.raises(RunError, match="its network differs from this run's"):
        fit_on_devices(config, started(tmp_path / "run"))


def train_whole_and_cut(rank: int, config: Config, whole: RunFolder, cut: RunFolder, port: int) -> None:
    """One of two processes: a run that nothing interrupts, and one that dies between two checkpoints and goes on."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": "2",
    }
    torch.set_num_threads(1)
    fit(config, whole, rank)
    with power_cut_at(3), suppress(PowerCutError):
        fit(config, cut, rank)
    fit(config, cut, rank)


def test_two_processes_resume_exactly_with_a_teacher_that_uses_batch_statistics(make_config, tmp_path):
    """Each process sees other samples, but a checkpoint holds one state."""
    settings = {"teacher_mode": "eval", "consistency_weight": 10.0, "ramp_share": 0.01}
    config = make_config("mean_teacher", dimensions=2, iterations=6, checkpoint_every=2, devices=2, settings=settings)
    network = config.plan.network
    network = network.model_copy(update={"settings": {**network.settings, "norm": "batch"}})
    config = config.model_copy(update={"plan": config.plan.model_copy(update={"network": network})})
    whole, cut = started(tmp_path / "whole"), started(tmp_path / "cut")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(train_whole_and_cut, (config, whole, cut, port), nprocs=2)
    assert_equal(load_checkpoint(cut.last), load_checkpoint(whole.last))
