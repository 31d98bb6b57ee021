"""A run that is killed and resumed gives, bit for bit, the weights of one that never was."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from semivox.errors import RunError
from semivox.methods import METHODS
from semivox.methods.method import Stage
from semivox.methods.supervised import Supervised
from semivox.training import checkpoint
from semivox.training.checkpoint import load_checkpoint, save_checkpoint
from semivox.training.config import Config
from semivox.training.engine import Engine
from semivox.training.fit import fit, fit_on_devices
from semivox.training.log import read_log
from semivox.training.run import RunFolder


class Killed(Exception):  # noqa: N818 - no error, an act
    """Stands in for a power cut: nothing is saved, nothing cleaned up."""


def trained(config: Config, folder: Path) -> dict:
    """The last checkpoint of a whole run."""
    run = RunFolder(folder)
    run.create()
    fit(config, run)
    return load_checkpoint(run.last)


def killed_at(step: int, config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run that died in the middle of `step`."""
    run = RunFolder(folder)
    run.create()
    original = Engine.training_step

    def training_step(engine: Engine, batch, index: int) -> None:
        if engine.step == step:
            raise Killed
        original(engine, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "training_step", training_step)
        with pytest.raises(Killed):
            fit(config, run)
    return run


def assert_equal(a: object, b: object) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_equal(left, right)
    else:
        assert a == b


@pytest.mark.parametrize("step", [1, 5])
def test_killed_before_the_first_checkpoint_or_between_two_equals_uninterrupted(
    make_config, tmp_path, monkeypatch, step
):
    """What holds at every checkpoint of every method is for the method tester to try."""
    config = make_config(iterations=6, checkpoint_every=2)
    whole = trained(config, tmp_path / "whole")
    run = killed_at(step, config, tmp_path / "killed", monkeypatch)
    fit(config, run)
    assert_equal(load_checkpoint(run.last), whole)


def test_resumed_equals_uninterrupted_in_two_dimensions_and_with_sgd(make_config, tmp_path, monkeypatch):
    config = make_config("mean_teacher", dimensions=2, iterations=6, checkpoint_every=2, optimiser="sgd")
    whole = trained(config, tmp_path / "whole")
    run = killed_at(3, config, tmp_path / "killed", monkeypatch)
    fit(config, run)
    assert_equal(load_checkpoint(run.last), whole)


def test_workers_change_no_bit_also_when_resumed(make_config, tmp_path, monkeypatch):
    whole = trained(make_config(iterations=6), tmp_path / "whole")
    config = make_config(iterations=6, workers=2)
    run = killed_at(3, config, tmp_path / "killed", monkeypatch)
    fit(config, run)
    assert_equal(load_checkpoint(run.last), whole)


class TwoStages(Supervised):
    """Its second stage starts from the average, with fresh optimisers."""

    def stages(self):
        return (
            Stage("first", 0.5),
            Stage("second", 0.5, initialise={"network": "average.module"}, keep_optimisers=False),
        )


@pytest.mark.parametrize("step", [2, 3, 4])
def test_resumed_equals_uninterrupted_around_a_change_of_stage(make_config, tmp_path, monkeypatch, step):
    monkeypatch.setitem(METHODS, "two_stages", f"{__name__}:TwoStages")
    config = make_config("two_stages", iterations=6, checkpoint_every=2)
    whole = trained(config, tmp_path / "whole")
    run = killed_at(step, config, tmp_path / "killed", monkeypatch)
    fit(config, run)
    assert_equal(load_checkpoint(run.last), whole)
    assert [row["stage"] for row in read_log(run.log)] == ["first"] * 3 + ["second"] * 3


def test_same_config_gives_same_weights_and_another_seed_others(make_config, tmp_path):
    first = trained(make_config(), tmp_path / "a")
    assert_equal(trained(make_config(), tmp_path / "b"), first)
    other = trained(make_config(seed=1), tmp_path / "c")
    assert not all(torch.equal(first["method"][name], other["method"][name]) for name in first["method"])


def test_log_has_each_step_once_after_a_resume(make_config, tmp_path, monkeypatch):
    config = make_config(iterations=6, checkpoint_every=4)
    run = killed_at(5, config, tmp_path / "run", monkeypatch)
    assert [int(row["step"]) for row in read_log(run.log)] == [0, 1, 2, 3, 4]
    fit(config, run)
    assert [int(row["step"]) for row in read_log(run.log)] == list(range(6))


def test_tensorboard_has_each_step_once_after_a_resume_and_no_name_of_the_host(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "ward7")
    config = make_config(iterations=6, checkpoint_every=4)
    run = killed_at(5, config, tmp_path / "run", monkeypatch)
    fit(config, run)
    files = list((run.path / "tensorboard").iterdir())
    assert len(files) == 2
    assert not any("ward7" in file.name or b"ward7" in file.read_bytes() for file in files)
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    losses = events.Scalars("loss")
    assert [loss.step for loss in losses] == list(range(6))
    assert [loss.value for loss in losses] == pytest.approx([float(row["loss"]) for row in read_log(run.log)], rel=1e-4)


def test_death_while_a_checkpoint_is_written_leaves_the_one_before(make_config, tmp_path, monkeypatch):
    config = make_config(iterations=6, checkpoint_every=2)
    whole = trained(config, tmp_path / "whole")
    run = RunFolder(tmp_path / "run")
    run.create()
    saved = []

    def save(content, path):
        saved.append(path)
        if len(saved) == 2:
            Path(path).write_bytes(b"half")
            raise Killed
        original(content, path)

    original = torch.save
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", save)
        with pytest.raises(Killed):
            fit(config, run)
    assert load_checkpoint(run.last)["step"] == 2
    fit(config, run)
    assert_equal(load_checkpoint(run.last), whole)


def test_hidden_labels_change_no_bit_when_their_files_are_gone(make_config, phantom, tmp_path):
    def run_on(folder: Path, name: str) -> dict:
        config = make_config()
        data = config.data.model_copy(
            update={"datasets": (folder,), "labelled": {"scanner_a": 1}, "store": tmp_path / name}
        )
        return trained(config.model_copy(update={"data": data}), tmp_path / f"{name}-run")

    full, bare = tmp_path / "full" / "phantom", tmp_path / "bare" / "phantom"
    shutil.copytree(phantom.root, full)
    shutil.copytree(phantom.root, bare)
    hidden = phantom.labelled()[1:]
    assert hidden
    for case in hidden:
        (bare / "labelsTr" / case.label.name).unlink()
    for case in phantom.split("test"):
        (bare / "labelsTs" / case.label.name).unlink()
    first = run_on(full, "a")
    assert_equal(run_on(bare, "b"), first)


def test_two_processes_give_the_weights_of_one(make_config, tmp_path):
    # SGD: AdamW divides a gradient of nearly zero by itself and so makes rounding visible.
    config = make_config(iterations=2, optimiser="sgd", learning_rate=0.01, gradient_clip=0.0)
    settings = {**config.plan.network.settings, "dropout": 0.0}
    plan = config.plan.model_copy(update={"network": config.plan.network.model_copy(update={"settings": settings})})
    config = config.model_copy(update={"plan": plan})
    one = trained(config, tmp_path / "one")
    run = RunFolder(tmp_path / "two")
    run.create()
    shared = config.model_copy(update={"training": config.training.model_copy(update={"devices": 2})})
    fit_on_devices(shared, run)
    two = load_checkpoint(run.last)
    for name, tensor in one["method"].items():
        torch.testing.assert_close(two["method"][name], tensor, rtol=1e-4, atol=1e-6)


SCRIPT = """
import sys
from pathlib import Path
from semivox.training.config import Config
from semivox.training.fit import fit
from semivox.training.stopping import Interrupted
from semivox.training.run import RunFolder

if __name__ == "__main__":
    run = RunFolder(Path(sys.argv[1]))
    try:
        fit(Config.load(run.config), run)
    except Interrupted as stop:
        print(stop)
        sys.exit(130)
"""


def started(run: RunFolder, config: Config, script: Path, steps: int) -> subprocess.Popen:
    """A training process that has logged at least `steps` steps."""
    run.create()
    config.save(run.config)
    script.write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, script, run.path], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if run.log.exists() and len(run.log.read_text().splitlines()) > steps:
            return process
        time.sleep(0.01)
    raise AssertionError(f"training did not get to step {steps}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_real_signal_loses_nothing(make_config, tmp_path, number):
    config = make_config(iterations=60, checkpoint_every=5)
    whole = trained(config, tmp_path / "whole")
    run = RunFolder(tmp_path / "run")
    process = started(run, config, tmp_path / "train.py", steps=8)
    os.kill(process.pid, number)
    out, _ = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "semivox train --resume" in out
    assert 5 <= load_checkpoint(run.last)["step"] < 60
    fit(config, run)
    assert_equal(load_checkpoint(run.last), whole)


def test_a_checkpoint_that_carries_code_is_refused_unread(tmp_path):
    class Code:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    torch.save({"format": 1, "method": Code()}, tmp_path / "last.pt")
    with pytest.raises(RunError, match="carries more than weights"):
        load_checkpoint(tmp_path / "last.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 truncated"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(RunError) as caught:
        load_checkpoint(tmp_path / "last.pt")
    assert "last.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    save_checkpoint(tmp_path / "last.pt", {"step": 3})
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save({**content, "format": 99}, tmp_path / "last.pt")
    with pytest.raises(RunError, match="not a checkpoint of this version"):
        load_checkpoint(tmp_path / "last.pt")


def test_a_run_in_use_is_refused(tmp_path):
    run = RunFolder(tmp_path)
    with run.locked(), pytest.raises(RunError, match="in use by another process"), run.locked():
        pass
    with run.locked():
        pass


def test_a_folder_that_holds_a_run_is_not_overwritten(make_config, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create()
    make_config().save(run.config)
    with pytest.raises(RunError, match="already holds a run; continue it with `semivox train --resume"):
        run.create()


def test_config_round_trips(make_config, tmp_path):
    config = make_config()
    config.save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml") == config
