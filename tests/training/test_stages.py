"""What happens when a stage begins: weights, schedules, pseudo-labels, and what a kill in there leaves."""

import os
import signal

import numpy as np
import pytest
import torch
from test_resume import Killed, assert_equal, killed_at, trained

from semivox.errors import RunError
from semivox.methods import METHODS
from semivox.methods.method import Stage
from semivox.methods.self_training import SelfTraining
from semivox.methods.supervised import Supervised
from semivox.training.checkpoint import load_checkpoint
from semivox.training.engine import spans
from semivox.training.fit import (
    build,
    fit,
    fit_on_devices,
    make_engine,
    open_store,
    read_data,
    seconds_per_step,
    training_data,
)
from semivox.training.labelling import StoredLabels
from semivox.training.log import read_log
from semivox.training.optimisation import learning_rate_factor
from semivox.training.run import RunFolder
from semivox.training.stopping import Interrupted
from semivox.training.validation import Validation


class FourStages(Supervised):
    """Resets its optimisers at its second and its fourth stage."""

    def stages(self):
        return (
            Stage("a", 2, keep_optimisers=False),
            Stage("b", 3, keep_optimisers=False),
            Stage("c", 2),
            Stage("d", 3, keep_optimisers=False),
        )


class Fresh(SelfTraining):
    """Self-training whose second network is drawn anew, in `prepare_stage`."""

    def prepare_stage(self, stage, tools):
        super().prepare_stage(stage, tools)
        if stage.name == "all":
            self.network.load_state_dict(self.problem.network().state_dict())


class DrawsLabels(Fresh):
    """Its labels are noise from torch's generator."""

    def hard_label(self, case, tools):
        return torch.rand(tools.predict(case, lambda image: self.predict(image, case.task)).shape).argmax(0)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for kind in (FourStages, Fresh, DrawsLabels):
        monkeypatch.setitem(METHODS, kind.__name__, f"{__name__}:{kind.__name__}")


def killed_while_labelling(written, config, folder, monkeypatch) -> RunFolder:
    """A run that died when `written` pseudo-labels of a stage were on disk."""
    run = RunFolder(folder)
    run.create()
    original, names = StoredLabels.write, []

    def write(labels, case_id, label, reliability=None):
        if len(names) == written:
            raise Killed
        names.append(case_id)
        original(labels, case_id, label, reliability)

    with monkeypatch.context() as patch:
        patch.setattr(StoredLabels, "write", write)
        with pytest.raises(Killed):
            fit(config, run)
    return run


def stored(run: RunFolder) -> dict[str, bytes]:
    """The pseudo-labels of the stage `all`."""
    return {file.name: file.read_bytes() for file in (run.pseudo_labels / "all" / "cases").glob("*.npy")}


def test_a_reset_begins_a_schedule_that_spans_the_stages_until_the_next(make_config, tmp_path):
    config = make_config("FourStages", iterations=20, warmup_share=0.3)
    run = RunFolder(tmp_path / "run")
    run.create()
    fit(config, run)
    training = config.training
    lengths = (4, 10, 6)  # a; b and c; d
    factors = [learning_rate_factor(step, n, "poly", training) for n in lengths for step in range(n)]
    rates = [float(row["learning_rate"]) for row in read_log(run.log)]
    assert rates == pytest.approx([training.learning_rate * factor for factor in factors], rel=1e-4)
    assert [i for i in range(1, 20) if rates[i] < 0.01 * rates[i - 1]] == [4, 14]
    (optimiser,) = load_checkpoint(run.last)["optimisers"]
    assert {int(state["step"]) for state in optimiser["state"].values()} == {lengths[-1]}


def test_fresh_weights_follow_from_seed_and_stage_alone(make_config, tmp_path, monkeypatch):
    config = make_config("Fresh", iterations=6, checkpoint_every=100)
    made = []
    original = Fresh.prepare_stage

    def prepare_stage(method, stage, tools):
        original(method, stage, tools)
        made.append(next(method.network.parameters()).detach().clone())

    monkeypatch.setattr(Fresh, "prepare_stage", prepare_stage)
    trained(config, tmp_path / "first")
    longer = config.model_copy(update={"training": config.training.model_copy(update={"learning_rate": 1e-4})})
    trained(longer, tmp_path / "second")
    trained(config.model_copy(update={"seed": 1}), tmp_path / "third")
    (start, fresh), (_, after_other_training), (_, of_another_seed) = made[0:2], made[2:4], made[4:6]
    assert torch.equal(fresh, after_other_training)
    assert not torch.equal(fresh, start)
    assert not torch.equal(fresh, of_another_seed)


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_resumed_equals_uninterrupted_in_each_stage(make_config, tmp_path, monkeypatch, step):
    config = make_config("Fresh", iterations=6, checkpoint_every=100)
    whole = trained(config, tmp_path / "whole")
    run = killed_at(step, config, tmp_path / "killed", monkeypatch)
    fit(config, run)
    assert_equal(load_checkpoint(run.last), whole)


@pytest.mark.parametrize("written", [0, 1, 3])
def test_a_kill_while_labelling_makes_no_label_twice_and_changes_no_bit(make_config, tmp_path, monkeypatch, written):
    config = make_config("DrawsLabels", iterations=6)
    whole = trained(config, tmp_path / "whole")
    run = killed_while_labelling(written, config, tmp_path / "killed", monkeypatch)
    before = {file: file.stat().st_mtime_ns for file in (run.pseudo_labels / "all" / "cases").glob("*.npy")}
    assert len(before) == written
    half = run.pseudo_labels / "all" / "cases" / ".writing-half"
    half.mkdir(parents=True, exist_ok=True)
    fit(config, run)
    assert_equal(load_checkpoint(run.last), whole)
    assert not half.exists()
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert stored(run) == stored(RunFolder(tmp_path / "whole"))
    assert len(set(stored(run).values())) == 4  # each case draws its own


def test_labels_of_an_earlier_attempt_are_not_taken_for_this_one(make_config, tmp_path, monkeypatch):
    """Another start from step 0, as when somebody takes the checkpoint away, comes to other weights."""
    config = make_config("self_training", iterations=6)
    other = make_config("self_training", iterations=6, learning_rate=0.1)
    whole = trained(other, tmp_path / "whole")
    run = killed_while_labelling(3, config, tmp_path / "killed", monkeypatch)
    run.last.unlink()
    fit(other, run)
    assert_equal(load_checkpoint(run.last), whole)


def test_labels_that_are_gone_are_told_in_one_line(make_config, tmp_path, monkeypatch):
    config = make_config("self_training", iterations=6, checkpoint_every=1)
    run = killed_at(4, config, tmp_path / "run", monkeypatch)
    for file in (run.pseudo_labels / "all" / "cases").glob("*.npy"):
        file.write_bytes(b"")
    with pytest.raises(RunError, match=r"phantom_00\d\.npy: no pseudo-label.*'all' trains on it; start the run anew"):
        fit(config, run)
    for file in (run.pseudo_labels / "all" / "cases").iterdir():
        file.unlink()
    with pytest.raises(RunError, match="all: no pseudo-label"):
        fit(config, run)


def test_ctrl_c_while_labelling_stops_after_a_whole_case(make_config, tmp_path, monkeypatch):
    config = make_config("self_training", iterations=6)
    whole = trained(config, tmp_path / "whole")
    run = RunFolder(tmp_path / "run")
    run.create()
    original, pressed = StoredLabels.write, []

    def write(labels, case_id, label, reliability=None):
        if not pressed:
            pressed.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        original(labels, case_id, label, reliability)

    with monkeypatch.context() as patch:
        patch.setattr(StoredLabels, "write", write)
        with pytest.raises(Interrupted, match=r"after step 2 of 6; continue with: semivox train --resume"):
            fit(config, run)
    assert len(stored(run)) == 1
    fit(config, run)
    assert_equal(load_checkpoint(run.last), whole)


def test_a_pseudo_labelled_stream_holds_the_kept_cases_with_their_labels(make_config, tmp_path):
    config = make_config("self_training")
    dataset = training_data(read_data(config.data), None)
    method, _ = build(config, dataset)
    store = open_store(config, dataset)
    engine = make_engine(config, dataset, store, method, folder=tmp_path)
    unlabelled = [case.id for case in dataset.unlabelled()]
    labels = engine.labelling.labels_of("all")
    for number, case_id in enumerate(unlabelled):
        labels.write(case_id, np.full(store.image(case_id).shape[1:], number, np.uint8))
    labels.keep(unlabelled[1:3])
    first, second = engine.spans[0].stage, engine.spans[1].stage
    assert engine.loader(first)[0].unlabelled is None
    loader = engine.loader(second)
    seen = set()
    for step in range(4):
        stream = loader[step].unlabelled
        for case_id, crop in zip(stream.case, stream.crops(stream.pseudo), strict=True):
            seen.add(case_id)
            assert set(crop.unique().tolist()) <= {unlabelled.index(case_id), 255}
    assert seen == set(unlabelled[1:3])


def test_timing_labels_nothing(make_config, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("timing prepares no stage")

    monkeypatch.setattr(SelfTraining, "prepare_stage", refuse)
    config = make_config("self_training", iterations=1, workers=1)
    dataset = training_data(read_data(config.data), None)
    assert 0 < seconds_per_step(config, dataset, open_store(config, dataset)) < 30


def test_two_processes_go_on_where_one_was_killed_while_labelling(make_config, tmp_path, monkeypatch):
    config = make_config(f"{__file__}:Fresh", iterations=4, optimiser="sgd", learning_rate=0.01, gradient_clip=0.0)
    settings = {**config.plan.network.settings, "dropout": 0.0}
    plan = config.plan.model_copy(update={"network": config.plan.network.model_copy(update={"settings": settings})})
    config = config.model_copy(update={"plan": plan})
    whole = trained(config, tmp_path / "whole")
    run = killed_while_labelling(1, config, tmp_path / "killed", monkeypatch)
    shared = config.model_copy(update={"training": config.training.model_copy(update={"devices": 2})})
    fit_on_devices(shared, run)
    assert len(stored(run)) == 4
    assert stored(run) == stored(RunFolder(tmp_path / "whole"))
    content = load_checkpoint(run.last)
    assert content["step"] == 4
    for name, tensor in whole["method"].items():
        torch.testing.assert_close(content["method"][name], tensor, rtol=1e-4, atol=1e-6)


def test_only_the_last_stage_stops_for_want_of_patience(make_config, tmp_path, monkeypatch):
    original = Validation.__init__

    def flat(self, run, every, patience, score, log):
        original(self, run, every, patience, lambda: 0.5, log)

    monkeypatch.setattr(Validation, "__init__", flat)
    config = make_config("self_training", iterations=21, selection="validation", validate_every=2, patience=1)
    run = RunFolder(tmp_path / "run")
    run.create()
    fit(config, run)
    last = read_log(run.log)[-1]
    assert (last["stage"], int(last["step"])) == ("all", 9)  # it began at 7, so 8 is too early


def test_the_best_model_on_validation_is_one_of_the_last_stage(make_config, tmp_path, monkeypatch):
    original = Validation.__init__
    scores = iter([0.9, 0.8, 0.7, 0.3, 0.4, 0.2])

    def scripted(self, run, every, patience, score, log):
        original(self, run, every, patience, lambda: next(scores), log)

    monkeypatch.setattr(Validation, "__init__", scripted)
    config = make_config("FourStages", iterations=6, selection="validation", validate_every=1)
    run = RunFolder(tmp_path / "run")
    run.create()
    fit(config, run)
    assert [row["stage"] for row in read_log(run.log)] == ["a", "b", "b", "c", "d", "d"]
    best = load_checkpoint(run.best)
    assert (best["step"], best["dice"]) == (5, 0.4)


def test_log_and_progress_say_which_stage_runs_and_when_it_labels(make_config, tmp_path, monkeypatch, capsys):
    config = make_config("self_training_plus", iterations=8, checkpoint_every=1)
    run = killed_at(6, config, tmp_path / "run", monkeypatch)
    said = capsys.readouterr().err
    assert "stage 1 of 3 (labelled): steps 0 to 1 of 8" in said
    assert said.index("stage 2 of 3 (reliable): labelling 4 of 4 unlabelled scans") < said.index("steps 2 to 3 of 8")
    assert "stage 3 of 3 (all): labelled in" in said
    fit(config, run)
    assert "stage 3 of 3 (all): continuing at step 6 of 8" in capsys.readouterr().err
    assert [row["stage"] for row in read_log(run.log)] == ["labelled"] * 2 + ["reliable"] * 2 + ["all"] * 4


def test_every_stage_of_a_short_run_has_a_step():
    assert [(span.start, span.end) for span in spans((Stage("a", 1), Stage("b", 9)), 3)] == [(0, 1), (1, 3)]
