"""BenchReport → its charts, each None where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from aaexport.load.measurement import BenchReport, Throughput
from aaexport.load.statistics import Percentile
from aaexport.parity.by_layer import LayerLoss
from aaexport.report.bench import wording
from aaexport.report.bench.figures import Series
from aaexport.report.page.markup import Html, element, join
from aaexport.report.page.plot import (
    Axis,
    chart,
    columns,
    dots,
    drawing,
    label,
    label_beside,
    line,
    percent,
    rule,
    stretched,
)

BINS = 60
HIGHEST_BIN = 0.6  # of the plot: the marks of the percentiles are above
BUCKETS = 400  # of time, at most three queries of each
WINDOWS = 40  # of time, whose medians are a line,
LEAST_WINDOW = 10  # if that leaves each so many queries
BLOCKS_SHOWN = 40
ROW, BAR = 66, 14  # pixels
MEDIAN = 50.0
LONGEST_NAME = 27  # characters beside a ratio on a phone; the table below has it whole
SERIES = 4  # colours of lines
WEIGHTS, COMPUTED = "series-0", "series-1"


def distribution(found: Series, percentiles: Sequence[Percentile]) -> Html:
    """A histogram of latencies with its percentiles marked."""
    x = Axis.around("latency, ms", _extremes(found), from_zero=False)
    edges = np.asarray([x.value(place / BINS) for place in range(BINS + 1)])
    counts = np.histogram(np.clip(found.latencies, edges[0], edges[-1]), edges)[0]
    known = [(entry, entry.value) for entry in percentiles if entry.value is not None]
    marks = [_mark(entry, x.place(value), row) for row, (entry, value) in enumerate(known)]
    bars = stretched(columns([HIGHEST_BIN * count / counts.max() for count in counts]))
    told = [f"{wording.percentile_name(entry)} {wording.milliseconds(value)}" for entry, value in known]
    said = ", ".join([*told, f"slowest {wording.milliseconds(_extremes(found)[1])}"])
    return chart("distribution", "How latencies are distributed", said, bars, *marks, x=x, y=None)


def _extremes(found: Series) -> tuple[float, float]:
    return float(found.latencies.min()), float(found.latencies.max())


def _mark(found: Percentile, place: float, row: int) -> Html:
    """A line from its own row, so that no name hides another, down to the axis."""
    text = f"{wording.percentile_name(found)} {wording.milliseconds(found.value)}"
    return join([rule(place, row / 12, place, 1, "mark"), label_beside(text, place, row / 12, dy=8)])


def over_time(found: Series) -> Html:
    """A dot for each query, or of each short span the fastest, the slowest and a median one; medians are a line."""
    x = Axis("seconds since the first query", 0.0, found.end)
    y = Axis.around("latency, ms", _extremes(found))

    def places(seconds: Iterable[float], latencies: Iterable[float]) -> list[tuple[float, float]]:
        return [(x.place(s), y.place(ms)) for s, ms in zip(seconds, latencies, strict=True)]

    thinned = found.thinned(BUCKETS)
    worst = int(found.latencies.argmax())
    due, slowest = float(found.seconds[worst]), float(found.latencies[worst])
    paths = [dots(places(thinned.seconds, thinned.latencies), "query"), dots(places([due], [slowest]), "slow")]
    if len(medians := _medians(found)) > 1:
        paths.insert(1, line(places(*zip(*medians, strict=True)), "median"))
    starts = map(x.place, found.starts if len(found.starts) < BLOCKS_SHOWN else ())
    blocks = (rule(start, 0, start, 1, "block") for start in starts)
    name = label_beside(f"slowest {wording.milliseconds(slowest)}", x.place(due), 1 - y.place(slowest), dy=4)
    said = f"{len(found.latencies):,} queries in {wording.number(found.end)} s; the slowest, "
    said += f"{wording.milliseconds(slowest)}, was due at {wording.number(due)} s"
    return chart("over-time", "Latency over time", said, *blocks, stretched(*paths), name, x=x, y=y)


def _medians(found: Series) -> list[tuple[float, float]]:
    """(seconds, milliseconds) in the middle of each window."""
    windows = found.windows(max(min(WINDOWS, len(found.latencies) // LEAST_WINDOW), 1))
    return [((begin + end) / 2, float(np.median(inside))) for begin, end, inside in windows]


def throughput(entries: Sequence[Throughput]) -> Html | None:
    """Images a second against latency, a line for each number of clients, a dot for each batch."""
    known = [(entry, entry.p50) for entry in entries if entry.p50 is not None]
    if len(known) < 2:
        return None
    x = Axis.around("latency of a query, ms", [ms for entry, p50 in known for ms in (p50, entry.p99 or p50)])
    y = Axis.around("images/s", [entry.images_per_second for entry, _ in known])
    curves = ([pair for pair in known if pair[0].concurrency == count] for count in clients(entries))
    content = [_curve(x, y, curve, place) for place, curve in enumerate(curves)]
    best = max((entry for entry, _ in known), key=lambda entry: entry.images_per_second)
    said = f"Most images a second: {wording.number(best.images_per_second)}, {wording.shape(best)}"
    return chart("throughput", "Throughput against latency", said, *content, x=x, y=y)


def clients(entries: Sequence[Throughput]) -> list[int]:
    """Numbers of clients that have a line, in its order."""
    return sorted({entry.concurrency for entry in entries if entry.p50 is not None})


def _curve(x: Axis, y: Axis, known: Sequence[tuple[Throughput, float]], place: int) -> Html:
    kind = series_kind(place)
    tails, labels, points = [], [], []
    for entry, p50 in sorted(known, key=lambda pair: pair[0].batch):
        across, up = x.place(p50), y.place(entry.images_per_second)
        points.append((across, up))
        if entry.p99 is not None:
            tails.append(rule(across, 1 - up, x.place(entry.p99), 1 - up, f"tail {kind}"))
        # Two lines that come near each other have their numbers on different sides.
        labels.append(
            label(str(entry.batch), across, 1 - up, dy=19 if place % 2 else -9, anchor="middle", kind="mark")
        )
    return join([*tails, stretched(line(points, kind), dots(points, kind)), *labels])


def series_kind(place: int) -> str:
    """The class that gives the n-th line its colour."""
    return f"series-{place % SERIES}"


def comparison(report: BenchReport) -> Html | None:
    """A bar for each latency ÷ ours with its interval; where that is withheld a hollow one for p50 ÷ ours alone."""
    bars = _bars(report)
    if len(bars) < 2:
        return None
    widest = max(max(bar.length, bar.whisker[1] if bar.whisker else 0.0) for bar in bars) * 1.02
    rows = [_bar(place, bar, widest) for place, bar in enumerate(bars)]
    said = "; ".join(f"{bar.name} {bar.figure}, {bar.below}" for bar in bars[1:])
    title = f"Latency ÷ that of {report.label}"
    return drawing("comparison", title, said, *rows, height=ROW * len(rows), kind="bars")


def left_out_of_comparison(report: BenchReport) -> list[str]:
    """Whose latency can be drawn in no way."""
    drawn = {bar.name for bar in _bars(report)}
    return [other.label for other in report.comparisons if other.label not in drawn]


@dataclass(frozen=True)
class _Bar:
    """`length` and `whisker` are multiples of the first bar's; of a `hollow` one that is no ratio of pairs."""

    name: str
    figure: str
    below: str
    length: float
    whisker: tuple[float, float] | None = None
    kind: str = "other"


def _bars(report: BenchReport) -> list[_Bar]:
    """Ours first, then all that have a ratio or at least a p50."""
    ours = next(found for found in report.percentiles if found.p == MEDIAN)
    interval = wording.interval(ours)
    below = f"p50 {wording.milliseconds(ours.value)}{f' ({interval})' if interval else ''}"
    bars = [_Bar(report.label, "1", below, 1.0, kind="ours")]
    for other in report.comparisons:
        below = f"p50 {wording.milliseconds(other.p50)}"
        if other.ratio is not None:
            figure = wording.ratio(other.ratio)
            bars.append(_Bar(other.label, figure, below, other.ratio.median, wording.bounds(other.ratio)))
        elif other.p50 is not None and ours.value:
            bars.append(_Bar(other.label, wording.WITHHELD, below, other.p50 / ours.value, kind="hollow"))
    return bars


def _bar(place: int, bar: _Bar, widest: float) -> Html:
    top = ROW * place
    above, middle, under = top + 24, top + 24 + BAR / 2, top + 24 + BAR
    one = percent(1 / widest)
    parts = [
        element("text", _shortened(bar.name), x=0, y=top + 16),
        element("text", bar.figure, x="100%", y=top + 16, text_anchor="end", class_="figure"),
        element("rect", x=0, y=above, width=percent(bar.length / widest), height=BAR, rx=3, class_=bar.kind),
        element("line", x1=one, x2=one, y1=above - 3, y2=under + 3, class_="mark"),
        element("text", bar.below, x=0, y=under + 15, class_="below"),
    ]
    if bar.whisker is not None:
        low, high = (percent(end / widest) for end in bar.whisker)
        parts.append(element("line", x1=low, x2=high, y1=middle, y2=middle, class_="whisker"))
        parts += [
            element("line", x1=end, x2=end, y1=middle - 5, y2=middle + 5, class_="whisker") for end in (low, high)
        ]
    return join(parts)


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def peak(report: BenchReport) -> Html | None:
    """p99 of every rate that was tried, and the bound that it had to keep."""
    if report.peak is None:
        return None
    tried = [(trial, trial.p99) for trial in report.peak.trials if trial.p99 is not None]
    if not tried:
        return None
    x = Axis.around("queries a second", [trial.rate for trial, _ in tried])
    y = Axis.around("p99, ms", [report.peak.latency_bound, *(p99 for _, p99 in tried)])
    bound = 1 - y.place(report.peak.latency_bound)
    points = {
        kind: [
            (x.place(trial.rate), y.place(p99)) for trial, p99 in tried if (trial.reason is None) == (kind == "good")
        ]
        for kind in ("good", "bad")
    }
    content = [
        rule(0, bound, 1, bound, "bound"),
        label(f"bound {report.peak.latency_bound:g} ms", 0, bound, dx=6, dy=-6, kind="mark"),
        stretched(*(dots(places, kind) for kind, places in points.items() if places)),
        *(label("×", x, 1 - y, dy=5, anchor="middle", kind="cross") for x, y in points["bad"]),
    ]
    return chart("peak", "p99 of every rate that was tried", wording.peak(report.peak), *content, x=x, y=y)


def by_layer(layers: Sequence[LayerLoss]) -> Html:
    """How far the rounding of each layer's weight, and of what it computes, lies below them, in the file's order."""
    known = [value for each in layers for value in (each.weight_db, each.activation_db) if value is not None]
    x = Axis("layer, in the file's order", 0.0, len(layers) + 1.0)
    y = Axis("signal to noise, dB", 0.0, 1.05 * max(*known, 1.0))

    def placed(values: Iterable[float | None]) -> list[tuple[float, float]]:
        return [(x.place(n), y.place(max(db, 0.0))) for n, db in enumerate(values, 1) if db is not None]

    weights, computed = placed(each.weight_db for each in layers), placed(each.activation_db for each in layers)
    paths = [dots(places, kind) for places, kind in ((weights, WEIGHTS), (computed, COMPUTED)) if places]
    lowest = min(known)
    worst = next(n for n, each in enumerate(layers, 1) if lowest in (each.weight_db, each.activation_db))
    place = 1 - y.place(max(lowest, 0.0))
    name = label_beside(f"layer {worst}: {lowest:.1f} dB", x.place(worst), place, dy=19)
    said = f"{len(layers)} layers; the lowest is {layers[worst - 1].layer} with {lowest:.1f} dB"
    return chart("by-layer", "Signal to noise of each layer", said, stretched(*paths), name, x=x, y=y)
