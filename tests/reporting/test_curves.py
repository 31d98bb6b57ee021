import re

import numpy as np

from semivox.reporting.curves import BINS, BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, case_chart, training_charts
from semivox.reporting.record import Log


def log_of(stages: list[str] | None = None, **columns: np.ndarray) -> Log:
    rows = len(columns["step"])
    return Log(tuple(stages or ["train"] * rows), {name.replace("__", "/"): values for name, values in columns.items()})


def points(path: str) -> np.ndarray:
    return np.array([[float(number) for number in point.split()] for point in re.findall(r"[\d.-]+ [\d.-]+", path)])


def test_every_named_loss_gets_a_chart_and_what_was_not_measured_gets_none() -> None:
    nothing = np.full(3, np.nan)
    log = log_of(
        step=np.arange(3.0), loss=np.ones(3), loss__dice=np.ones(3), loss__consistency=np.ones(3), pseudo__kept=nothing
    )
    assert [chart.title for chart in training_charts(log)] == ["Loss: dice", "Loss: consistency", "Loss: total"]


def test_points_lie_where_their_values_say() -> None:
    log = log_of(step=np.array([0.0, 50, 100]), loss=np.array([0.0, 1.0, 0.5]))
    (chart,) = training_charts(log)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    expected = [[LEFT, bottom], [(LEFT + right) / 2, TOP], [right, (TOP + bottom) / 2]]
    assert np.allclose(points(chart.curves[0].line), expected)
    ticks = {tick.text: tick.place for tick in chart.y_ticks}
    assert ticks["0.0"] == bottom
    assert ticks["1.0"] == TOP


def test_a_long_curve_is_thinned_and_its_band_keeps_the_extremes() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.1, 10_000)
    values[5_000] = 3.0
    (chart,) = training_charts(log_of(step=np.arange(10_000.0), loss=values))
    (curve,) = chart.curves
    assert len(points(curve.line)) == BINS
    tick = {tick.text: tick.place for tick in chart.y_ticks}
    assert abs(points(curve.band)[:, 1].min() - tick["3"]) < 0.2
    assert points(curve.line)[:, 1].min() > tick["2"]


def test_a_short_curve_has_no_band() -> None:
    (chart,) = training_charts(log_of(step=np.arange(BINS, dtype=float), loss=np.linspace(0, 1, BINS)))
    assert chart.curves[0].band == ""


def test_a_constant_or_single_value_is_drawn_inside_the_chart() -> None:
    for values in (np.zeros(4), np.full(4, -2.0), np.array([0.3])):
        (chart,) = training_charts(log_of(step=np.arange(float(len(values))), loss=values))
        y = points(chart.curves[0].line)[:, 1]
        assert ((y >= TOP) & (y <= HEIGHT - BOTTOM)).all()


def test_ticks_enclose_the_values_at_every_scale() -> None:
    for scale in (1e-7, 3e-4, 1.0, 123.0, 4.5e6):
        (chart,) = training_charts(log_of(step=np.arange(3.0), loss=scale * np.array([1.0, 1.7, 1.2])))
        texts = [float(tick.text) for tick in chart.y_ticks]
        assert min(texts) <= scale
        assert max(texts) >= 1.7 * scale
        assert 3 <= len(texts) <= 8
        assert len(set(texts)) == len(texts)


def test_the_beginning_of_a_later_stage_is_marked() -> None:
    log = log_of(["burn_in", "burn_in", "teacher"], step=np.array([0.0, 5, 10]), loss=np.ones(3))
    (chart,) = training_charts(log)
    assert [(mark.text, mark.place) for mark in chart.marks] == [("teacher", WIDTH - RIGHT)]


def test_validation_shows_the_labelled_only_run_beside_this_one() -> None:
    run = log_of(step=np.arange(3.0), validation__dice=np.array([0.1, 0.2, 0.3]))
    baseline = log_of(step=np.arange(3.0), validation__dice=np.array([0.2, 0.3, 0.4]))
    (chart,) = training_charts(run, baseline)
    assert [(curve.name, curve.last) for curve in chart.curves] == [("this run", "0.3"), ("labelled only", "0.4")]


def test_cases_are_sorted_and_paired_with_the_labelled_only_run() -> None:
    chart = case_chart({"b": 0.9, "a": 0.5, "c": 0.7}, {"a": 0.6})
    assert [dot.case for dot in chart.dots] == ["a", "c", "b"]
    first = chart.dots[0]
    assert first.other is not None
    assert first.other < first.y  # the labelled-only run was better: its place is higher up
    assert chart.dots[1].other is None
