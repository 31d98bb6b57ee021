"""What the engine does around a method: selection, schedules, health, faults of the loss."""

from dataclasses import replace

import pytest
import torch

from semivox.errors import ResourceError, RunError
from semivox.methods import METHODS
from semivox.methods.method import Optimiser, Stage
from semivox.methods.supervised import Supervised
from semivox.training import engine as engine_module
from semivox.training.checkpoint import load_checkpoint
from semivox.training.engine import Engine, spans
from semivox.training.fit import (
    build,
    fit,
    open_store,
    read_data,
    seconds_per_step,
    selection_cases,
    selection_score,
    training_data,
)
from semivox.training.log import health, read_log
from semivox.training.optimisation import learning_rate_factor
from semivox.training.run import RunFolder
from semivox.training.validation import Validation


def started(folder) -> RunFolder:
    run = RunFolder(folder)
    run.create()
    return run


def test_stages_share_the_steps_and_leave_none_out():
    laid = spans((Stage("a", 0.3), Stage("b", 0.1), Stage("c", 0.6)), 10)
    assert [(span.start, span.end) for span in laid] == [(0, 3), (3, 4), (4, 10)]
    assert [(span.start, span.end) for span in spans((Stage("a", 0.01), Stage("b", 1.0)), 5)] == [(0, 1), (1, 5)]
    with pytest.raises(RunError, match="fewer than the method's 3 stages"):
        spans((Stage("a"), Stage("b"), Stage("c")), 2)


def test_poly_schedule_takes_the_documented_values(make_config):
    training = make_config(warmup_share=0.0).training
    assert 0.01 * learning_rate_factor(15000, 30000, "poly", training) == pytest.approx(0.005358867)
    assert 0.01 * learning_rate_factor(29999, 30000, "poly", training) == pytest.approx(0.000000935, abs=1e-9)
    assert learning_rate_factor(1, 2, "cosine", training) == pytest.approx(0.5)
    assert learning_rate_factor(9, 10, "constant", training) == 1.0


def test_step_schedule_falls_to_a_tenth_after_every_so_many_steps(make_config):
    training = make_config(warmup_share=0.0, schedule="step", step_every=2500).training
    rates = [learning_rate_factor(step, 6000, "step", training) for step in (0, 2499, 2500, 4999, 5000, 5999)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_learning_rate_warms_up(make_config):
    training = make_config(warmup_share=0.1).training
    assert learning_rate_factor(5, 100, "constant", training) == pytest.approx(0.5)
    assert 0 < learning_rate_factor(0, 100, "constant", training) < 0.01


def test_best_on_validation_is_kept_and_a_flat_curve_stops_at_patience(make_config, tmp_path, monkeypatch):
    scores = iter([0.2, 0.5, 0.5, 0.4, 0.9])
    original = Validation.__init__

    def scripted(self, run, every, patience, score, log):
        original(self, run, every, patience, lambda: next(scores), log)

    monkeypatch.setattr(Validation, "__init__", scripted)
    config = make_config("supervised", iterations=20, selection="validation", validate_every=2, patience=2)
    run = started(tmp_path / "run")
    fit(config, run)
    assert load_checkpoint(run.best)["step"] == 4
    assert load_checkpoint(run.best)["dice"] == 0.5
    validated = [(int(row["step"]), row["validation/dice"]) for row in read_log(run.log) if row["validation/dice"]]
    assert validated == [(1, "0.2"), (3, "0.5"), (5, "0.5"), (7, "0.4")]


def test_validation_scores_real_cases(make_config, tmp_path):
    config = make_config("supervised", iterations=2, selection="validation")
    run = started(tmp_path / "run")
    fit(config, run)
    assert 0 <= load_checkpoint(run.best)["dice"] <= 1


class BlowsUp(Supervised):
    """Its loss is NaN from the third step on."""

    def losses(self, batch, clock):
        terms = super().losses(batch, clock)
        return terms if clock.step < 2 else {name: term * float("nan") for name, term in terms.items()}


def test_nan_never_reaches_the_weights_and_is_told_after_a_while(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "MAX_SKIPPED", 3)
    monkeypatch.setitem(METHODS, "blows_up", f"{__name__}:BlowsUp")
    run = started(tmp_path / "run")
    with pytest.raises(RunError, match=r"step 5: the loss has not been finite for 3 steps \(supervised nan\)"):
        fit(make_config("blows_up", iterations=20), run)
    weights = load_checkpoint(run.last)["method"]
    assert all(torch.isfinite(tensor).all() for tensor in weights.values() if tensor.is_floating_point())


class HalfBlowsUp(Supervised):
    """Of its two optimisers one goes on learning when the other's loss is NaN."""

    def steps(self, batch, clock):
        yield from super().steps(batch, clock)
        yield "other", lambda: {"other": (self.network(batch.labelled.image) * float("nan")).mean()}

    def optimisers(self):
        return [*super().optimisers(), Optimiser("other", (self.network,))]


def test_an_optimiser_that_stays_nan_is_told_also_where_another_goes_on(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "MAX_SKIPPED", 3)
    monkeypatch.setitem(METHODS, "half_blows_up", f"{__name__}:HalfBlowsUp")
    with pytest.raises(RunError, match=r"step 3: the loss has not been finite for 3 steps \(other nan\)"):
        fit(make_config("half_blows_up", iterations=20), started(tmp_path / "run"))


def test_out_of_memory_is_one_line_that_names_the_setting(make_config, tmp_path, monkeypatch):
    def training_step(engine, batch, index):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(Engine, "training_step", training_step)
    with pytest.raises(ResourceError, match=r"out of memory at step 0; lower plan\.batch\.unlabelled"):
        fit(make_config(), started(tmp_path / "run"))


def test_health_counts_agreement_and_shares():
    teacher = torch.tensor([[[5.0, 0.0, 0.0, 5.0], [0.0, 5.0, 5.0, 0.0]]])
    student = torch.tensor([[[5.0, 5.0, 0.0, 5.0], [0.0, 0.0, 5.0, 0.0]]])
    found = health(
        {"teacher": teacher, "student": student, "kept": torch.tensor([[True, False, True, True]])}, ("a", "b")
    )
    assert found == {"pseudo/share/a": 0.5, "pseudo/share/b": 0.5, "pseudo/agreement": 0.75, "pseudo/kept": 0.75}
    assert health({}, ("a",)) == {}


def test_timing_measures_and_leaves_no_trace(make_config, tmp_path):
    config = make_config(iterations=1)
    dataset = training_data(read_data(config.data), None)
    assert 0 < seconds_per_step(config, dataset, open_store(config, dataset)) < 30
    assert not list(tmp_path.iterdir())


def test_compile_reaches_every_network(make_config, tmp_path, monkeypatch):
    from semivox.networks.network import Network

    compiled = []
    monkeypatch.setattr(Network, "compile", lambda network: compiled.append(type(network).__name__))
    fit(make_config("supervised", iterations=1, compile=True), started(tmp_path / "run"))
    assert compiled == ["VNet", "VNet"]  # the network and its average


def test_the_step_that_is_best_on_test_cases_is_kept_only_where_that_is_asked_for(make_config, tmp_path):
    """As published: the score is that of the kept weights on the test cases, whose labels training does not see."""
    config = make_config("supervised", iterations=4, selection="test", validate_every=1)
    whole = read_data(config.data)
    dataset = training_data(whole, config.data.labelled)
    assert {case.split for case in selection_cases(config, whole, dataset)} == {"test"}
    assert not any(case.label for case in dataset.split("test"))
    run = started(tmp_path / "run")
    fit(config, run)
    scores = {int(row["step"]) + 1: row["validation/dice"] for row in read_log(run.log) if row["validation/dice"]}
    content = load_checkpoint(run.best)
    assert content["step"] == max(scores, key=lambda step: float(scores[step]))

    method, _ = build(config, dataset)
    method.load_state_dict(content["method"])
    method.eval()
    judges = selection_cases(config, whole, dataset)
    with torch.inference_mode():
        dice = selection_score(config, dataset, judges, open_store(config, dataset, judges), method)()
    assert dice == pytest.approx(content["dice"])


@pytest.mark.parametrize("selection", ["last", "validation"])
def test_without_being_asked_no_test_case_chooses(make_config, selection):
    config = make_config("supervised", selection=selection)
    whole = read_data(config.data)
    cases = selection_cases(config, whole, training_data(whole, config.data.labelled))
    assert [case.split for case in cases] == (["val"] * len(cases))
    assert bool(cases) == (selection == "validation")


@pytest.mark.parametrize(("selection", "words"), [("validation", "no validation case"), ("test", "no test case")])
def test_a_selection_without_a_label_to_choose_by_is_one_line(make_config, selection, words):
    config = make_config("supervised", selection=selection)
    whole = read_data(config.data)
    bare = replace(whole, cases=tuple(replace(case, label=None) for case in whole))
    with pytest.raises(RunError, match=f"training.selection is '{selection}' but {words} has a label") as caught:
        selection_cases(config, bare, bare)
    assert "\n" not in str(caught.value)
