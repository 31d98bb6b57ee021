"""`semivox benchmark` as a user types it: what is printed, and the exit codes."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from semivox.cli import main
from semivox.cli.benchmark import duration
from semivox.experiments import benchmark as module
from semivox.experiments.benchmark import Cell, Outcome
from semivox.training.stopping import Interrupted


@pytest.fixture
def called(monkeypatch):
    """Stands for the benchmark: takes down what was asked for, and comes to what `called.outcome` holds."""
    record = SimpleNamespace(outcome=Outcome(Path("runs"), None, (), {}, (), ()))

    def make_grid(*positional, **named):
        record.positional, record.named = positional, named
        return record

    def benchmark(grid, **limits):
        assert grid is record
        record.limits = limits
        if isinstance(record.outcome, Exception):
            raise record.outcome
        return record.outcome

    monkeypatch.setattr(module, "make_grid", make_grid)
    monkeypatch.setattr(module, "benchmark", benchmark)
    return record


def test_only_what_is_given_is_passed_on(called):
    assert main(["benchmark", "acdc_cpu"]) == 0
    assert called.positional == ("acdc_cpu", ())
    assert called.named == {"labelled": None}
    assert called.limits == {}
    words = (
        "benchmark p.yaml --method mt cps --seeds 2 --data d --out o --labelled 3 --jobs 1 --budget 1h30m --development"
    )
    assert main([*words.split(), "-s", "mt.ramp_share=1"]) == 0
    assert called.positional == ("p.yaml", ["mt", "cps"])
    assert called.named == {
        "seeds": 2,
        "data": Path("d"),
        "out": Path("o"),
        "labelled": 3,
        "development": True,
        "settings": ["mt.ramp_share=1"],
    }
    assert called.limits == {"jobs": 1, "budget_s": 5400.0}


def test_help_names_the_shipped_protocols_without_importing_torch():
    code = (
        "import sys\n"
        "from semivox.cli import main\n"
        "try: main(['benchmark', '--help'])\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "acdc, acdc_cpu, acdc_sss," in " ".join(done.stdout.split())
    assert done.stdout.splitlines()[-1] == "False"


def test_failed_cells_are_named_and_make_exit_code_1(called, capsys):
    cells = [Cell("mean_teacher", 3, seed, Path("runs")) for seed in range(3)]
    called.outcome = Outcome(Path("runs"), None, (), {cells[0]: "failed: no luck"}, (cells[1],), (cells[2],))
    assert main(["benchmark", "acdc_cpu"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "semivox: mean_teacher, 3 labelled, seed 0: failed: no luck",
        "semivox: another process works on 1 cells; give the same command again to go on; what is finished is kept",
        "semivox: the time is up with 1 cells left; give the same command again to go on; what is finished is kept",
    ]


def test_a_benchmark_that_was_stopped_says_how_to_go_on(called, capsys):
    called.outcome = Interrupted("stopped; give the same command again")
    assert main(["benchmark", "acdc_cpu"]) == 130
    assert "give the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("1m5s", 65)])
def test_a_time_is_read_with_its_units(text, seconds):
    assert duration(text) == seconds
