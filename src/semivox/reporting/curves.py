"""Charts as plain geometry: numbers in, SVG path data out. The template draws them and so escapes every name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from semivox.evaluation.label_efficiency import LabelCurve
from semivox.reporting.domain_shift import DomainShift, Histogram
from semivox.reporting.record import Log

WIDTH, HEIGHT = 340.0, 170.0
"""Size of a chart in SVG units; the page scales it."""
LEFT, RIGHT, TOP, BOTTOM = 42.0, 8.0, 10.0, 24.0
"""Margins inside that size, for tick labels."""
LEAST_PITCH = 16.0
"""Between two tick labels that were not chosen to be round."""
BINS = 200
"""Longer curves are drawn as the mean of so many parts, over a band from the least to the greatest value of each."""

TOPICS = ("loss", "pseudo", "validation")
"""What every log speaks of before the slash; other topics are a method's own."""


@dataclass(frozen=True)
class Tick:
    """A tick label and its place along the axis, in SVG units."""

    place: float
    text: str


@dataclass(frozen=True)
class Axis:
    """Where values lie: `low` at `begin`, `high` at `end` (SVG units)."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, values: np.ndarray) -> np.ndarray:
        return self.begin + (self.end - self.begin) * (values - self.low) / (self.high - self.low)

    def place(self, value: float) -> float:
        return round(float(self.at(np.array(value))), 1)

    def ticks(self, values: Iterable[tuple[float, str]]) -> tuple[Tick, ...]:
        return tuple(Tick(self.place(value), text) for value, text in values)


@dataclass(frozen=True)
class Curve:
    """One line of a chart: SVG path data of the line and, for long curves, of the band behind it."""

    name: str
    line: str
    band: str
    last: str
    """The last value, as text."""
    dots: tuple[tuple[float, float], ...] = ()
    """What was measured, where the line is fitted to it."""


@dataclass(frozen=True)
class Chart:
    """Curves over steps, or over labels. `marks` are the steps at which a later stage begins."""

    title: str
    note: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Tick, ...] = ()


@dataclass(frozen=True)
class Dot:
    """One case in the chart of all cases; `other` is the labelled-only run's place, None where it has none."""

    case: str
    x: float
    y: float
    text: str
    other: float | None = None
    other_text: str = ""


@dataclass(frozen=True)
class CaseChart:
    """The score of every case, from the worst to the best."""

    dots: tuple[Dot, ...]
    y_ticks: tuple[Tick, ...]
    width: float
    height: float


@dataclass(frozen=True)
class Spot:
    """One scan in a scatter chart; a trained one is filled."""

    case: str
    x: float
    y: float
    is_trained: bool


@dataclass(frozen=True)
class Scatter:
    """Scans in a plane, domain by domain."""

    title: str
    note: str
    domains: tuple[tuple[str, tuple[Spot, ...]], ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def training_charts(log: Log, baseline: Log | None = None) -> list[Chart]:
    """Charts of everything that log.csv measured: validation, losses, learning rate, pseudo-labels, throughput."""
    names = list(log.columns)
    validation = {"this run": log.measured("validation/dice")}
    if baseline is not None:
        validation["labelled only"] = baseline.measured("validation/dice")
    charts = [_chart("Validation Dice", "mean over classes", validation, log)]
    if any(name.startswith("loss/") for name in names):
        charts += [
            _chart(
                f"Loss: {name.removeprefix('loss/').replace('_', ' ')}", "weighted", {"loss": log.measured(name)}, log
            )
            for name in names
            if name.startswith("loss/")
        ]
    charts.append(_chart("Loss: total", "sum of the terms", {"loss": log.measured("loss")}, log))
    shared = {name.removeprefix("pseudo/"): log.measured(name) for name in ("pseudo/kept", "pseudo/agreement")}
    charts.append(_chart("Pseudo-labels", "kept voxels, agreement of student and teacher", shared, log))
    prefix = "pseudo/share/"
    shares = {name.removeprefix(prefix): log.measured(name) for name in names if name.startswith(prefix)}
    charts.append(_chart("Pseudo-labels: class shares", "share of voxels per class", shares, log))
    charts += _charts_of_method(log)
    charts.append(_chart("Learning rate", "schedule", {"learning rate": log.measured("learning_rate")}, log))
    charts.append(_chart("Throughput", "samples per second", {"samples/s": log.measured("samples_per_s")}, log))
    return [chart for chart in charts if chart.curves]


def _charts_of_method(log: Log) -> list[Chart]:
    """What the method says of itself: a chart for each `topic/figure`, with a curve per class where it has them."""
    figures: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for column in log.columns:
        topic, _, rest = column.partition("/")
        if rest and topic not in TOPICS:
            figure, _, series = rest.partition("/")
            figures.setdefault(f"{topic}: {figure}".replace("_", " "), {})[series or figure] = log.measured(column)
    return [_chart(title.capitalize(), "of the method", series, log) for title, series in figures.items()]


def case_chart(scores: Mapping[str, float], others: Mapping[str, float]) -> CaseChart:
    """Scores of cases (mean Dice), sorted; `others` are the labelled-only run's scores of the same cases."""
    ordered = sorted(scores.items(), key=lambda item: (item[1], item[0]))
    height, width = 220.0, 1000.0
    low, high, values = _range(np.array([*scores.values(), *others.values()]), floor_zero=False)
    x = Axis(-0.5, len(ordered) - 0.5, LEFT, width - RIGHT)
    y = Axis(low, high, height - BOTTOM, TOP)
    dots = []
    for index, (case, score) in enumerate(ordered):
        other = others.get(case)
        dots.append(
            Dot(
                case,
                x.place(index),
                y.place(score),
                f"{score:.3f}",
                None if other is None else y.place(other),
                "" if other is None else f"{other:.3f}",
            )
        )
    return CaseChart(tuple(dots), y.ticks(values), width, height)


def domain_charts(shift: DomainShift) -> list[Chart]:
    """Intensities of the domains, as scanned and as prepared, a pair of charts for each channel."""
    pairs = zip(shift.scanned, shift.prepared, strict=True)
    return [
        chart for raw, prepared in pairs for chart in (_histogram(raw, "scanned"), _histogram(prepared, "prepared"))
    ]


def _histogram(found: Histogram, state: str) -> Chart:
    """A line per domain through the middles of the bins, in percent of its voxels."""
    values = {domain: 100 * np.array(shares) for domain, shares in found.shares.items()}
    low, high, y_values = _range(np.concatenate([*values.values(), [0.0]]), floor_zero=True)
    x, y = Axis(found.low, found.high, LEFT, WIDTH - RIGHT), Axis(low, high, HEIGHT - BOTTOM, TOP)
    bins = len(next(iter(values.values())))
    middles = found.low + (np.arange(bins) + 0.5) * (found.high - found.low) / bins
    curves = tuple(Curve(domain, _path(x.at(middles), y.at(own)), "", "") for domain, own in values.items())
    x_values = [(value, text) for value, text in _ticks(found.low, found.high, 5) if found.low <= value <= found.high]
    return Chart(
        f"{found.channel}, as {state}", "% of voxels over intensity", curves, x.ticks(x_values), y.ticks(y_values)
    )


def label_chart(curves: Mapping[str, LabelCurve]) -> Chart:
    """Dice over the number of labelled scans, which grows to the right by factors: runs, fitted curves, intervals."""
    values = [value for own in curves.values() for runs in (*own.dice, own.low, own.high) for value in runs]
    numbers = sorted({number for own in curves.values() for number in own.labelled})
    low, high, y_values = _range(np.array(values), floor_zero=False)
    x = Axis(np.log(numbers[0]), np.log(numbers[-1]), LEFT + 6, WIDTH - RIGHT - 6)
    y = Axis(low, high, HEIGHT - BOTTOM, TOP)
    drawn = []
    for name, own in curves.items():
        along = x.at(np.log(own.grid))
        band = _path(np.concatenate([along, along[::-1]]), y.at(np.array([*own.low, *own.high[::-1]]))) + "Z"
        dots = [
            (x.place(np.log(number)), y.place(dice))
            for number, runs in zip(own.labelled, own.dice, strict=True)
            for dice in runs
        ]
        drawn.append(Curve(name, _path(along, y.at(np.array(own.fitted))), band, "", tuple(dots)))
    ticks: list[Tick] = []
    for tick in x.ticks((np.log(number), str(number)) for number in numbers):
        if not ticks or tick.place - ticks[-1].place >= LEAST_PITCH:
            ticks.append(tick)
    note = "Dice over labelled scans: runs, fitted curve, 95 % interval"
    return Chart("What labels are worth", note, tuple(drawn), tuple(ticks), y.ticks(y_values))


def domain_scatter(shift: DomainShift) -> Scatter | None:
    """Scans by the first two principal components of the encoder's features; None where there are none."""
    if not shift.places:
        return None
    ends = [
        _range(np.array([getattr(p, name) for p in shift.places]), floor_zero=False) for name in ("first", "second")
    ]
    x = Axis(*ends[0][:2], LEFT, WIDTH - RIGHT)
    y = Axis(*ends[1][:2], HEIGHT - BOTTOM, TOP)
    domains = tuple(
        (name, tuple(Spot(p.case, x.place(p.first), y.place(p.second), p.is_trained) for p in own))
        for name in shift.cases
        if (own := [place for place in shift.places if place.domain == name])
    )
    along = " and ".join(f"{100 * share:.0f} %" for share in shift.explained)
    note = f"principal components with {along} of the variance"
    return Scatter("What the encoder makes of them", note, domains, x.ticks(ends[0][2]), y.ticks(ends[1][2]))


def _chart(title: str, note: str, series: Mapping[str, tuple[np.ndarray, np.ndarray]], log: Log) -> Chart:
    series = {name: points for name, points in series.items() if len(points[0])}
    if not series:
        return Chart(title, note, (), (), ())
    first = min(float(steps[0]) for steps, _ in series.values())
    last = max(float(steps[-1]) for steps, _ in series.values())
    low, high, y_values = _range(np.concatenate([values for _, values in series.values()]), floor_zero=True)
    x = Axis(first, max(last, first + 1), LEFT, WIDTH - RIGHT)
    y = Axis(low, high, HEIGHT - BOTTOM, TOP)
    curves = []
    for name, (steps, values) in series.items():
        middle, mean, least, greatest = _thin(steps, values)
        band = ""
        if len(middle) < len(steps):
            there_and_back = np.concatenate([middle, middle[::-1]])
            band = _path(x.at(there_and_back), y.at(np.concatenate([greatest, least[::-1]]))) + "Z"
        curves.append(Curve(name, _path(x.at(middle), y.at(mean)), band, f"{values[-1]:.4g}"))
    stages = enumerate(log.stages)
    marks = [(float(log.step[row]), stage) for row, stage in stages if row and stage != log.stages[row - 1]]
    x_values = [(value, text) for value, text in _ticks(first, x.high, 5) if first <= value <= x.high]
    return Chart(title, note, tuple(curves), x.ticks(x_values), y.ticks(y_values), x.ticks(marks))


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """At most BINS points: middle step, mean, least and greatest value of each part."""
    if len(steps) <= BINS:
        return steps, values, values, values
    edges = np.linspace(0, len(steps), BINS + 1).astype(int)[:-1]
    counts = np.diff([*edges, len(steps)])
    mean = np.add.reduceat(values, edges) / counts
    middle = np.add.reduceat(steps, edges) / counts
    return middle, mean, np.minimum.reduceat(values, edges), np.maximum.reduceat(values, edges)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """SVG path data through the points."""
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))


def _range(values: np.ndarray, floor_zero: bool) -> tuple[float, float, list[tuple[float, str]]]:
    """Lower end, upper end and ticks of an axis; the axis starts at zero where the values come near it."""
    low, high = float(values.min()), float(values.max())
    if floor_zero and 0 < low < 0.4 * high:
        low = 0.0
    if high - low < 1e-12:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    ticks = _ticks(low, high, 4)
    return ticks[0][0], ticks[-1][0], ticks


def _ticks(low: float, high: float, number: int) -> list[tuple[float, str]]:
    """About `number` round values (1, 2 or 5 times a power of ten apart) that enclose [low, high], with their texts."""
    raw = max(high - low, 1e-12) / number
    power = 10.0 ** np.floor(np.log10(raw))
    pitch = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = np.floor(low / pitch + 1e-9), np.ceil(high / pitch - 1e-9)
    return [(float(index * pitch), _text(float(index * pitch), float(pitch))) for index in np.arange(first, last + 1)]


def _text(value: float, pitch: float) -> str:
    """A tick's text, with just the decimals that the pitch needs."""
    if value and (abs(value) >= 1e5 or pitch < 1e-4):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    decimals = max(0, -int(np.floor(np.log10(pitch) + 1e-9)))
    return f"{value:.{decimals}f}"
