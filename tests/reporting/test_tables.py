from typing import Any

import pytest

from semivox.reporting.tables import (
    DICE,
    HD95,
    METRICS,
    OVER_TASKS,
    case_rows,
    comparison,
    domain_rows,
    key_figures,
    mean_scores,
    score_rows,
    task_results,
    task_rows,
    tasks_are_domains,
)

VOLUME_ERROR = METRICS[-1]


def metrics_of(dice: dict[str, dict[str, float | None]], **more: Any) -> dict[str, Any]:
    """The content of a metrics.json with these Dice values (case → class → Dice); HD95 is ten times what lacks to 1."""
    cases = [
        {
            "case": case,
            "domain": case[0],
            "group": more.get("groups", {}).get(case, ""),
            "scores": {
                name: {
                    "dice": value,
                    "hd95": None if not value else 10 * (1 - value),
                    "empty": None if value else "prediction",
                }
                for name, value in scores.items()
            },
        }
        for case, scores in dice.items()
    ]
    statistics = {"mean": 0.5, "deviation": 0.1, "n": 2, "low": 0.4, "high": 0.6}
    nothing = {"mean": None, "deviation": None, "n": 0, "low": None, "high": None}
    summary = {name: {"dice": statistics, "hd95": nothing, "empty_predictions": 1} for name in ("liver", "mean")}
    return {"cases": cases, "summary": summary, "unscored": more.get("unscored", []), "unit": "mm"}


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (DICE, 0.8126, "0.813"),
        (HD95, 12.0, "12.00"),
        (HD95, None, "–"),
        (HD95, float("nan"), "–"),
        (VOLUME_ERROR, 0.05, "+5.0"),
        (VOLUME_ERROR, -0.05, "−5.0"),
        (VOLUME_ERROR, -0.0001, "0.0"),
    ],
)
def test_a_number_is_written_with_its_digits_and_sign(metric, value, text) -> None:
    assert metric.text(value) == text


def test_a_case_counts_the_classes_that_are_defined() -> None:
    metrics = metrics_of(
        {"a": {"liver": 0.8, "kidney": 0.4}, "b": {"liver": None, "kidney": 0.5}, "c": {"liver": None}}
    )
    assert mean_scores(metrics["cases"], "dice") == pytest.approx({"a": 0.6, "b": 0.5})
    assert mean_scores(metrics["cases"], "dice", "liver") == {"a": 0.8}


def test_a_single_class_needs_no_row_of_means() -> None:
    (row,) = score_rows(metrics_of({"a": {"liver": 0.5}}))
    assert row.name == "liver"
    assert (row.cells[0].mean, row.cells[0].spread, row.cells[0].interval) == ("0.500", "0.100", "0.400 to 0.600")
    assert row.cells[2] == type(row.cells[2])("–", "", "", 0)
    assert row.empty_predictions == 1


def test_domains_have_rows_of_their_own_when_there_are_several() -> None:
    metrics = metrics_of({"a1": {"liver": 0.4}, "a2": {"liver": 0.6}, "b1": {"liver": 0.0}})
    first, second = domain_rows(metrics)
    assert (first.name, first.cells[0].mean, first.cells[0].n, first.empty_predictions) == ("a", "0.500", 2, 0)
    assert (second.name, second.cells[0].mean, second.cells[0].interval) == ("b", "0.000", "")
    assert second.empty_predictions == 1
    assert domain_rows(metrics_of({"a1": {"liver": 0.4}, "a2": {"liver": 0.6}})) == []


def test_domains_have_a_row_for_each_class_then_the_mean() -> None:
    metrics = metrics_of({"a1": {"liver": 0.4, "kidney": 0.8}, "b1": {"liver": 0.0, "kidney": None}})
    rows = {row.name: (row.cells[0].mean, row.empty_predictions) for row in domain_rows(metrics)}
    assert (rows["a, liver"], rows["a, mean"]) == (("0.400", 0), ("0.600", 0))
    assert (rows["b, liver"], rows["b, kidney"][0], rows["b, mean"]) == (("0.000", 1), "–", ("0.000", 2))
    assert list(rows) == ["a, liver", "a, kidney", "a, mean", "b, liver", "b, kidney", "b, mean"]


def test_runs_are_compared_over_the_cases_that_both_scored() -> None:
    run = metrics_of({"a": {"liver": 0.8}, "b": {"liver": 0.7}, "only_here": {"liver": 0.1}})
    baseline = metrics_of({"a": {"liver": 0.7}, "b": {"liver": 0.5}, "only_there": {"liver": 0.9}})
    compared = comparison(run, baseline)
    assert compared is not None
    row = compared.headline
    assert (row.other, row.run, row.difference, row.n) == ("0.600", "0.750", "+0.150", 2)


@pytest.mark.parametrize(
    ("gains", "verdict", "includes_zero"),
    [
        ([0.1, 0.12, 0.09, 0.11], "better", False),
        ([-0.1, -0.12, -0.09, -0.11], "worse", False),
        ([0.3, -0.2, 0.1, -0.1], "undecided", True),
        ([-0.3, 0.2, -0.1, 0.1], "worse", True),
        ([0.1], "undecided", True),
        ([0.0, 0.0], "undecided", True),
    ],
)
def test_the_verdict_is_red_whenever_the_labelled_only_run_is_ahead(gains, verdict, includes_zero) -> None:
    names = [f"case_{index}" for index in range(len(gains))]
    run = metrics_of({name: {"liver": 0.5 + gain} for name, gain in zip(names, gains, strict=True)})
    compared = comparison(run, metrics_of({name: {"liver": 0.5} for name in names}))
    assert compared is not None
    assert compared.verdict == verdict
    assert compared.headline.includes_zero is includes_zero


def test_less_distance_is_better() -> None:
    names = [f"case_{index}" for index in range(4)]
    run = metrics_of({name: {"liver": 0.8 + 0.01 * index} for index, name in enumerate(names)})
    compared = comparison(run, metrics_of({name: {"liver": 0.5} for name in names}))
    assert compared is not None
    distance = compared.rows[-1]
    assert distance.name.startswith("HD95")
    assert distance.difference.startswith("−")
    assert distance.verdict == "better"


def test_scans_of_one_patient_count_once_in_the_interval() -> None:
    names = [f"case_{index}" for index in range(4)]
    dice = {name: {"liver": 0.5 + 0.1 * index} for index, name in enumerate(names)}
    baseline = metrics_of({name: {"liver": 0.5} for name in names})
    one_patient = comparison(metrics_of(dice, groups=dict.fromkeys(names, "p")), baseline)
    four_patients = comparison(metrics_of(dice), baseline)
    assert one_patient is not None
    assert four_patients is not None
    assert one_patient.headline.interval == ""
    assert four_patients.headline.interval != ""


def test_classes_that_one_run_does_not_know_are_left_out_of_the_comparison() -> None:
    joint = metrics_of({"a": {"liver": 0.8, "kidney": 0.2}, "b": {"liver": 0.6, "kidney": 0.2}})
    compared = comparison(joint, metrics_of({"a": {"liver": 0.7}, "b": {"liver": 0.5}}))
    assert compared is not None
    assert [row.name for row in compared.rows] == ["Dice, mean over classes", "HD95, mean over classes"]
    assert (compared.headline.other, compared.headline.run) == ("0.600", "0.700")


def of_tasks(dice: dict[str, dict[str, float | None]]) -> dict[str, Any]:
    """Scores whose task is what stands before the case's first digit; the domain its first letter."""
    metrics = metrics_of(dice)
    for case in metrics["cases"]:
        case["task"] = case["case"].rstrip("0123456789")
    return metrics


def test_tasks_have_a_row_each_and_count_alike_in_their_mean() -> None:
    metrics = of_tasks(
        {"ct1": {"liver": 0.9}, "ct2": {"liver": 0.7}, "mr1": {"LV": 0.2, "RV": 0.4}, "mr2": {"LV": 0.0}}
    )
    rows = {row.name: (row.cells[0].mean, row.cells[0].n, row.empty_predictions) for row in task_rows(metrics)}
    assert rows == {"ct": ("0.800", 2, 0), "mr": ("0.150", 2, 1), OVER_TASKS: ("0.475", 2, 1)}
    assert not task_rows(metrics)[-1].cells[0].interval


def test_a_tasks_table_has_its_classes_its_cases_and_the_runs_that_scored_them() -> None:
    metrics = of_tasks({"ct1": {"liver": 0.9}, "mr1": {"LV": 0.2, "RV": 0.4}})
    ct, mr = task_results(metrics, [("alone", metrics_of({"mr1": {"LV": 0.6}}))])
    assert (ct.task, ct.classes, [row.name for row in ct.rows], ct.others) == ("ct", ("liver",), ["liver"], ())
    assert (mr.classes, [row.name for row in mr.rows]) == (("LV", "RV"), ["LV", "RV", "mean"])
    assert (mr.others, [case.others for case in mr.cases]) == (("alone",), [("0.600",)])
    assert len(mr.cases[0].classes) == 2


def test_one_task_or_scores_of_before_there_were_tasks_make_no_table_of_tasks() -> None:
    old = metrics_of({"ct1": {"liver": 0.9}, "mr1": {"LV": 0.2}})
    assert (task_rows(old), task_results(old)) == ([], [])
    assert not tasks_are_domains(old)
    assert not tasks_are_domains(of_tasks({"ct1": {"liver": 0.9}}))
    assert tasks_are_domains(of_tasks({"c1": {"liver": 0.9}, "m1": {"LV": 0.2}}))


def test_no_common_case_means_no_comparison() -> None:
    assert comparison(metrics_of({"a": {"liver": 0.5}}), metrics_of({"b": {"liver": 0.5}})) is None


def test_cases_run_from_the_worst_to_the_best_and_tell_what_was_empty() -> None:
    metrics = metrics_of({"good": {"liver": 0.9}, "failed": {"liver": 0.0}, "undefined": {"liver": None}})
    rows = case_rows(metrics, [("other", metrics_of({"good": {"liver": 0.8}}))])
    assert [row.case for row in rows] == ["undefined", "failed", "good"]
    assert rows[1].classes == (("0.000", "–", "nothing predicted"),)
    assert (rows[2].mean, rows[2].others) == ("0.900", ("0.800",))
    assert rows[0].others == ("–",)


def test_key_figures_say_how_many_cases_lack_a_reference() -> None:
    figures = key_figures(metrics_of({"a": {"liver": 0.5}}, unscored=["x", "y"]), None)
    assert (figures[-1].value, figures[-1].remark) == ("1", "2 more without a reference")
