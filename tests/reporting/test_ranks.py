import re

import pytest

from semivox.evaluation.ranking import Ranking
from semivox.reporting.ranks import AXIS_Y, rank_picture

NAMES = ["middling", "best", "worst", "second, with a much longer name"]
PICTURE = rank_picture(NAMES, Ranking((2.5, 1.0, 4.0, 2.0), 9, 12.0, 0.01, ((3, 0),)))


def place_of(method):
    """Where its line leaves the axis."""
    return float(re.match(rf"M([\d.]+) {AXIS_Y}V", method.line).group(1))


def test_methods_stand_at_their_ranks_on_an_axis_of_all_ranks():
    begin, end, _ = PICTURE.axis
    for method, rank in zip(PICTURE.methods, (1.0, 2.0, 4.0, 2.5), strict=True):
        assert place_of(method) == pytest.approx(begin + (end - begin) * (rank - 1) / 3, abs=0.1)
        assert method.rank == f"{rank:.2f}"
    assert [tick.text for tick in PICTURE.ticks] == ["1", "2", "3", "4"]


def test_the_better_half_is_left_and_lines_do_not_cross():
    assert [(method.name, method.is_left) for method in PICTURE.methods] == [
        ("best", True),
        (NAMES[3], True),
        ("worst", False),
        ("middling", False),
    ]
    heights = [method.y for method in PICTURE.methods]
    assert heights[0] < heights[1]
    assert heights[2] < heights[3]


def test_a_bar_spans_its_clique_alone_and_all_is_within_the_picture():
    ((begin, end, height),) = PICTURE.bars
    at = {method.name: place_of(method) for method in PICTURE.methods}
    assert at["best"] < begin < at[NAMES[3]]
    assert at["middling"] < end < at["worst"]
    assert AXIS_Y < height < min(method.y for method in PICTURE.methods)
    assert max(method.y for method in PICTURE.methods) < PICTURE.height
    for method in PICTURE.methods:
        reach = 5 * len(method.name)  # letters are wider than this
        assert (method.x - reach > 0) if method.is_left else (method.x + reach < PICTURE.width)
