"""Faults that users make are found by the check that is about them, and named with their cure."""

from pathlib import Path

import pytest

from semivox.errors import SettingError
from semivox.testing import CHECKS, Candidate, Workbench, run_checks
from semivox.testing.checks import (
    a_batch_may_lack_classes_labels_and_voxels,
    a_killed_run_resumes_exactly,
    a_loaded_model_predicts_what_the_trained_one_does,
    a_model_folder_holds_only_what_prediction_needs,
    any_size_predicts,
    averages_follow_their_sources,
    gradient_reaches_every_trained_weight,
    hidden_labels_are_never_opened,
    losses_are_finite_and_never_negative,
    losses_in_bf16_are_near_those_in_float32,
    padding_never_counts,
    the_same_seed_gives_the_same_weights,
    training_learns,
    two_processes_give_the_loss_and_gradient_of_one,
)
from semivox.testing.checks.weights import TURNS

TERM = '"consistency": weight * softmax_mse(student, teacher, kept),'
RETURN = "        return (self.teacher,)\n"
TEACHER = 'self.teacher = problem.average(self.student, self.settings.average_decay, mode="train")'

FAULTS = {
    "a negative term": (
        losses_are_finite_and_never_negative,
        [(TERM, TERM.replace("weight *", "-weight *"))],
        "2-D: term 'consistency' is -.*0 is its best value",
    ),
    "a term per voxel": (
        losses_are_finite_and_never_negative,
        [(TERM, '"consistency": weight * (student.softmax(1) - teacher.softmax(1)) ** 2,')],
        r"term 'consistency' has the shape \[2, 4, 24, 24\]; take its mean",
    ),
    "a mean over nothing": (
        a_batch_may_lack_classes_labels_and_voxels,
        [(TERM, '"consistency": weight * ((student - teacher) ** 2).mean(1)[kept].mean(),')],
        "2-D, a batch without an unlabelled voxel: term 'consistency' is nan; .*batch_mean",
    ),
    "a root at 0": (
        a_batch_may_lack_classes_labels_and_voxels,
        [(TERM, '"consistency": weight * softmax_mse(student, teacher, kept).sqrt(),')],
        "the gradient of .* is not finite though the terms are; keep roots",
    ),
    "padding that counts": (
        padding_never_counts,
        [("batch.unlabelled.valid & (", "(")],
        "term 'consistency' goes from .* all padding; weigh its voxels with `stream.valid`",
    ),
    "a sum in half precision": (
        losses_in_bf16_are_near_those_in_float32,
        [(TERM, '"consistency": weight * sum((student * student).flatten()) / student.numel(),')],
        "in bfloat16, .* in float32; compute losses on losses.reduction.full_precision",
    ),
    "a copy that is no average": (
        gradient_reaches_every_trained_weight,
        [
            (TEACHER, "import copy; self.teacher = copy.deepcopy(self.student)"),
            ("teacher = self.teacher(noisy)", "teacher = self.teacher(noisy).detach()"),
        ],
        "no gradient reaches teacher.* and .* more; .*make a teacher with problem.average",
    ),
    "a head that no optimiser has": (
        gradient_reaches_every_trained_weight,
        [
            (
                RETURN,
                RETURN + "\n    def optimisers(self):\n        return [Optimiser('main', (self.student.encoder,))]\n",
            )
        ],
        "no optimiser trains student.*; name their module in optimisers",
    ),
    "averages that stand still": (
        averages_follow_their_sources,
        [(RETURN, RETURN + "\n    def after_step(self, clock):\n        pass\n")],
        "the averages teacher never move; after_step must call Average.update",
    ),
    "averages that run away": (
        averages_follow_their_sources,
        [
            (
                RETURN,
                RETURN + "\n    @torch.no_grad()\n    def after_step(self, clock):\n"
                "        for mine, theirs in zip(self.teacher.parameters(), self.student.parameters()):\n"
                "            mine.lerp_(theirs, -0.1)\n",
            )
        ],
        "the average 'teacher' moves away from its source",
    ),
    "logits for probabilities": (
        any_size_predicts,
        [(RETURN, RETURN + "\n    def predict(self, image, task):\n        return self.teacher(image)\n")],
        "2-D: predict gives no probabilities; take the softmax",
    ),
    "a prediction with what is not saved": (
        a_loaded_model_predicts_what_the_trained_one_does,
        [(RETURN, RETURN + "\n    def predict(self, image, task):\n        return self.student(image).softmax(1)\n")],
        "a saved and loaded model predicts otherwise; name every module",
    ),
    "a model that holds too much": (
        a_model_folder_holds_only_what_prediction_needs,
        [
            (RETURN, "        return (self.teacher, self.student)\n"),
            (
                "    def inference_modules",
                "    def predict(self, image, task):\n        return self.teacher(image).softmax(1)\n\n"
                "    def inference_modules",
            ),
        ],
        "a model would hold student.*, which predict does not use",
    ),
    "a hidden label that is opened": (
        hidden_labels_are_never_opened,
        [
            (
                RETURN,
                RETURN + "\n    def prepare_stage(self, stage, tools):\n"
                "        from semivox.data.image import read_label\n"
                "        for case in tools.cases:\n"
                "            file = case.images[0].parents[1] / 'labelsTr' / f'{case.id}.nii.gz'\n"
                "            read_label(file)\n",
            )
        ],
        "a run fails only where the files of hidden labels hold rubbish .*take labels from batch.labelled alone",
    ),
    "a draw that no seed decides": (
        the_same_seed_gives_the_same_weights,
        [("        weight = ", "        import random\n\n        weight = random.random() * ")],
        "two runs of one seed differ in method.student.*; draw from stream.seeds and clock.seed",
    ),
    "something that is not saved": (
        a_killed_run_resumes_exactly,
        [
            (TEACHER, TEACHER + "\n        self.seen = 0"),
            ("        weight = ", "        self.seen += 1\n        weight = self.seen * "),
        ],
        "a run that was killed and resumed differs in method.student.*; what must survive is a module, a buffer",
    ),
    "noise from the global generator": (
        two_processes_give_the_loss_and_gradient_of_one,
        [("teacher = self.teacher(noisy)", "teacher = self.teacher(clean + 0.1 * torch.randn_like(clean))")],
        "term 'consistency' is .* in one process and .* in two; .*stream.seeds",
    ),
    "a mean per process": (
        two_processes_give_the_loss_and_gradient_of_one,
        [
            (
                TERM,
                '"consistency": weight * (((student - teacher) ** 2).mean(1) * kept).sum() / kept.sum().clamp(min=1),',
            )
        ],
        "in one process and .* in two; sum over the batch with losses.reduction",
    ),
    "labels that do not teach": (
        training_learns,
        [
            (
                "self.problem.supervised_loss(supervised, labelled)",
                "0 * self.problem.supervised_loss(supervised, labelled) + 1",
            )
        ],
        "the supervised loss only goes from 1.000 to 1.000",
    ),
    "a prediction of nothing learnt": (
        training_learns,
        [
            (TEACHER, TEACHER + "\n        self.other = problem.frozen(problem.network())"),
            (RETURN, "        return (self.other,)\n"),
        ],
        "Dice on unlabelled training cases only goes from .*see that predict uses what was trained",
    ),
}


@pytest.mark.parametrize(("check", "changes", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_named(check, changes, message, user_method, two_processes):
    header = ("import torch\n", "import torch\nfrom semivox.methods.method import Optimiser\n")
    candidate = Candidate(user_method(header, *changes), processes=two_processes)
    with pytest.raises(AssertionError, match=message):
        check(candidate)


def test_averages_are_watched_within_one_stage_however_short_it_is(user_method, monkeypatch):
    seen = []
    original = Workbench.train_step

    def train_step(bench, batch):
        seen.append(bench.stage.name)
        original(bench, batch)

    monkeypatch.setattr(Workbench, "train_step", train_step)
    stages = "    def stages(self):\n        return (Stage('short', 1), Stage('long', 9))\n"
    still = "    def after_step(self, clock):\n        pass\n"
    header = ("import torch\n", "import torch\nfrom semivox.methods.method import Stage\n")
    candidate = Candidate(user_method(header, (RETURN, f"{RETURN}\n{stages}\n{still}")))
    with pytest.raises(AssertionError, match="never move"):
        averages_follow_their_sources(candidate)
    assert seen == ["short"] * TURNS + ["long"] * TURNS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_method_of_the_guide_passes(check, user_method, two_processes):
    check(Candidate(user_method(), processes=two_processes))


def test_every_check_says_what_must_hold():
    for check in CHECKS:
        assert check.__doc__, check.__name__


def test_a_method_that_is_not_there_is_told_before_anything_is_tried():
    with pytest.raises(SettingError, match="did you mean 'mean_teacher'"):
        next(run_checks("mean_techer"))
    with pytest.raises(SettingError, match="did you mean 'sam2'"):
        next(run_checks("mean_teacher", network="sam3"))


def test_a_method_is_tried_with_the_network_that_is_named():
    tried = Candidate("mean_teacher", network="sam2")
    assert tried.dimensions == (2,)
    assert type(tried.bench().method.student).__name__ == "Sam2"
    assert tried.config().plan.network.settings == {"size": "miniature"}


def test_an_error_inside_a_method_names_its_line(user_method):
    name = user_method(
        ("        teacher = self.teacher(noisy)\n", "        teacher = self.teacher(noisy) + self.nothing\n")
    )
    line = 1 + next(
        i for i, text in enumerate(Path(name.rpartition(":")[0]).read_text().splitlines()) if "self.nothing" in text
    )
    outcome = next(run_checks(name))
    assert outcome.fault is not None
    assert "has no attribute 'nothing'" in outcome.fault
    assert outcome.fault.endswith(f"(my_method.py, line {line})")
