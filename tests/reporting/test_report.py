import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from semivox.cli import main
from semivox.errors import DataError, RunError
from semivox.reporting import report
from semivox.reporting.report import write_report

EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a page is made of: its tags with their attributes, and all text outside the style sheet."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] != "style":
            self.text += data

    def count(self, tag: str, **attributes: str) -> int:
        wanted = {("class" if name == "kind" else name): value for name, value in attributes.items()}
        return sum(name == tag and wanted.items() <= found.items() for name, found in self.tags)


@pytest.fixture
def page(make_run):
    """A function that fabricates a run, reports it and returns the page."""

    def read(**options) -> Page:
        return Page(write_report(make_run(**options).folder))

    return read


def test_the_page_fetches_nothing_and_runs_nothing(page) -> None:
    found = page(baseline=(1, 1, 2, 2, 4))
    assert not {"script", "iframe", "link", "object", "embed", "form"} & {tag for tag, _ in found.tags}
    for _, attributes in found.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "action", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    policy = next(attributes for _, attributes in found.tags if "http-equiv" in attributes)
    assert "default-src 'none'" in str(policy["content"])


def test_every_text_is_escaped(make_run) -> None:
    run = make_run(shifts=(0, 1, 2))
    content = json.loads((run.folder / "metrics.json").read_text())
    content["cases"][0]["case"] = content["cases"][1]["domain"] = EVIL
    content["unscored"] = [EVIL]
    content["definitions"][EVIL] = EVIL
    for place in ([case["scores"] for case in content["cases"]], [content["summary"]]):
        for names in place:
            names[EVIL] = names.pop("liver")
    (run.folder / "metrics.json").write_text(json.dumps(content))
    log = (
        (run.folder / "log.csv")
        .read_text()
        .replace("loss/supervised", f"loss/{EVIL}")
        .replace(",train,", f",{EVIL},", 3)
    )
    (run.folder / "log.csv").write_text(log)
    config = (run.folder / "config.yaml").read_text().replace("name: mean_teacher", f"name: '{EVIL}'")
    (run.folder / "config.yaml").write_text(config.replace("The patch holds", EVIL))
    (run.folder / "environment.json").write_text(json.dumps({EVIL: {EVIL: EVIL}}))
    renamed = run.folder.rename(run.folder.with_name("<b>&'\" run"))
    path = write_report(renamed)
    assert "<script" not in path.read_text(encoding="utf-8").lower()
    found = Page(path)
    assert found.text.count(EVIL) > 8
    assert found.count("b", kind="") == 0
    assert "<b>&'\" run" in found.text


def test_a_case_named_like_markup_is_shown_by_its_name(page) -> None:
    found = page(shifts=(0, 1), names=["<i>x", "&amp;_y"])
    assert "Worst &amp;_y" in found.text
    assert found.count("i", kind="") == 0


def test_the_same_run_gives_the_same_bytes(make_run) -> None:
    run = make_run(baseline=(1, 1, 2, 2, 4))
    first = write_report(run.folder).read_bytes()
    assert write_report(run.folder).read_bytes() == first


def test_a_report_that_fails_leaves_the_old_one(make_run, monkeypatch) -> None:
    run = make_run()
    before = write_report(run.folder).read_bytes()
    monkeypatch.setattr(report.prose, "summary", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(run.folder)
    assert (run.folder / "report.html").read_bytes() == before
    assert not list(run.folder.glob(".writing-*"))


def test_the_labelled_only_run_that_wins_is_said_so_in_red(page) -> None:
    found = page(shifts=(1, 2, 2, 3, 3), baseline=(0, 0, 1, 1, 2))
    assert "Training on the labelled scans alone was better." in found.text
    assert found.count("div", kind="banner worse") == 1
    assert found.count("b", kind="worse") == 1


def test_a_gain_is_said_plainly_only_when_the_interval_excludes_zero(page) -> None:
    found = page(shifts=(0, 0, 1, 1, 2), baseline=(1, 2, 2, 3, 3))
    assert "Better than training on the labelled scans alone." in found.text
    assert found.count("div", kind="banner better") == 1


def test_a_gain_of_models_that_are_hardly_trained_is_no_gain(page) -> None:
    found = page(shifts=(4, 4, 4, 4, 4), baseline=(5, 5, 5, 5, 5))
    assert "nothing follows from their difference" in found.text
    assert found.count("div", kind="banner better") == 0


def test_a_gain_that_may_be_chance_is_said_to_be(page) -> None:
    found = page(shifts=(0, 0, 0, 3, 1), baseline=(2, 1, 3, 0, 0))
    assert "The unlabelled scans did not clearly help." in found.text
    assert "it may be chance" in found.text


def test_scores_of_oracle_prompts_say_so(make_run) -> None:
    run = make_run()
    metrics = json.loads((run.folder / "metrics.json").read_text())
    own = write_report(run.folder).read_text()
    (run.folder / "metrics.json").write_text(json.dumps(metrics | {"model": {"prompts": "oracle"}}))
    assert "oracle prompts" in write_report(run.folder).read_text()
    assert "oracle prompts" not in own


def test_without_a_labelled_only_run_nothing_is_claimed(page) -> None:
    found = page()
    assert "Nothing here shows that the unlabelled scans helped." in found.text
    assert re.search(r"semivox train --resume \S+/mt2 --baseline", found.text)


def test_a_labelled_only_run_needs_no_comparison(page) -> None:
    found = page(method="supervised")
    assert "This is a labelled-only run." in found.text
    assert "--baseline" not in found.text


def test_what_the_two_runs_did_not_share_is_listed(make_run) -> None:
    run = make_run(baseline=(1, 1, 2, 2, 4))
    config = run.folder / "baseline" / "config.yaml"
    config.write_text(config.read_text().replace("iterations: 400", "iterations: 4000"))
    found = Page(write_report(run.folder))
    assert "training.iterations" in found.text
    assert "4000" in found.text


def test_worst_median_and_best_are_shown_in_three_planes(page) -> None:
    found = page(shifts=(2, 0, 5, 3, 1))
    for title in ("Worst test_2", "Median test_0", "Best test_1"):
        assert title in found.text
    assert found.count("image") == 9
    assert found.count("path", kind="prediction") >= 9
    assert found.count("path", kind="reference") >= 9


def test_only_the_cases_that_are_shown_are_read(make_run) -> None:
    run = make_run(shifts=(2, 0, 5, 3, 1))
    first = write_report(run.folder).read_bytes()
    for name in ("test_3", "test_4"):
        (run.data / "imagesTs" / f"{name}_0000.nii.gz").write_bytes(b"not a scan")
        (run.folder / "predictions" / f"{name}.nii.gz").unlink()
    assert write_report(run.folder).read_bytes() == first


def test_cases_without_a_reference_show_the_prediction_only(page, make_run) -> None:
    run = make_run(shifts=(0, 1), scored=1)
    content = json.loads((run.folder / "metrics.json").read_text())
    content |= {"cases": [], "summary": {}, "unscored": ["test_0", "test_1"]}
    (run.folder / "metrics.json").write_text(json.dumps(content))
    (run.data / "labelsTs" / "test_0.nii.gz").unlink()
    found = Page(write_report(run.folder))
    assert "No scores." in found.text
    assert "no reference label, prediction only" in found.text
    assert found.count("path", kind="prediction") >= 6
    assert found.count("path", kind="reference") == 0


def test_a_data_set_that_is_gone_costs_the_pictures_and_nothing_else(make_run) -> None:
    run = make_run()
    shutil.rmtree(run.data)
    found = Page(write_report(run.folder))
    assert "there are no pictures" in found.text
    assert found.count("image") == 0
    assert "Mean over classes" in found.text


@pytest.mark.parametrize("broken", ["imagesTs/test_4_0000.nii.gz", "labelsTs/test_4.nii.gz"])
def test_a_broken_scan_costs_its_own_pictures(make_run, broken: str) -> None:
    run = make_run()
    (run.data / broken).write_bytes(b"")
    found = Page(write_report(run.folder))
    assert Path(broken).name in found.text
    assert found.count("image") == 6


def test_a_missing_prediction_is_named(make_run) -> None:
    run = make_run()
    (run.folder / "predictions" / "test_4.nii.gz").unlink()
    found = Page(write_report(run.folder))
    assert "test_4.nii.gz" in found.text
    assert found.count("image") == 6


def test_a_run_without_scores_or_log_has_a_report(make_run) -> None:
    run = make_run()
    for name in ("metrics.json", "log.csv", "environment.json"):
        (run.folder / name).unlink()
    shutil.rmtree(run.folder / "predictions")
    found = Page(write_report(run.folder))
    assert "No scores." in found.text
    assert "The run has no log yet." in found.text


def test_the_summary_counts_scans_steps_and_cases(page) -> None:
    found = page(shifts=(0, 1, 2), scored=2, domains=("a", "b"))
    assert "Mean teacher was trained on organs with 2 labelled and 3 unlabelled scans" in found.text
    assert "400 steps" in found.text
    assert "2 cases; 1 more had no reference label" in found.text
    assert "By domain" in found.text


def test_the_setting_is_in_the_notes(make_run) -> None:
    run = make_run(shifts=(0, 1, 2), domains=("a", "b"))
    assert "No scan of b took part in training." in Page(write_report(run.folder)).text
    table = run.data / "cases.csv"
    table.write_text(table.read_text().replace("train_4,train,a", "train_4,train,b"))
    for settings, words in (
        ({}, "Training adapted to b without training labels; none of its labels was read in training."),
        ({"uda": {"target_labels": True}}, "those of its validation cases chose the weights."),
    ):
        config = {**run.config, **settings, "training": {**run.config["training"], "selection": "validation"}}
        (run.folder / "config.yaml").write_text(yaml.safe_dump(config))
        assert words in Page(write_report(run.folder)).text
    left = {**run.config, "data": {**run.config["data"], "unseen": ["b"]}}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(left))
    assert "No scan of b took part in training." in Page(write_report(run.folder)).text


def test_weights_that_the_test_cases_chose_are_said_to_flatter(make_run) -> None:
    run = make_run()
    assert "no test score had a say" in Page(write_report(run.folder)).text
    config = {**run.config, "training": {**run.config["training"], "selection": "test"}}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config))
    text = Page(write_report(run.folder)).text
    assert "best on the test cases themselves" in text
    assert "no test score had a say" not in text


def test_a_method_of_the_users_own_is_named_again_in_the_commands(make_run) -> None:
    run = make_run()
    config = run.folder / "config.yaml"
    config.write_text(config.read_text().replace("name: mean_teacher", "name: my methods/new.py:Mine"))
    found = Page(write_report(run.folder))
    assert found.text.count("--method 'my methods/new.py:Mine'") == 2


def test_labels_that_the_run_hid_are_not_opened(make_run) -> None:
    run = make_run()
    before = write_report(run.folder).read_bytes()
    for name in ("train_2", "train_3"):
        (run.data / "labelsTr" / f"{name}.nii.gz").write_bytes(b"not a label")
    assert write_report(run.folder).read_bytes() == before


def test_a_data_set_with_fewer_labels_than_the_run_had_costs_the_pictures(make_run) -> None:
    run = make_run()
    for label in (run.data / "labelsTr").iterdir():
        label.unlink()
    found = Page(write_report(run.folder))
    assert found.count("image") == 9  # no label to hide: the test cases are shown as before
    (run.data / "labelsTr" / "train_0.nii.gz").write_bytes(b"")
    assert "there are no pictures" in Page(write_report(run.folder)).text


def test_settings_plan_and_checksums_are_there(page) -> None:
    found = page()
    assert "3-D patches of 24 × 16 × 8 voxels of 2 × 2 × 5 mm; 2 labelled and 2 unlabelled in each step" in found.text
    for text in ("preparation.spacing_mm", "The patch holds the whole body", "method.settings.decay", "0f" * 32):
        assert text in found.text


def test_pseudo_labels_are_scored_against_hidden_labels_only_when_asked(make_run) -> None:
    run = make_run()
    folder = run.folder / "predictions_unlabelled"
    folder.mkdir()
    for name in ("train_0", "train_2", "train_3", "train_4"):
        shutil.copy(run.data / "labelsTr" / "train_0.nii.gz", folder / f"{name}.nii.gz")
    assert "against hidden labels" not in Page(write_report(run.folder)).text
    found = Page(write_report(run.folder, pseudo_labels=True))
    # train_0 and train_1 were labelled, train_4 never had a label.
    assert "predictions of 2 unlabelled training cases" in found.text
    assert re.search(r"Mean over classes\s*1\.000", found.text)


def test_pseudo_labels_that_were_not_saved_are_asked_for(make_run) -> None:
    run = make_run()
    with pytest.raises(RunError, match="semivox predict"):
        write_report(run.folder, pseudo_labels=True)
    (run.folder / "predictions_unlabelled").mkdir()
    with pytest.raises(RunError, match="holds no prediction"):
        write_report(run.folder, pseudo_labels=True)
    shutil.rmtree(run.data)
    with pytest.raises(DataError):
        write_report(run.folder, pseudo_labels=True)


def test_the_command_prints_where_the_report_is(make_run, capsys) -> None:
    run = make_run()
    assert main(["report", str(run.folder)]) == 0
    assert Path(capsys.readouterr().out.strip()) == run.folder / "report.html"
    assert main(["report", str(run.folder.parent)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
