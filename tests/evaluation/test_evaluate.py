import json

import numpy as np
import pytest

from semivox.data.image import write_label
from semivox.data.layout import read_dataset
from semivox.data.volume import Grid
from semivox.errors import DataError, SettingError
from semivox.evaluation.evaluate import evaluate
from semivox.evaluation.scores import METRICS

GRID = Grid((12, 13, 10), np.diag([0.5, 0.5, 2.0, 1.0]))
NASTY = "<script>alert(1)<& \"'[bold]"


def box(value, *corner, size=4, background=None):
    """A label map with a cube of `value` at `corner`."""
    array = np.zeros(GRID.shape, np.uint8) if background is None else background.copy()
    array[tuple(slice(start, start + size) for start in corner)] = value
    return array


@pytest.fixture
def folders(tmp_path):
    """A data set of five test cases, two of them of one patient, and predictions of some of them."""
    root, predictions = tmp_path / "data", tmp_path / "predictions"
    references = {
        "a": box(2, 6, 6, 3, background=box(1, 1, 1, 2)),
        "b": box(2, 6, 6, 3, background=box(1, 1, 1, 2)),
        "c": box(1, 1, 1, 2),
        "hidden": None,
        "unpredicted": box(1, 1, 1, 2),
        NASTY: box(1, 3, 3, 3),
    }
    predicted = {
        "a": box(2, 6, 6, 3, background=box(1, 2, 1, 2)),
        "b": box(1, 1, 2, 2),  # misses the second class
        "c": box(1, 1, 1, 2),  # the second class is nowhere
        "hidden": box(1, 1, 1, 2),
        NASTY: box(2, 8, 8, 5, background=box(1, 3, 3, 3)),  # finds a second class that is not there
    }
    (root / "imagesTs").mkdir(parents=True)
    labels = {"background": 0, "wall": 1, "cavity": 2}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    lines = ["case,split,domain,group"]
    for case, array in references.items():
        write_label(root / "imagesTs" / f"{case}_0000.nii.gz", np.zeros(GRID.shape, np.uint8), GRID)
        lines.append(
            '"{}",test,{},{}'.format(
                case.replace('"', '""'), "there" if case == "c" else "here", {"b": "a"}.get(case, "")
            )
        )
        if array is not None:
            write_label(root / "labelsTs" / f"{case}.nii.gz", array, GRID)
    (root / "cases.csv").write_text("\n".join(lines))
    for case, array in predicted.items():
        write_label(predictions / f"{case}.nii.gz", array, GRID)
    return predictions, root / "labelsTs"


def by_case(metrics):
    return {entry["case"]: entry["scores"] for entry in metrics["cases"]}


def test_content_of_metrics_json(folders, tmp_path):
    metrics = evaluate(*folders, tmp_path / "out" / "metrics.json")
    text = (tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text) == metrics
    assert "NaN" not in text
    assert (metrics["unit"], metrics["unscored"], metrics["unpredicted"]) == ("mm", ["hidden"], ["unpredicted"])
    assert set(by_case(metrics)) == {"a", "b", "c", NASTY}
    assert {entry["case"]: (entry["domain"], entry["group"]) for entry in metrics["cases"]} == {
        "a": ("here", ""),
        "b": ("here", "a"),
        "c": ("there", ""),
        NASTY: ("here", ""),
    }
    assert set(metrics["summary"]) == {"wall", "cavity", "mean"}
    assert set(metrics["domains"]) == {"here", "there"}
    assert metrics["domains"]["there"]["mean"]["dice"]["mean"] == pytest.approx(
        np.mean([score["dice"] for score in by_case(metrics)["c"].values()])
    )
    assert metrics["domains"]["here"]["wall"]["dice"]["n"] == 3
    assert metrics["tasks"] == {}
    for name in (*METRICS, "empty", "mean", "deviation"):
        assert metrics["definitions"][name].endswith(".")


def test_each_of_several_tasks_is_summarised_over_its_classes(folders):
    predictions, labels = folders
    content = json.loads((labels.parent / "dataset.json").read_text())
    tasks = {"walls": ["wall"], "both": ["wall", "cavity"]}
    (labels.parent / "dataset.json").write_text(json.dumps(content | {"tasks": tasks}))
    table = (labels.parent / "cases.csv").read_text().splitlines()
    rows = [table[0] + ",task", *(row + (",walls" if row.startswith('"a"') else ",both") for row in table[1:])]
    (labels.parent / "cases.csv").write_text("\n".join(rows))
    metrics = evaluate(predictions, read_dataset(labels.parent))
    assert by_case(metrics)["a"].keys() == {"wall"}
    assert {entry["case"]: entry["task"] for entry in metrics["cases"]}["a"] == "walls"
    assert {task: set(summary) for task, summary in metrics["tasks"].items()} == {
        "walls": {"wall", "mean"},
        "both": {"wall", "cavity", "mean"},
    }
    assert metrics["tasks"]["walls"]["mean"]["dice"]["mean"] == by_case(metrics)["a"]["wall"]["dice"]


def test_scores_are_in_mm_of_the_file(folders):
    a = by_case(evaluate(*folders))["a"]
    assert a["wall"]["dice"] == pytest.approx(0.75)
    assert a["wall"]["hd95"] == pytest.approx(0.5)  # moved by one voxel of 0.5 mm
    assert a["wall"]["reference_ml"] == pytest.approx(64 * 0.5 / 1000)
    assert (a["cavity"]["dice"], a["cavity"]["hd95"]) == (1, 0)


def test_voxels_if_asked(folders):
    metrics = evaluate(*folders, unit="voxel")
    assert metrics["unit"] == "voxel"
    assert by_case(metrics)["a"]["wall"]["hd95"] == pytest.approx(1.0)
    assert by_case(metrics)["a"]["wall"]["reference_ml"] == pytest.approx(64 * 0.5 / 1000)
    assert "in voxel" in metrics["definitions"]["hd95"]


def test_empty_masks_are_null_and_counted_beside_the_mean(folders):
    metrics = evaluate(*folders)
    cases = by_case(metrics)
    assert {case: scores["cavity"]["empty"] for case, scores in cases.items()} == {
        "a": None,
        "b": "prediction",
        "c": "both",
        NASTY: "reference",
    }
    assert {case: scores["cavity"]["hd95"] for case, scores in cases.items()} == {
        "a": 0,
        "b": None,
        "c": None,
        NASTY: None,
    }
    summary = metrics["summary"]["cavity"]
    assert (summary["hd95"]["n"], summary["hd95"]["mean"]) == (1, 0)
    assert (summary["hd95"]["deviation"], summary["hd95"]["low"]) == (None, None)
    assert (summary["dice"]["n"], summary["dice"]["mean"]) == (4, pytest.approx((1 + 0 + 1 + 0) / 4))
    assert [summary[f"empty_{kind}"] for kind in ("predictions", "references", "both")] == [1, 1, 1]
    assert [metrics["summary"]["mean"][f"empty_{kind}"] for kind in ("predictions", "references", "both")] == [1, 1, 1]
    assert metrics["summary"]["wall"]["empty_predictions"] == 0


def test_mean_is_over_cases_of_the_mean_over_their_defined_classes(folders):
    metrics = evaluate(*folders)
    cases, mean = by_case(metrics), metrics["summary"]["mean"]
    for metric in METRICS:
        means = []
        for scores in cases.values():
            known = [found[metric] for found in scores.values() if found[metric] is not None]
            means += [sum(known) / len(known)] if known else []
        assert mean[metric]["n"] == len(means)
        assert mean[metric]["mean"] == pytest.approx(sum(means) / len(means)), metric
        assert mean[metric]["deviation"] == pytest.approx(np.std(means, ddof=1)), metric


def test_interval_draws_patients(folders, tmp_path):
    """Two cases of one patient and no other give a mean, but no interval."""
    predictions, labels = folders
    for case in ("c", NASTY):
        (predictions / f"{case}.nii.gz").unlink()
    dice = evaluate(predictions, labels)["summary"]["wall"]["dice"]
    assert dice["n"] == 2
    assert dice["low"] is None


def test_workers_and_repetition_change_nothing(folders):
    assert evaluate(*folders, workers=1) == evaluate(*folders, workers=3)


def test_a_data_set_in_memory_gives_the_same_as_its_folder(folders):
    predictions, labels = folders
    assert evaluate(predictions, read_dataset(labels.parent)) == evaluate(predictions, labels)


def test_progress_counts_cases(folders):
    calls = []
    evaluate(*folders, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_pictures_are_scored_in_voxels(tmp_path):
    grid = Grid((9, 8, 1), np.eye(4))
    for folder, shift in (("predictions", 1), ("labels", 0)):
        array = np.zeros(grid.shape, np.uint8)
        array[2 + shift : 6 + shift, 2:6] = 1
        write_label(tmp_path / folder / "a.png", array, grid)
    metrics = evaluate(tmp_path / "predictions", tmp_path / "labels")
    found = by_case(metrics)["a"]["1"]
    assert metrics["unit"] == "voxel"
    assert (found["hd95"], found["dice"]) == (1, 0.75)
    assert found["prediction_ml"] is None


def test_partial_annotation_scores_only_what_is_annotated(folders):
    predictions, labels = folders
    file = labels.parent / "dataset.json"
    content = json.loads(file.read_text()) | {"tasks": {"walls": ["wall"]}}
    file.write_text(json.dumps(content))
    (labels.parent / "cases.csv").write_text("case,split,task\nb,test,walls\n")
    cases = by_case(evaluate(predictions, labels))
    assert list(cases["b"]) == ["wall"]
    assert list(cases["a"]) == ["wall", "cavity"]


def test_unknown_unit_names_the_nearest(folders):
    with pytest.raises(SettingError, match="did you mean 'voxel'"):
        evaluate(*folders, unit="voxels")


def test_nothing_is_written_when_a_case_is_at_fault(folders, tmp_path):
    predictions, labels = folders
    write_label(predictions / "c.nii.gz", np.zeros((3, 3, 3), np.uint8), Grid((3, 3, 3), np.eye(4)))
    with pytest.raises(DataError, match=r"case c: .*shape"):
        evaluate(predictions, labels, tmp_path / "metrics.json")
    assert not list(tmp_path.glob("*metrics*"))


def test_perfect_predictions_of_the_phantom_score_one(phantom):
    metrics = evaluate(phantom.root / "labelsTs", phantom)
    for summary in metrics["summary"].values():
        assert summary["dice"]["mean"] == summary["surface_dice"]["mean"] == 1
        assert summary["hd95"]["mean"] == summary["volume_error"]["mean"] == 0
    assert metrics["summary"]["mean"]["dice"]["n"] == 2
