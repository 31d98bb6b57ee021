import json

import numpy as np
import pytest

from semivox.cli import main
from semivox.data.image import write_label
from semivox.data.volume import Grid

GRID = Grid((8, 8, 8), np.eye(4))


@pytest.fixture
def folders(tmp_path):
    """Predictions of cases with markup in their names; one has no label, one label no prediction."""
    array = np.zeros(GRID.shape, np.uint8)
    array[2:6, 2:6, 2:6] = 1
    names = {"predictions": ["<script>[red]", "two", "unlabelled"], "labels": ["<script>[red]", "two", "[bold]missing"]}
    for folder, cases in names.items():
        for case in cases:
            write_label(tmp_path / folder / f"{case}.nii.gz", array, GRID)
    return tmp_path / "predictions", tmp_path / "labels"


@pytest.mark.parametrize("columns", ["80", "160"])
def test_prints_a_table_and_what_was_left_out(folders, tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["evaluate", *map(str, folders), "--out", str(tmp_path / "metrics.json")]) == 0
    printed = capsys.readouterr().out
    assert "2 cases" in printed
    assert "1.000 ± 0.000" in printed
    assert "Predictions without a label, not scored (1): unlabelled" in printed
    assert "Labels without a prediction, not scored (1): [bold]missing" in printed
    assert max(map(len, printed.splitlines()[:-1])) <= int(columns)
    assert ("Jaccard" in printed) == (columns == "160")
    assert json.loads((tmp_path / "metrics.json").read_text())["cases"][0]["case"] == "<script>[red]"


def test_a_mistake_is_one_line_and_exit_code_2(folders, capsys):
    assert main(["evaluate", str(folders[0]), str(folders[1] / "nowhere")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("semivox: ")
    assert "no such folder" in error
    assert "\n" not in error
