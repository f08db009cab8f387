"""Numbers → the frame of an SVG chart that is as wide as its page, with text that stays as large as the page's.

Positions are percentages of the plot's width and height; what has too many points for elements of their own is a path
on a square of `SIDE` units, which is stretched over the plot and whose strokes are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from aaexport.report.page.markup import Html, element, join

SIDE = 1000
HEIGHT = 280  # pixels, with ticks and names
WIDE_RANGE = 20  # largest ÷ smallest beyond which a linear axis would hide the smaller ones
MOST_TICKS = 6
MIDDLE = 0.55  # of the width: what begins beyond it may not fit on a phone
STEPS = (1, 2, 5)


@dataclass(frozen=True)
class Axis:
    """A range of numbers, linear or logarithmic; `whole` numbers have ticks at such only."""

    name: str
    low: float
    high: float
    logarithmic: bool = False
    whole: bool = False

    @classmethod
    def around(cls, name: str, values: Iterable[float], *, from_zero: bool = True) -> Axis:
        """Wide enough for all of them, none of which is negative; logarithmic where they differ too much."""
        values = list(values)
        largest = max(values)
        least_above_zero = min((value for value in values if value > 0), default=largest)
        if largest > WIDE_RANGE * least_above_zero:
            return cls(f"{name} (logarithmic)", least_above_zero / 1.2, largest * 1.4, logarithmic=True)
        found = cls.linear(name, values)
        return replace(found, low=0.0) if from_zero else found

    @classmethod
    def linear(cls, name: str, values: Iterable[float], *, most: float = math.inf) -> Axis:
        """The same, linear however much they differ; no wider than from 0 to `most`."""
        values = list(values)
        smallest, largest = min(values), max(values)
        margin = (largest - smallest or largest or 1.0) * 0.05
        return cls(name, max(smallest - margin, 0.0), min(largest + margin, most))

    def place(self, value: float) -> float:
        """Between 0 and 1."""
        if not self.logarithmic:
            return (value - self.low) / (self.high - self.low)
        share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return min(share, 1.0)

    def value(self, share: float) -> float:
        """What is at that place."""
        if self.logarithmic:
            return float(self.low * (self.high / self.low) ** share)
        return self.low + share * (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round numbers, few enough for a phone."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            fine = self._inside(step * 10.0**power for power in powers for step in STEPS)
            coarse = self._inside(10.0**power for power in powers)
            return fine if len(fine) <= MOST_TICKS else coarse[:: -(-len(coarse) // MOST_TICKS)]
        power = 10.0 ** math.floor(math.log10(self.high - self.low)) / 10
        steps = (step * power * scale for scale in (1, 10, 100) for step in STEPS)
        least = 1.0 if self.whole else 0.0
        step = next(step for step in steps if step >= least and (self.high - self.low) / step < MOST_TICKS)
        first = math.ceil(self.low / step)
        return self._inside(number * step for number in range(first, first + MOST_TICKS))

    def _inside(self, values: Iterable[float]) -> list[float]:
        return [value for value in values if self.low <= value <= self.high]


def percent(share: float) -> str:
    """Of the plot's width, or of its height from above."""
    return f"{100 * share:.2f}%"


def dots(points: Iterable[tuple[float, float]], kind: str) -> Html:
    """A path of points, given as shares: as many as one likes in a few bytes each."""
    return _path("".join(f"M{x} {y}h0" for x, y in map(_units, points)), f"dots {kind}")


def line(points: Sequence[tuple[float, float]], kind: str) -> Html:
    """A path through points, given as shares."""
    return _path("M" + "L".join(f"{x} {y}" for x, y in map(_units, points)), f"line {kind}")


def columns(heights: Sequence[float]) -> Html:
    """A path of columns side by side, their heights given as shares of the plot's."""
    edges = [round(SIDE * place / len(heights)) for place in range(len(heights) + 1)]
    drawn = (
        f"M{left} {SIDE}V{SIDE - max(round(SIDE * height), 8)}H{right}V{SIDE}Z"
        for left, right, height in zip(edges, edges[1:], heights, strict=False)
        if height > 0
    )
    return _path("".join(drawn), "columns")


def stretched(*paths: Html) -> Html:
    """The square that paths are on, over the whole plot."""
    box = f"0 0 {SIDE} {SIDE}"
    return element("svg", *paths, width="100%", height="100%", viewBox=box, preserveAspectRatio="none", class_="data")


def label(
    text: str, x: float, y: float, *, dx: float = 0, dy: float = 0, anchor: str = "start", kind: str = ""
) -> Html:
    """Text beside a place."""
    attributes = {"text_anchor": anchor, "class_": kind or None}
    return element("text", text, x=percent(x), y=percent(y), dx=dx, dy=dy, **attributes)


def label_beside(text: str, x: float, y: float, *, dy: float) -> Html:
    """Text to the right of a place, or to the left where it would leave the plot."""
    if x > MIDDLE:
        return label(text, x, y, dx=-6, dy=dy, anchor="end", kind="mark")
    return label(text, x, y, dx=6, dy=dy, kind="mark")


def rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    """A straight line between two places."""
    places = {"x1": percent(x1), "y1": percent(y1), "x2": percent(x2), "y2": percent(y2)}
    return element("line", **places, class_=kind)


def chart(key: str, title: str, told: str, *content: Html, x: Axis, y: Axis | None, height: int = HEIGHT) -> Html:
    """The frame: grid, ticks, names of the axes, and for those who do not see it a title and what it tells."""
    across = [_vertical(x, tick) for tick in x.ticks()]
    up = [] if y is None else [_horizontal(y, tick) for tick in y.ticks()]
    names = [label(x.name, 1, 1, dy=36, anchor="end", kind="name")]
    names += [] if y is None else [label(y.name, 0, 0, dx=-44, dy=-10, kind="name")]
    return drawing(key, title, told, *across, *up, rule(0, 1, 1, 1, "axis"), *content, *names, height=height)


def drawing(key: str, title: str, told: str, *content: Html, height: int, kind: str = "chart") -> Html:
    """An SVG that reads itself out."""
    said = (element("title", title, id=f"{key}-title"), element("desc", told, id=f"{key}-told"))
    labels = f"{key}-title {key}-told"
    return element("svg", *said, join(content), role="img", aria_labelledby=labels, class_=kind, height=height)


def _vertical(x: Axis, tick: float) -> Html:
    place = x.place(tick)
    return join([rule(place, 0, place, 1, "grid"), label(_short(tick), place, 1, dy=18, anchor="middle")])


def _horizontal(y: Axis, tick: float) -> Html:
    place = 1 - y.place(tick)
    return join([rule(0, place, 1, place, "grid"), label(_short(tick), 0, place, dx=-6, dy=4, anchor="end")])


def _short(tick: float) -> str:
    if tick >= 1e4:
        return f"{tick / 1e6:g} M" if tick >= 1e6 else f"{tick / 1e3:g} k"
    return f"{tick:,.6g}"


def _units(point: tuple[float, float]) -> tuple[int, int]:
    """On the square, whose y axis points down."""
    return round(SIDE * point[0]), round(SIDE * (1 - point[1]))


def _path(way: str, kind: str) -> Html:
    return element("path", d=way, class_=kind)
