import json
import math

import numpy as np
import pytest
import yaml
from scipy.stats import wilcoxon

from semivox.errors import RunError
from semivox.evaluation.scores import METRICS
from semivox.experiments.compare import compare, write_comparison
from semivox.experiments.results import differences, differences_of_domains, domains, overview, published, result_tables

CASES = [f"case{number}" for number in range(8)]


@pytest.fixture
def make_run(tmp_path):
    """A function that writes a run folder: its config and the Dice of (case, class)."""

    def make(
        name, dice, *, method="mean_teacher", seed=0, labelled=4, cases=CASES, unit="mm", names=("a", "b"), **training
    ):
        folder = tmp_path / name
        folder.mkdir()
        config = {
            "data": {"labelled": labelled, "store": f"stores/{name}"},
            "plan": {"patch": [16, 16]},
            "method": {"name": method, "settings": {"weight": training.pop("weight", 1.0)}},
            "training": {"iterations": 100, "optimiser": "sgd"} | training,
            "seed": seed,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        if dice is not None:
            entries = [
                {
                    "case": case,
                    "domain": "default",
                    "group": "",
                    "scores": dict(zip(names, map(scores, row), strict=True)),
                }
                for case, row in zip(cases, dice, strict=True)
            ]
            (folder / "metrics.json").write_text(json.dumps({"cases": entries, "unit": unit, "summary": {}}))
        return folder

    return make


def scores(dice):
    """The scores of one class; NaN stands for a missed structure."""
    missed = math.isnan(dice)
    return dict.fromkeys(METRICS, None if missed else dice) | {
        "dice": 0.0 if missed else dice,
        "hd95": None if missed else 10 * (1 - dice),
        "empty": "prediction" if missed else None,
    }


@pytest.fixture
def dice():
    """(run, case, class)."""
    return np.random.default_rng(0).uniform(0.6, 0.9, (4, len(CASES), 2))


def test_runs_that_differ_in_their_seed_are_one_group(make_run, dice):
    runs = [make_run(f"mt{seed}", dice[seed], seed=seed, iterations=100 + seed) for seed in range(3)]
    (group,) = compare(runs).groups
    assert (group.name, group.seeds, group.iterations) == ("mean_teacher", (0, 1, 2), (100, 101, 102))
    for name, values in {"a": dice[:3, :, 0], "b": dice[:3, :, 1], "mean": dice[:3].mean(axis=2)}.items():
        found = group.scores[name]["dice"]
        assert found.mean == pytest.approx(values.mean())
        assert found.over_runs == pytest.approx(values.mean(axis=1).std(ddof=1))
        assert found.over_cases == pytest.approx(values.mean(axis=0).std(ddof=1))
        assert found.low < found.mean < found.high
        assert found.n == len(CASES)


def test_other_settings_are_another_group_and_name_it(make_run, dice):
    runs = [
        make_run("mt", dice[0]),
        make_run("mt-heavy", dice[1], weight=10.0),
        make_run("supervised", dice[2], method="supervised"),
    ]
    assert [group.name for group in compare(runs).groups] == [
        "mean_teacher, weight=1",
        "mean_teacher, weight=10",
        "supervised",
    ]
    few = make_run("few", dice[3], labelled=2)
    names = [group.name for group in compare([runs[0], few]).groups]
    assert names == ["mean_teacher, 4 labelled", "mean_teacher, 2 labelled"]


def test_pairs_compare_the_mean_over_seeds_case_by_case(make_run, dice):
    first = [make_run(f"supervised{seed}", dice[seed], method="supervised", seed=seed) for seed in range(2)]
    better = np.clip(dice[:2] + 0.05, 0, 1)
    second = [make_run(f"mt{seed}", better[seed], seed=seed) for seed in range(2)]
    (pair,) = compare([*first, *second]).pairs
    assert (pair.first, pair.second, pair.settings) == ("supervised", "mean_teacher", ())
    found = pair.scores["mean"]["dice"]
    assert (found.n, found.difference) == (len(CASES), pytest.approx(0.05))
    differences = (better.mean(axis=0) - dice[:2].mean(axis=0)).mean(axis=1)
    assert found.p_value == pytest.approx(wilcoxon(differences).pvalue)
    assert pair.scores["mean"]["hd95"].difference == pytest.approx(-0.5)


def told(run, **changes):
    """Changes the config of a run."""
    path = run / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    return run


def test_figures_of_the_papers_stand_beside_runs_of_a_protocol(make_run, dice):
    runs = [
        make_run("few", dice[0], method="supervised", labelled=7),
        make_run("all", dice[1], method="supervised", labelled=None),
        make_run("mt", dice[2], labelled=7),
        make_run("bcp", dice[3], method="bidirectional_copy_paste", labelled=7),
    ]
    comparison = compare([told(run, protocol="acdc") for run in runs])
    assert [group.name for group in comparison.groups] == [
        "supervised, 7 labelled",
        "supervised, all labelled",
        "mean_teacher, 7 labelled",
        "bidirectional_copy_paste, 7 labelled",
    ]
    assert [[row.dice for row in group.published.figures] for group in comparison.groups] == [
        [79.41, 62.5],
        [91.44],
        [],
        [88.84],
    ]
    table = published(comparison)
    assert [row[0] for row in table.rows] == [
        "supervised, 7 labelled",
        "supervised, 7 labelled",
        "supervised, all labelled",
        "bidirectional_copy_paste, 7 labelled",
    ]
    assert table.rows[0][1:7] == ("0.794", "0.681", "9.35 voxel", "2.70 voxel", "best on validation", "third party")
    assert overview(comparison).rows[0][-1] == "0.794 / 0.625"


def test_without_a_protocol_there_are_no_published_figures(make_run, dice):
    comparison = compare([make_run("only", dice[0])])
    assert published(comparison) is None
    assert differences(comparison) is None


def test_a_protocol_that_is_gone_is_told(make_run, dice):
    comparison = compare([told(make_run("only", dice[0]), protocol="/nowhere/mine.yaml")])
    assert comparison.groups[0].published is None
    (note,) = comparison.notes
    assert note.startswith("no published figures: /nowhere/mine.yaml")


def test_a_run_by_flags_and_one_by_a_protocol_are_one_group(make_run, dice):
    runs = [
        make_run("flags", dice[0], labelled=7),
        told(make_run("protocol", dice[1], labelled=7, seed=1), protocol="acdc"),
    ]
    assert [group.seeds for group in compare(runs).groups] == [(0, 1)]


def test_a_method_in_a_file_is_called_by_its_class(make_run, dice):
    (group,) = compare([make_run("own", dice[0], method="some/where/mine.py:Mine")]).groups
    assert group.name == "Mine"


def test_only_common_cases_are_paired(make_run, dice):
    first = make_run("first", dice[0], method="supervised")
    second = make_run("second", dice[1][2:6], cases=CASES[2:6])
    comparison = compare([first, second])
    assert [group.scores["a"]["dice"].n for group in comparison.groups] == [8, 4]
    found = comparison.pairs[0].scores["a"]["dice"]
    assert (found.n, found.difference) == (4, pytest.approx((dice[1] - dice[0])[2:6, 0].mean()))


def test_a_missed_structure_does_not_flatter_the_paired_distance(make_run, dice):
    """Without class b of the missed case on both sides, the mean over classes would compare a with a and b."""
    poor = dice[0].copy()
    poor[:, 1] = 0.3  # b is hard
    missing = poor.copy()
    missing[0, 1] = math.nan
    comparison = compare([make_run("first", poor, method="supervised"), make_run("second", missing)])
    assert comparison.pairs[0].scores["mean"]["hd95"].difference == pytest.approx(0)
    assert [group.empty_predictions for group in comparison.groups] == [0, 1]
    assert comparison.groups[1].scores["b"]["hd95"].n == 7


def test_only_classes_that_all_runs_scored_count(make_run, dice):
    runs = [make_run("first", dice[0]), make_run("second", dice[1], method="supervised", names=("b", "c"))]
    comparison = compare(runs)
    assert list(comparison.groups[0].scores) == ["b", "mean"]
    assert comparison.groups[0].scores["mean"]["dice"].mean == pytest.approx(dice[0, :, 1].mean())
    assert comparison.groups[1].scores["mean"]["dice"].mean == pytest.approx(dice[1, :, 0].mean())


def test_settings_that_differ_beside_the_method_are_told(make_run, dice):
    runs = [make_run("first", dice[0], method="supervised"), make_run("second", dice[1], optimiser="adam")]
    assert compare(runs).pairs[0].settings == ("training.optimiser",)


def test_one_run_alone_has_no_deviation_and_no_pair(make_run, dice):
    comparison = compare([make_run("only", dice[0])])
    assert math.isnan(comparison.groups[0].scores["a"]["dice"].over_runs)
    assert comparison.pairs == ()


def test_written_as_json_with_null_for_nan(make_run, dice, tmp_path):
    comparison = compare([make_run("only", dice[0])])
    write_comparison(comparison, tmp_path / "comparison.json")
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["groups"][0]["scores"]["a"]["dice"]["over_runs"] is None
    assert content["groups"][0]["scores"]["a"]["dice"]["mean"] == comparison.groups[0].scores["a"]["dice"].mean
    assert content["groups"][0]["runs"] == [str(tmp_path / "only")]


def test_mistakes_are_one_line(make_run, dice, tmp_path):
    good = make_run("good", dice[0])
    wrong = {
        "not scored": [good, make_run("unscored", None, seed=1)],
        "distances are in voxel": [good, make_run("voxels", dice[1], unit="voxel", seed=1)],
        "no class in common": [good, make_run("others", dice[1], names=("c", "d"), seed=1)],
        "name only one of them": [good, good],
        "not a run": [good, tmp_path / "nowhere"],
    }
    for words, runs in wrong.items():
        with pytest.raises(RunError, match=words) as caught:
            compare(runs)
        assert "\n" not in str(caught.value)


def in_domains(run):
    """The run with its first three cases in domain x, the others in y."""
    metrics = json.loads((run / "metrics.json").read_text())
    for place, entry in enumerate(metrics["cases"]):
        entry["domain"] = "x" if place < 3 else "y"
    (run / "metrics.json").write_text(json.dumps(metrics))
    return run


def test_domains_are_compared_one_by_one(make_run, dice):
    runs = [in_domains(make_run("first", dice[0])), in_domains(make_run("second", dice[1], method="supervised"))]
    comparison = compare(runs)
    first, second = comparison.groups
    assert first.domains["x"]["mean"]["dice"].mean == pytest.approx(dice[0, :3].mean())
    assert second.domains["y"]["b"]["dice"].n == len(CASES) - 3
    (pair,) = comparison.pairs
    assert pair.domains["y"]["a"]["dice"].difference == pytest.approx((dice[1] - dice[0])[3:, 0].mean())
    of_dice, of_hd95 = domains(comparison)
    assert of_dice.header == ("method", "x", "y")
    assert of_dice.rows[0] == ("mean_teacher", f"{dice[0, :3].mean():.3f}", f"{dice[0, 3:].mean():.3f}")
    assert of_hd95.title.startswith("HD95 (mm) per domain")
    table = differences_of_domains(comparison)
    assert [row[:2] for row in table.rows] == [("supervised", "x"), ("supervised", "y")]
    assert [row[-1] for row in table.rows] == ["3", "5"]
    assert table in result_tables(comparison)


def test_cases_of_one_domain_need_no_table_of_domains(make_run, dice):
    comparison = compare([make_run("first", dice[0]), make_run("second", dice[1], method="supervised")])
    assert comparison.groups[0].domains == {}
    assert domains(comparison) == []
    assert differences_of_domains(comparison) is None


def test_a_run_from_before_a_setting_was_there_is_of_the_same_group(make_config, make_run, dice):
    runs = []
    for seed in range(2):
        run = make_run(f"run{seed}", dice[seed])
        config = make_config(seed=seed).model_dump(mode="json")
        if seed == 0:
            del config["uda"], config["training"]["balance"], config["data"]["unseen"]
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        runs.append(run)
    (group,) = compare(runs).groups
    assert group.seeds == (0, 1)
