"""Benchmarks whose runs are played by a script."""

import json
import sys
from pathlib import Path

import pytest

from semivox.experiments import benchmark as module
from semivox.experiments.benchmark import Grid, benchmark, make_grid
from semivox.experiments.engines import local, slurm

ACTOR = """#!{python}
'''Plays `python -m semivox train`: does to the run folder what a run would, and writes down how it was called.'''
import json, os, pathlib, shutil, signal, sys, time

arguments = sys.argv[3:]
run = pathlib.Path(arguments[arguments.index("--resume" if "--resume" in arguments else "--out") + 1])
stage = pathlib.Path({stage!r})


def note(event):
    line = json.dumps([event, run.name, arguments, time.time(), os.environ["OMP_NUM_THREADS"]]) + "\\n"
    with open(stage / "calls", "a") as calls:
        calls.write(line)


def stop(number, frame):
    note("stopped")
    print("semivox: stopped after step 2 of 4")
    sys.exit(130)


signal.signal(signal.SIGTERM, stop)
note("began")
if os.getsid(0) == os.getpid():
    note("on its own")
part = (stage / run.name).read_text() if (stage / run.name).exists() else "succeed"
run.mkdir(parents=True, exist_ok=True)
shutil.copy(stage / (run.name + ".yaml"), run / "config.yaml")
(run / "log.csv").write_text("step,stage,elapsed_s\\n0,train,0\\n2,train,90\\n")
if part == "fail":
    print("semivox: out of luck; try again")
    sys.exit(2)
if part == "hang":
    time.sleep(60)
time.sleep(0.3)
shutil.copy(stage / "metrics.json", run / "metrics.json")
(run / "report.html").write_text("<html></html>")
note("ended")
"""

METRICS = {
    "cases": [
        {"case": f"case{i}", "domain": "default", "scores": {name: {"dice": 0.5 + i / 10, "hd95": 3.0, "empty": None}}}
        for i in range(3)
        for name in ["liver"]
    ],
    "summary": {"mean": {"dice": {"mean": 0.6}}},
    "unit": "mm",
}


LIMITS = ("engine", "engine_options", "jobs", "budget_s")
"""Arguments of the benchmark and not of its grid."""


class Stage:
    """Where the script finds its parts, and writes down how it was called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, grid: Grid) -> None:
        for cell in grid.cells:
            grid.config(cell).save(self.folder / f"{cell.name}.yaml")

    def part(self, cell: str, part: str) -> None:
        (self.folder / cell).write_text(part)

    def calls(self, event: str = "began") -> list[tuple[str, list[str], float, str]]:
        if not (self.folder / "calls").exists():
            return []
        lines = [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]
        return [tuple(rest) for what, *rest in lines if what == event]

    def names(self, event: str = "began") -> list[str]:
        return [name for name, *_ in self.calls(event)]


@pytest.fixture
def stage(tmp_path, monkeypatch) -> Stage:
    folder = tmp_path / "stage"
    folder.mkdir()
    script = folder / "actor.py"
    script.write_text(ACTOR.format(python=sys.executable, stage=str(folder)))
    script.chmod(0o755)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    monkeypatch.setattr(module, "PYTHON", str(script))
    monkeypatch.setattr(local.Local, "poll_s", 0.05)
    monkeypatch.setattr(slurm.Slurm, "poll_s", 0.05)
    monkeypatch.setattr(module, "POLL_S", 0.05)
    monkeypatch.setattr(module, "STOP_S", 5.0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return Stage(folder)


@pytest.fixture
def grid(write_protocol, stage, tmp_path):
    """A function (method..., **arguments) → the benchmark's outcome, in the folder `out`."""
    file = write_protocol()

    def run(*methods, protocol=file, **arguments):
        limits = {
            name: arguments.pop(name) for name in ("engine", "engine_options", "jobs", "budget_s") if name in arguments
        }
        wanted = make_grid(protocol, methods, **{"seeds": 1, "out": tmp_path / "out", **arguments})
        stage.set(wanted)
        return benchmark(wanted, **limits)

    return run
