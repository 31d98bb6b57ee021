"""The script for a machine with a GPU: chunks that go on, failures that are named and stop nothing else."""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PYTHON = f"""#!/bin/sh
case "$2" in
benchmarks.gpu) echo '{{}}' >"$3/gpu.json"; exit "$GPU" ;;
semivox)
    echo "$@" >>"$CALLS"
    [ "$BENCHMARK" = fails ] && exit 2
    while [ "$1" != --out ]; do shift; done
    mkdir -p "$2/supervised-8-seed0/checkpoints" "$2/logs"
    cd "$2"
    touch results.md supervised-8-seed0/config.yaml supervised-8-seed0/model.pt logs/cell.log
    echo "{{\\"unfinished\\": $BENCHMARK}}" >results.json ;;
*) exec {sys.executable} "$@" ;;
esac
"""
"""Stands for Python: it measures and trains nothing."""


@pytest.fixture
def script(tmp_path):
    """A function that runs a chunk: what the measuring of the GPU exits with, which cells the benchmark leaves."""
    stub = tmp_path / "python"
    stub.write_text(PYTHON)
    stub.chmod(0o755)
    (tmp_path / "data").mkdir()

    def run(gpu=0, benchmark="[]", **changes):
        calls = tmp_path / "calls"
        told = {"GPU": str(gpu), "BENCHMARK": benchmark, "CALLS": str(calls), "PYTHON": str(stub), "DEVICE": "cpu"}
        command = [ROOT / "benchmarks" / "gpu.sh", "data", "results"]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | told | changes, capture_output=True, text=True)
        return done.returncode, calls.read_text() if calls.exists() else "", done.stderr

    return run


def test_a_chunk_asks_for_another_until_nothing_is_left(script, tmp_path):
    assert script(gpu=3)[:2] == (3, "")
    code, calls, _ = script(benchmark='["mean_teacher"]')
    assert code == 3
    assert "benchmark la" in calls
    assert f"--data {tmp_path / 'data'}" in calls
    assert script()[0] == 0
    small = tmp_path / "results" / "small"
    brought = {str(file.relative_to(small)) for file in small.rglob("*") if file.is_file()}
    run = "la-8/supervised-8-seed0/config.yaml"
    assert brought == {"gpu.json", "la-8/results.md", "la-8/results.json", run, "la-8/logs/cell.log"}


def test_what_the_benchmark_fails_by_is_all_that_is_said(script):
    assert script(benchmark="fails")[::2] == (2, "")


def test_a_protocol_in_a_file_is_found_from_where_the_script_is_called(script, tmp_path):
    (tmp_path / "mine.yaml").touch()
    code, calls, _ = script(PROTOCOL="mine.yaml")
    assert (code, calls.split()[3]) == (0, str(tmp_path / "mine.yaml"))
    assert (tmp_path / "results" / "mine-8" / "results.md").exists()


def test_a_measurement_that_fails_dies_or_takes_too_long_is_told(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.own_process import in_own_process

    assert in_own_process(partial(dict, ratio=2.0), 60) == {"ratio": 2.0}
    assert in_own_process(partial(json.loads, "no"), 60).startswith("JSONDecodeError: Expecting value")
    assert in_own_process(partial(os._exit, 7), 60) == "its process died (exit code 7)"
    assert in_own_process(partial(time.sleep, 60), 0.5) is None
