"""The critical-difference picture as plain geometry: methods on an axis of mean ranks, a bar over those that are alike.

As Demšar drew it (JMLR 2006), but that bars come from tests of every two methods, not from one distance for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from semivox.evaluation.ranking import Ranking
from semivox.reporting.curves import Axis, Tick

AXIS_WIDTH, AXIS_Y = 420.0, 26.0
GAP = 10.0
"""From the axis to the names."""
LETTER = 5.8
"""Width of a letter of a name, on the generous side; all in SVG units."""
LINE, BAR = 19.0, 8.0
"""Height of a line of names, and of a bar with its distance to the next."""
MOST_TICKS = 10


@dataclass(frozen=True)
class RankedMethod:
    """A name, its mean rank as text, and the line (path data) from the axis to where they stand."""

    name: str
    rank: str
    line: str
    x: float
    y: float
    is_left: bool
    """Left of the axis, where the better half stands, the best on top; right of it the worst is on top."""


@dataclass(frozen=True)
class RankPicture:
    """All of the picture; `bars` are (begin, end, height)."""

    width: float
    height: float
    axis: tuple[float, float, float]
    ticks: tuple[Tick, ...]
    methods: tuple[RankedMethod, ...]
    bars: tuple[tuple[float, float, float], ...]


def rank_picture(names: Sequence[str], ranking: Ranking) -> RankPicture:
    """`names` in the order of the ranking's mean ranks."""
    order = sorted(range(len(names)), key=lambda place: ranking.mean_ranks[place])
    half = -(-len(order) // 2)
    left, right = order[:half], order[half:][::-1]
    begin = _margin(names, left)
    end = begin + AXIS_WIDTH
    axis = Axis(1, len(names), begin, end)
    pitch = -(-len(names) // MOST_TICKS)
    ticks = axis.ticks((number, str(number)) for number in range(1, len(names) + 1, pitch))
    bars = []
    for number, clique in enumerate(ranking.cliques):
        along = [axis.place(ranking.mean_ranks[place]) for place in clique]
        bars.append((min(along) - 3, max(along) + 3, AXIS_Y + BAR * (number + 1)))
    top = AXIS_Y + BAR * len(bars) + LINE
    methods = []
    for own, x in ((left, begin - GAP), (right, end + GAP)):
        for row, place in enumerate(own):
            y, rank = top + LINE * row, ranking.mean_ranks[place]
            line = f"M{axis.place(rank)} {AXIS_Y}V{y}H{x}"
            methods.append(RankedMethod(names[place], f"{rank:.2f}", line, x, y, own is left))
    width = end + _margin(names, right)
    return RankPicture(width, top + LINE * half, (begin, end, AXIS_Y), ticks, tuple(methods), tuple(bars))


def _margin(names: Sequence[str], places: Sequence[int]) -> float:
    """Room beside the axis for a gap, the longest of these names and its rank."""
    return GAP + LETTER * (max(len(names[place]) for place in places) + 7)
