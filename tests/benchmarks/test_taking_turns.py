"""Ways that take turns: who comes when, what counts, and what is said where the peers are not there."""

import ast
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from benchmarks.turns import ROOT, Way, beside, peers_versions, take_turns

from benchmarks import turns

PEERS_CODE = [*(ROOT / "benchmarks" / "peers").glob("*.py"), ROOT / "benchmarks" / "turn.py"]


def writing(word: str, file: str) -> Callable[[], dict[str, np.ndarray]]:
    """A way that says when it was at work, in its own process."""
    lines = iter(range(100))

    def turn() -> dict[str, np.ndarray]:
        print("as chatty as packages are")
        with open(file, "a") as log:
            print(word, file=log)
        time.sleep(0.2)
        return {"turn": np.array(next(lines))}

    return turn


def failing() -> Callable[[], None]:
    return lambda: exit(3)


def way(name: str, function: str = "writing", keep: Path | None = None, **arguments: object) -> Way:
    return Way(name, "tests.benchmarks.test_taking_turns", function, arguments, keep)


@pytest.fixture
def peers(tmp_path, monkeypatch) -> Path:
    """The place of the peers' environment, which is not there."""
    monkeypatch.setattr(turns, "PEERS", tmp_path / "peers")
    return tmp_path / "peers"


@pytest.fixture
def installed(peers) -> Path:
    """An environment whose Python only notes that it was called."""
    (peers / "bin").mkdir(parents=True)
    (peers / ".installed").touch()
    python = peers / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >>{peers}/calls\n')
    python.chmod(0o755)
    return peers


def test_ways_take_turns_and_the_first_round_does_not_count(tmp_path):
    log, kept = tmp_path / "log", tmp_path / "kept.npz"
    ways = [way("one", word="one", file=log, keep=kept), way("other", word="other", file=log)]
    taken = take_turns(ways, 2)
    assert log.read_text().split() == ["one", "other"] * 3
    assert [len(turns.seconds) for turns in taken.values()] == [2, 2]
    assert np.load(kept)["turn"] == 0, "the first turn's arrays are kept"
    assert all(0.01 < turns.peak_gib < 8 for turns in taken.values())
    assert all(0 <= turns.median < 0.15 for turns in taken.values()), "time that is waited is not processor time"


def test_a_way_that_fails_is_named():
    with pytest.raises(
        RuntimeError, match=r"^this one: tests\.benchmarks\.test_taking_turns\.failing ended, see above$"
    ):
        take_turns([way("this one", "failing")], 1)


def test_peers_run_in_their_own_environment(installed):
    with pytest.raises(RuntimeError, match="TorchIO"):
        take_turns([Way("TorchIO", "benchmarks.peers.torchio", "batches")], 1)
    assert (installed / "calls").read_text().startswith("-m benchmarks.turn benchmarks.peers.torchio batches")


def test_without_their_environment_peers_are_left_out_and_a_line_says_how_it_is_made(peers, capsys):
    assert take_turns([Way("TorchIO", "benchmarks.peers.torchio", "batches")], 1) == {}
    assert peers_versions("torchio") == {"torchio": "not run"}
    (line,) = capsys.readouterr().err.splitlines()
    assert "`make peers`" in line


def test_figures_are_ratios_to_semivox_and_say_what_was_not_run():
    figures = beside({"Semivox": 0.02, "MONAI": 0.05014}, ("MONAI", "nnU-Net"))
    assert figures == {
        "Semivox (ms)": 20.0,
        "MONAI (ms)": 50.1,
        "times faster than MONAI": 2.51,
        "nnU-Net (ms)": "not run",
        "times faster than nnU-Net": "not run",
    }
    assert beside({"Semivox": 2.0, "MONAI": 5.0}, ("MONAI",), "s")["MONAI (s)"] == 5.0


@pytest.mark.parametrize("file", PEERS_CODE, ids=lambda file: file.name)
def test_what_runs_beside_the_peers_imports_nothing_of_semivox(file):
    tree = ast.walk(ast.parse(file.read_text()))
    names = [
        name
        for node in tree
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    assert not [name for name in names if name.split(".")[0] == "semivox" or name == "benchmarks.turns"]


def test_peers_are_pinned_in_the_versions_that_semivox_is_tested_with():
    pinned = {name: versions(ROOT / name) for name in ("constraints.txt", "benchmarks/peers.txt")}
    ours, theirs = pinned.values()
    shared = ours.keys() & theirs.keys()
    assert {"torch", "monai", "simpleitk", "scipy"} <= shared
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


def versions(file: Path) -> dict[str, str]:
    """Package → version, of lines that pin one."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return {name.lower(): version for name, _, version in (line.partition("==") for line in lines)}
