import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from semivox.errors import SettingError
from semivox.evaluation.label_efficiency import label_curve
from semivox.evaluation.ranking import rank_methods
from semivox.evaluation.scores import METRICS
from semivox.evaluation.statistics import compare_paired
from semivox.experiments.compare import Comparison, Group, Pair, Spread
from semivox.experiments.comparison_files import write_comparison
from semivox.experiments.protocol import Figure, Published
from semivox.experiments.results import overview

NASTY = '<s>"one"</s> & 50%_$x$'
SCORES = np.random.default_rng(0).uniform(0.5, 0.9, (8, 3))


def scores(dice):
    spread = Spread(float(dice.mean()), float("nan"), float(dice.std(ddof=1)), 0.5, 0.8, len(dice))
    return {name: dict.fromkeys(METRICS, spread) for name in (NASTY, "mean")}


def group(place, name, **changes):
    given = {
        "name": name,
        "configuration": name,
        "method": "supervised",
        "labelled": 4,
        "selection": "last",
        "runs": (f"runs/{name}",),
        "seeds": (0, 1),
        "iterations": (100, 100),
        "minutes": (1.0, 2.0),
        "commits": (None, None),
        "scores": scores(SCORES[:, place]),
        "domains": {},
        "tasks": {},
        "empty_predictions": 0,
        "protocol": None,
        "published": None,
    }
    return Group(**given | changes)


def pair(first, second):
    paired = compare_paired(SCORES[:, second], SCORES[:, first])
    differences = {name: dict.fromkeys(METRICS, paired) for name in (NASTY, "mean")}
    return Pair(("one", NASTY, "three")[first], ("one", NASTY, "three")[second], differences, {}, {}, ())


@pytest.fixture
def comparison():
    figure = Figure(
        method="supervised", labelled=4, dice=81.5, source=f"a <paper> & {NASTY}", mark="verified", selection="test"
    )
    return Comparison(
        groups=(
            group(0, "one", published=Published(figures=(figure,))),
            group(1, NASTY, selection="test", domains={"x": scores(SCORES[:4, 1]), "y": scores(SCORES[4:, 1])}),
            group(2, "three", labelled=None, tasks={"t": scores(SCORES[:4, 2])}),
        ),
        pairs=(pair(0, 1), pair(0, 2)),
        unit="mm",
        ranking=rank_methods(SCORES),
        curves={NASTY: label_curve([1, 4, 9], np.sort(SCORES.T, axis=0), resamples=20)},
    )


def written(comparison, tmp_path, ending):
    path = tmp_path / f"comparison{ending}"
    write_comparison(comparison, path)
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags and text of a page; and the addresses that it asks for."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.text += [value for name, value in attributes if name in ("href", "src")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_escaped_and_self_contained(comparison, tmp_path):
    text = written(comparison, tmp_path, ".html")
    page = Page(text)
    assert not {"script", "link", "s", "img"} & set(page.tags)
    assert not re.search(r"(?:href|src)=|url\(|https?:", text)
    shown = " ".join(page.text)
    assert NASTY in shown
    for words in (
        "Scores",
        "Differences",
        "Ranks",
        "Labels",
        "Published figures",
        "Friedman",
        "10 more labelled scans",
    ):
        assert words in shown, words
    assert "best on test (as published)" in shown
    assert "prefers-color-scheme: dark" in text
    assert page.tags.count("svg") == 2


def test_the_page_leaves_out_what_there_is_none_of(comparison, tmp_path):
    alone = Comparison(groups=comparison.groups[2:], pairs=(), unit="mm")
    page = Page(written(replace(alone, groups=(replace(alone.groups[0], tasks={}),)), tmp_path, ".html"))
    assert "svg" not in page.tags
    assert "Differences" not in " ".join(page.text)


def test_the_csv_has_a_row_per_group_class_and_metric(comparison, tmp_path):
    rows = list(csv.DictReader(written(comparison, tmp_path, ".csv").splitlines()))
    whole = [row for row in rows if not row["domain"] and not row["task"]]
    assert [(row["group"], row["class"], row["metric"]) for row in whole] == [
        (name, structure, metric)
        for name in ("one", NASTY, "three")
        for structure in (NASTY, "mean")
        for metric in METRICS
    ]
    assert float(whole[0]["mean"]) == SCORES[:, 0].mean()
    assert (whole[0]["deviation_over_seeds"], whole[0]["unit"], whole[2]["unit"]) == ("", "", "mm")
    assert {(row["domain"], row["task"]) for row in rows} == {("", ""), ("x", ""), ("y", ""), ("", "t")}
    assert {row["selection"] for row in rows if row["group"] == NASTY} == {"best on test (as published)"}
    assert {row["labelled"] for row in rows if row["group"] == "three"} == {"all"}


def test_the_latex_holds_every_table_with_names_escaped(comparison, tmp_path):
    text = written(comparison, tmp_path, ".tex")
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\end{table}") >= 5
    assert NASTY not in "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert r"50\%\_\$x\$" in text
    columns = [len(line.split(" & ")) for line in text.splitlines() if " & " in line and "caption" not in line]
    wanted = [len(found) for found in re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)]
    assert set(columns) == set(wanted)


def test_json_is_whole_with_null_for_nan(comparison, tmp_path):
    content = json.loads(written(comparison, tmp_path, ".json"))
    assert content["groups"][0]["scores"]["mean"]["dice"]["over_runs"] is None
    assert content["groups"][0]["runs"] == ["runs/one"]
    assert content["groups"][0]["published"]["figures"][0]["dice"] == 81.5
    assert content["ranking"]["groups"] == 8
    assert content["curves"][NASTY]["labelled"] == [1, 4, 9]
    (overall,) = content["tests"]
    assert overall["number"] == 4
    assert overall["tests"][0]["p_value"] >= overall["tests"][0]["paired"]["p_value"]


def test_another_ending_is_refused_in_one_line(comparison, tmp_path):
    with pytest.raises(SettingError, match=r"comparison\.pdf: name a file that ends in \.json, \.html, \.csv, \.tex"):
        written(comparison, tmp_path, ".pdf")


def test_rows_tell_the_commits_of_their_runs_where_one_is_known(comparison):
    assert "commit" not in overview(comparison).header
    first, second, third = comparison.groups
    known = replace(second, commits=("abc1234", "abc1234", None), seeds=(0, 1, 2))
    table = overview(replace(comparison, groups=(first, known, third)))
    assert [dict(zip(table.header, row, strict=True))["commit"] for row in table.rows] == ["–", "abc1234, –", "–"]
