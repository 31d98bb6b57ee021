import json

import pytest
import yaml

from semivox.cli import main
from semivox.evaluation.scores import METRICS


def write_run(folder, method, seed, dice):
    folder.mkdir()
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"method": {"name": method}, "seed": seed, "training": {"iterations": 40 + seed}})
    )
    entries = [
        {
            "case": f"case{i}",
            "domain": "default",
            "scores": {name: dict.fromkeys(METRICS, value + i / 100) | {"empty": None}},
        }
        for i in range(6)
        for name, value in [("[bold]one", dice)]
    ]
    for entry in entries:
        entry["scores"]["two"] = entry["scores"]["[bold]one"]
    (folder / "metrics.json").write_text(json.dumps({"cases": entries, "unit": "mm", "summary": {}}))
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    runs = [("supervised", 0, 0.6), ("supervised", 1, 0.64), ("mean_teacher", 0, 0.7), ("mean_teacher", 1, 0.72)]
    return [write_run(tmp_path / f"{method}{seed}", method, seed, dice) for method, seed, dice in runs]


def test_prints_groups_classes_and_paired_differences(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["compare", *runs, "--out", str(tmp_path / "comparison.json")]) == 0
    printed = capsys.readouterr().out
    for words in (
        "supervised",
        "mean_teacher",
        "0.645 ± 0.028",
        "0.735 ± 0.014",
        "[bold]one",
        "40 to 41",
        "+0.090",
        "0.062",  # 0.0312 of a single test, twice
    ):
        assert words in printed, words
    assert len(json.loads((tmp_path / "comparison.json").read_text())["pairs"]) == 1


def test_writes_as_the_ending_says_and_every_two_when_asked(runs, tmp_path, capsys):
    files = [tmp_path / f"out/comparison{ending}" for ending in (".html", ".csv", ".tex")]
    assert main(["compare", *runs, "--all-pairs", *(f"--out={file}" for file in files)]) == 0
    assert files[0].read_text().startswith("<!doctype html>")
    assert files[1].read_text().startswith("group,method")
    assert "\\toprule" in files[2].read_text()


def test_an_ending_that_says_nothing_is_told_before_anything_is_read(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "nowhere"), "--out", "comparison.pdf"]) == 2
    told = capsys.readouterr().err
    assert "--out comparison.pdf" in told
    assert ".json, .html, .csv, .tex" in told
    assert told.count("\n") == 1


def test_a_folder_that_is_no_run_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["compare", str(tmp_path)]) == 2
    assert "not a run" in capsys.readouterr().err
