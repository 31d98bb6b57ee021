import json
import math
from itertools import combinations

import numpy as np
import pytest
import yaml
from scipy.stats import wilcoxon

from semivox.errors import RunError
from semivox.evaluation.ranking import rank_methods
from semivox.evaluation.scores import METRICS
from semivox.evaluation.statistics import holm
from semivox.experiments.compare import compare
from semivox.experiments.families import families
from semivox.experiments.results import (
    by_selection,
    differences,
    domains,
    overview,
    published,
    remarks,
    result_tables,
    tasks,
)

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


def test_a_row_made_with_oracle_prompts_says_so(make_run, dice):
    runs = [make_run("own", dice[0]), make_run("oracle", dice[0])]
    metrics = json.loads((runs[1] / "metrics.json").read_text())
    (runs[1] / "metrics.json").write_text(json.dumps(metrics | {"model": {"prompts": "oracle"}}))
    assert [group.name for group in compare(runs).groups] == ["mean_teacher", "mean_teacher, oracle prompts"]
    assert [group.name for group in compare(runs[1:]).groups] == ["mean_teacher, oracle prompts"]


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


def test_so_few_patients_that_the_bootstrap_is_too_sure_are_told(make_run, dice):
    runs = [make_run(name, dice[place], method=name) for place, name in enumerate(("supervised", "unimatch"))]
    assert remarks(compare(runs)) == []
    few = [
        make_run(f"few-{name}", dice[place][:5], method=name, cases=CASES[:5])
        for place, name in enumerate(("supervised", "unimatch"))
    ]
    assert any(remark.startswith("5 patients are compared, fewer than 6") for remark in remarks(compare(few)))


def test_runs_without_a_case_in_common_say_so_and_have_no_table_of_tests(make_run, dice):
    other = make_run("other", dice[1], cases=[f"x{case}" for case in CASES])
    comparison = compare([make_run("first", dice[0], method="supervised"), other])
    assert differences(comparison) is None
    assert any("mean_teacher and supervised have no scored case in common" in remark for remark in remarks(comparison))


def test_structures_without_prediction_are_counted_where_the_row_is_scored(make_run, dice):
    missed = dice[0].copy()
    missed[0, 0] = missed[7, 0] = missed[1, 1] = math.nan
    first = make_run("first", missed)
    second = make_run("second", dice[1][1:], cases=CASES[1:], seed=1)  # without the first case
    third = make_run("third", dice[2], method="supervised", names=("a", "c"))  # without class b
    assert [group.empty_predictions for group in compare([first, second, third]).groups] == [1, 0]


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


def test_mistakes_are_one_line(make_run, dice, tmp_path):
    good = make_run("good", dice[0])
    wrong = {
        "not scored": [good, make_run("unscored", None, seed=1)],
        "distances are in voxel": [good, make_run("voxels", dice[1], unit="voxel", seed=1)],
        "no class in common": [good, make_run("others", dice[1], names=("c", "d"), seed=1)],
        "name only one of them": [good, good],
        "not a run": [good, tmp_path / "nowhere"],
        "is not as `semivox evaluate` writes it .cases.0.scores: field required": [make_run("odd", dice[1], seed=1)],
    }
    (tmp_path / "odd" / "metrics.json").write_text('{"cases": [{"case": "a"}], "unit": "mm"}')
    wrong["scores.a.dice: input should be a valid number"] = [make_run("words", dice[2], seed=2)]
    path = tmp_path / "words" / "metrics.json"
    path.write_text(path.read_text().replace('"dice": 0', '"dice": "much", "was": 0', 1))
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
    table = differences(comparison, "domains")
    assert [row[1:3] for row in table.rows] == [("x", "Dice"), ("x", "HD95 (mm)"), ("y", "Dice"), ("y", "HD95 (mm)")]
    assert [row[-1] for row in table.rows] == ["3", "3", "5", "5"]
    assert table in result_tables(comparison)


def test_cases_of_one_domain_need_no_table_of_domains(make_run, dice):
    comparison = compare([make_run("first", dice[0]), make_run("second", dice[1], method="supervised")])
    assert comparison.groups[0].domains == {}
    assert domains(comparison) == []
    assert differences(comparison, "domains") is None


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


def in_tasks(run):
    """The run with its first three cases of task x, which knows class a alone, the others of y with class b."""
    metrics = json.loads((run / "metrics.json").read_text())
    for place, entry in enumerate(metrics["cases"]):
        entry["task"], known = ("x", "a") if place < 3 else ("y", "b")
        entry["domain"] = entry["task"]
        entry["scores"] = {known: entry["scores"][known]}
    (run / "metrics.json").write_text(json.dumps(metrics))
    return run


def test_tasks_are_compared_one_by_one_over_their_own_classes(make_run, dice):
    runs = [in_tasks(make_run("first", dice[0])), in_tasks(make_run("second", dice[1], method="supervised"))]
    comparison = compare(runs)
    (pair,) = comparison.pairs
    assert comparison.groups[0].tasks["x"]["mean"]["dice"].mean == pytest.approx(dice[0, :3, 0].mean())
    assert pair.tasks["y"]["mean"]["dice"].difference == pytest.approx((dice[1] - dice[0])[3:, 1].mean())
    assert tasks(comparison)[0].header == ("method", "x", "y")
    assert [row[1] for row in differences(comparison, "tasks").rows] == ["x", "x", "y", "y"]
    assert domains(comparison) == []  # each domain is a task, whose table says it all


def test_every_two_groups_are_paired_when_asked(make_run, dice):
    names = ("supervised", "mean_teacher", "fixmatch")
    runs = [make_run(name, dice[place], method=name) for place, name in enumerate(names)]
    pairs = compare(runs, all_pairs=True).pairs
    assert [(pair.first, pair.second) for pair in pairs] == list(combinations(names, 2))
    assert pairs[2].scores["mean"]["dice"].difference == pytest.approx((dice[2] - dice[1]).mean())
    assert differences(compare(runs, all_pairs=True)).header[:2] == ("method", "against")
    assert "against" not in differences(compare(runs)).header


def test_the_p_values_of_a_table_are_corrected_for_its_tests(make_run, dice):
    """Two groups against the first, in Dice and HD95: four tests, the smallest p times four."""
    runs = [make_run(name, dice[place], method=name) for place, name in enumerate(("a", "b", "c"))]
    comparison = compare(runs)
    (overall, of_classes) = families(comparison)
    assert (overall.over, overall.number, of_classes.over, of_classes.number) == ("cases", 4, "classes", 4)
    for name in ("p_value", "bootstrap_p_value"):
        single = [getattr(test.paired, name) for test in overall.tests]
        assert [getattr(test, name) for test in overall.tests] == holm(single)
        assert min(getattr(test, name) for test in overall.tests) == pytest.approx(min(1, 4 * min(single)))
    assert "p corrected for the 4 tests" in differences(comparison).title


def test_slices_of_one_patient_are_named_beside_the_patients(make_run, dice):
    runs = [make_run("first", dice[0]), make_run("second", dice[1], method="supervised")]
    for run in runs:
        metrics = json.loads((run / "metrics.json").read_text())
        for place, entry in enumerate(metrics["cases"]):
            entry["group"] = f"patient{place // 2}"
        (run / "metrics.json").write_text(json.dumps(metrics))
    comparison = compare(runs)
    assert comparison.pairs[0].scores["a"]["dice"].groups == 4
    assert differences(comparison).rows[0][-1] == "8 of 4 patients"


def test_how_the_step_was_chosen_has_columns_of_its_own(make_run, dice):
    runs = [
        make_run("last", dice[0]),
        make_run("validation", dice[1], selection="validation", validate_every=20),
        make_run("test", dice[2], selection="test", validate_every=20),
        make_run("other", dice[3], method="supervised", selection="last"),
    ]
    comparison = compare(runs)
    table = by_selection(comparison)
    assert table.header == ("method", "last", "best on validation", "best on test (as published)")
    mean = [f"{dice[run].mean():.3f}" for run in range(4)]
    assert table.rows == (("mean_teacher", *mean[:3]), ("supervised", mean[3], "–", "–"))
    assert [row[1] for row in overview(comparison).rows] == [*table.header[1:], "last"]
    assert any("chosen on the scored cases themselves" in remark for remark in remarks(comparison))
    assert by_selection(compare(runs[:1])) is None


def test_ranks_are_of_the_mean_over_classes_and_seeds_in_the_shared_cases(make_run, dice):
    good, poor = np.clip(dice + 0.15, 0, 1), dice - 0.3
    runs = [
        *(make_run(f"poor{seed}", poor[seed], method="poor", seed=seed) for seed in range(2)),
        make_run("good", good[2], method="good"),
        make_run("middle", dice[3][:7], method="middle", cases=CASES[:7]),
    ]
    comparison = compare(runs)
    expected = rank_methods(np.stack([poor[:2].mean(axis=(0, 2)), good[2].mean(axis=1), dice[3].mean(axis=1)])[:, :7].T)
    assert comparison.ranking == expected
    assert comparison.ranking.groups == 7
    table = next(table for table in result_tables(comparison) if table.title.startswith("Mean rank"))
    assert [row[0] for row in table.rows] == ["good", "middle", "poor"]


def test_too_few_patients_for_ranks_are_told(make_run, dice):
    runs = [make_run(name, dice[0][:5], method=name, cases=CASES[:5]) for name in ("a", "b", "c")]
    comparison = compare(runs)
    assert comparison.ranking is None
    assert any("fewer than 6 patients" in note for note in comparison.refused)
    assert compare(runs[:2]).refused == ()


def with_labels(run, scans):
    """The run with a model that says of how many labelled scans it is."""
    (run / "model").mkdir()
    (run / "model" / "model.json").write_text(json.dumps({"facts": {"labelled_cases": scans}}))
    return run


def test_groups_that_differ_in_labels_alone_make_a_curve(make_run, dice):
    runs = [
        with_labels(make_run(f"run{labelled}-{seed}", dice[place] ** (1 / scans), seed=seed, labelled=labelled), scans)
        for place, (labelled, seed, scans) in enumerate([(1, 0, 3), (1, 1, 3), (4, 0, 12), (None, 0, 30)])
    ]
    comparison = compare([*runs, with_labels(make_run("other", dice[0], method="supervised", labelled=1), 3)])
    assert list(comparison.curves) == ["mean_teacher"]
    curve = comparison.curves["mean_teacher"]
    assert curve.labelled == (3, 12, 30)
    means = [(dice[place] ** (1 / scans)).mean() for place, scans in enumerate((3, 3, 12, 30))]
    assert [dice for runs in curve.dice for dice in runs] == pytest.approx(means)
    assert any("one seed" in remark for remark in remarks(comparison))


def test_two_numbers_of_labels_are_refused_a_curve(make_run, dice):
    runs = [with_labels(make_run(f"run{n}", dice[n], labelled=n), n) for n in (1, 2)]
    comparison = compare(runs)
    assert comparison.curves == {}
    assert any("no curve over labels for mean_teacher: 2 numbers" in note for note in comparison.refused)
    gone = make_run("gone", dice[3], labelled=8)
    assert any("where a model folder is gone" in note for note in compare([*runs, gone]).refused)


@pytest.mark.parametrize("cases", [CASES[:1], None], ids=["one case", "none in common"])
def test_a_curve_of_fewer_than_two_patients_is_refused(make_run, dice, cases):
    runs = [
        with_labels(make_run(f"run{n}", dice[0][:1], labelled=n, cases=cases or [f"case{n}"]), n) for n in (1, 2, 4)
    ]
    comparison = compare(runs)
    assert comparison.curves == {}
    assert any("no curve over labels for mean_teacher: its runs share fewer" in note for note in comparison.refused)
