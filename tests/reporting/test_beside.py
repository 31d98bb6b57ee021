"""Runs of single data sets beside one of all, whose ids have the sets' names before them."""

import json
from pathlib import Path

import pytest
from test_tables import metrics_of

from semivox.errors import RunError
from semivox.reporting.beside import pooled, read_beside, titles
from semivox.reporting.record import read_record
from semivox.reporting.report import write_report


@pytest.fixture
def make_scored(tmp_path):
    """A function (name, dataset, scores, **changes of metrics.json) → a run folder that holds no more than scores."""

    def make(name: str, dataset: str, dice: dict[str, dict[str, float | None]], **changes) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = f"data: {{datasets: [/gone/{dataset}]}}\nmethod: {{name: supervised}}\nseed: 0\n"
        plan = "plan: {preparation: {}, patch: [8, 8], batch: {labelled: 2, unlabelled: 2}, network: {name: unet}}\n"
        (folder / "config.yaml").write_text(config + plan + "training: {iterations: 9, selection: last}\n")
        content = metrics_of(dice) | {"model": {"dataset": dataset}, "definitions": {}} | changes
        for case in content["cases"]:
            case["task"] = case["domain"] = case["case"].partition("__")[0]
        (folder / "metrics.json").write_text(json.dumps(content))
        return folder

    return make


JOINT = {
    "a-set__1": {"liver": 0.8},
    "a-set__2": {"liver": 0.7},
    "b__1": {"LV": 0.4, "RV": 0.6},
    "b__p__2": {"LV": 0.5, "RV": 0.7},
}


@pytest.fixture
def joint(make_scored):
    return make_scored("joint", "a set+b", JOINT)


def test_scans_are_paired_across_the_names_that_joining_gives_them(make_scored, joint):
    alone = make_scored("b", "b", {"1": {"LV": 0.5, "RV": 0.5}, "p__2": {"LV": 0.5, "RV": 0.5}, "other": {"LV": 0.1}})
    ((_, scores),) = read_beside(read_record(joint), [alone])
    assert [case["case"] for case in scores["cases"]] == ["b__1", "b__p__2", "other"]
    # The same id in another set is another scan.
    ((_, scores),) = read_beside(read_record(joint), [make_scored("a", "a set", {"1": {"liver": 0.1}})])
    assert [case["case"] for case in scores["cases"]] == ["a-set__1"]


def test_a_joint_run_beside_a_joint_one_keeps_its_ids(make_scored, joint):
    ((_, scores),) = read_beside(read_record(joint), [make_scored("other", "a set+b", JOINT)])
    assert [case["case"] for case in scores["cases"]] == list(JOINT)


def test_what_cannot_stand_beside_is_told_in_one_line(make_scored, joint, tmp_path):
    record = read_record(joint)
    for folder, words in (
        (make_scored("voxels", "b", {"1": {"LV": 0.5}}, unit="voxel"), "distances are in voxel, those of .* in mm"),
        (make_scored("far", "c", {"1": {"LV": 0.5}}), "none of its test cases is one of .*joint; leave it out"),
        (make_scored("unscored", "b", {}), "not scored"),
        (tmp_path, "is not a run folder"),
    ):
        with pytest.raises(RunError, match=words) as error:
            read_beside(record, [folder])
        assert "\n" not in str(error.value)
        assert str(folder) in str(error.value)
    with pytest.raises(RunError, match="not scored"):
        read_beside(read_record(tmp_path / "unscored"), [joint])


def test_sets_of_one_name_are_not_mistaken_for_each_other(make_scored):
    joint = make_scored("joint", "b+b", {"b__1": {"LV": 0.4}, "b-2__1": {"LV": 0.9}})
    with pytest.raises(RunError, match="two of the joined data sets are called b"):
        read_beside(read_record(joint), [make_scored("b", "b", {"1": {"LV": 0.5}})])


def test_runs_are_pooled_where_no_scan_is_in_two(make_scored, joint):
    runs = [make_scored("a", "a set", {"1": {"liver": 0.1}}), make_scored("b", "b", {"1": {"LV": 0.5}})]
    (_, first), (_, second) = read_beside(read_record(joint), runs)
    together = pooled([("a", first), ("b", second)])
    assert together is not None
    assert [case["case"] for case in together["cases"]] == ["a-set__1", "b__1"]
    assert pooled([("a", first), ("b", second), ("b again", second)]) is None
    assert pooled([("a", first)]) is None


def test_titles_are_as_long_as_it_takes_to_tell_runs_apart(make_scored):
    folders = [make_scored(name, "b", {"1": {"LV": 0.5}}) for name in ("x/alone", "y/alone", "z")]
    assert titles([read_record(folder) for folder in folders[1:]]) == ["alone", "z"]
    assert titles([read_record(folder) for folder in folders[:2]]) == ["x/alone", "y/alone"]


def test_the_report_sets_every_run_beside_the_joint_one(make_scored, joint):
    first = make_scored("<b>a", "a set", {"1": {"liver": 0.6}, "2": {"liver": 0.5}})
    second = make_scored("b", "b", {"1": {"LV": 0.5, "RV": 0.5}, "p__2": {"LV": 0.5, "RV": 0.5}})
    page = write_report(joint, beside=[first, second]).read_text(encoding="utf-8")
    assert "<b>a" not in page
    assert "&lt;b&gt;a" in page
    together, *each = page.split("<h2>Beside other runs</h2>")[1].split("</section>")[0].split("<h3>")[1:]
    assert together.startswith("All together")
    assert "<td>0.525</td><td>0.650</td>" in "".join(together.split())  # 0.6, 0.5, 0.5, 0.5 and 0.8, 0.7, 0.5, 0.6
    assert len(each) == 2
    assert "<td>0.550</td><td>0.750</td>" in "".join(each[0].split())
    assert "<td>0.500</td><td>0.550</td>" in "".join(each[1].split())
    task_b = page.split("<h3>Task b</h3>")[1].split("</table>")[1]
    assert '<th scope="col">b</th>' in task_b
    assert "&lt;b&gt;a" not in task_b
    assert "Beside other runs" not in write_report(joint).read_text(encoding="utf-8")
