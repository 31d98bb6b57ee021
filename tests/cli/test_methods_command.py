"""`semivox methods test`: one line a check, the fault named, the exit code."""

import re
from pathlib import Path

import pytest

from semivox import testing
from semivox.cli import main
from semivox.testing import CHECKS, report


def test_without_a_method_it_is_a_one_line_error(capsys):
    assert main(["methods", "test"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("semivox: which method? give a name or path/to/file.py:Class")


def test_an_unknown_method_is_a_one_line_error(capsys):
    assert main(["methods", "test", "mean_techer"]) == 2
    assert "did you mean 'mean_teacher'?" in capsys.readouterr().err


def test_two_names_are_refused(capsys):
    assert main(["methods", "mean_teacher", "supervised"]) == 2
    assert "give one name, or `test` and a name" in capsys.readouterr().err


@pytest.fixture
def quick(monkeypatch):
    """All checks but the two that take seconds; these have tests of their own."""
    chosen = [
        check
        for check in CHECKS
        if check.__name__ not in ("training_learns", "two_processes_give_the_loss_and_gradient_of_one")
    ]
    monkeypatch.setattr(report, "CHECKS", chosen)
    return chosen


def test_each_check_is_a_line_and_all_passed_is_0(quick, capsys):
    assert main(["methods", "test", "mean_teacher"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == len(quick)
    assert all(re.fullmatch(r"ok      [a-z0-9 ]+ \(\d+\.\d s\)", line) for line in lines)
    assert last == f"mean_teacher: all {len(quick)} checks passed"


def test_a_method_is_tried_with_the_settings_that_are_given(monkeypatch, capsys):
    seen = []

    def a_look(candidate):
        seen.append(candidate.bench().method.settings.consistency_weight)

    monkeypatch.setattr(report, "CHECKS", [a_look])
    assert main(["methods", "test", "mean_teacher", "-s", "consistency_weight=0.25", "ramp_share=0"]) == 0
    assert seen == [0.25]


MISTAKEN_SETTINGS = {
    "test mean_teacher -s consistency_wait=1": "did you mean 'consistency_weight'?",
    "test mean_teacher -s consistency_weight=-1": "consistency_weight: input should be greater than or equal to 0",
    "test mean_teacher -s training.iterations=5": "-s training.iterations: the phantom's runs are fixed",
    "mean_teacher -s ramp_share=1": "-s ramp_share=1: settings are for a test; give `test` before the method's name",
}


@pytest.mark.parametrize("words", MISTAKEN_SETTINGS)
def test_settings_that_cannot_be_are_one_line_errors(words, capsys):
    assert main(["methods", *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert MISTAKEN_SETTINGS[words] in line


FAULTY = '''
from semivox import Demand, Method, MethodSettings, Views
from semivox.losses.consistency import softmax_mse


class Faulty(Method):
    """Forgets to move its average, and divides by the voxels that count, however few."""

    views = Views(labelled=("weak",), unlabelled=("weak",))

    def build(self, problem):
        self.problem = problem
        self.student = problem.network()
        self.teacher = problem.average(self.student, 0.9)

    def losses(self, batch, clock):
        valid = batch.unlabelled.valid
        distance = (self.student(batch.unlabelled.image) - self.teacher(batch.unlabelled.image)).square().mean(1)
        supervised = self.problem.supervised_loss(self.student(batch.labelled.image), batch.labelled)
        return {"supervised": supervised, "consistency": (distance * valid).sum() / valid.sum()}

    def after_step(self, clock):
        pass

    def inference_modules(self):
        return (self.student,)
'''


def test_a_faulty_file_is_told_what_is_wrong_and_how_to_mend_it(quick, tmp_path: Path, capsys):
    file = tmp_path / "faulty.py"
    file.write_text(FAULTY)
    assert main(["methods", "test", f"{file}:Faulty"]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("FAILED")]
    assert last == f"{file}:Faulty: 2 of {len(quick)} checks failed"
    empty, still = failed
    assert re.search(
        r"may lack classes.*a batch without an unlabelled voxel: term 'consistency' is nan; .*batch_mean", empty
    )
    assert re.search(r"averages follow.*the averages teacher never move; after_step must call", still)


def test_it_is_public_python():
    assert {"CHECKS", "Candidate", "Workbench", "run_checks"} <= set(testing.__all__)
