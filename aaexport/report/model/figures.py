"""Counts and shapes → the few characters that a box has room for, and bars of one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

from aaexport.report.page.markup import Html, element
from aaexport.report.page.plot import percent

UNITS = ((1e9, "G"), (1e6, "M"), (1e4, "k"))  # thousands are counted from ten of them on
BAR = 10  # pixels
NOT_KNOWN = "not known"


def sheet() -> str:
    """The style sheet of pages about models, beside that of all pages."""
    return files("aaexport.report.model").joinpath("model.css").read_text(encoding="utf-8")


def count(value: int | None) -> str:
    """With the unit that people give such counts in."""
    if value is None:
        return NOT_KNOWN
    scale, unit = next((found for found in UNITS if value >= found[0]), (1.0, ""))
    if not unit:
        return f"{value:,}"
    scaled = value / (scale if unit != "k" else 1e3)
    return f"{scaled:.3g} {unit}" if scaled < 999.5 else f"{scaled:,.0f} {unit}"


def shape(sizes: Sequence[int] | None) -> str:
    """Of one image, whose number is left out."""
    if sizes is None:
        return "?"
    own = sizes[1:] if len(sizes) > 1 and sizes[0] == 1 else sizes
    return "×".join(map(str, own)) or "a number"


def coded(text: str) -> Html:
    """Text in which `what stands so` is something to type."""
    pieces: list[Html] = []
    for place, piece in enumerate(text.split("`")):
        pieces.append(element("code", piece) if place % 2 else element("span", piece))
    return Html(" ".join(piece for piece in pieces if piece != "<span></span>"))


def total(operators: Mapping[str, int] | None) -> int | None:
    """How many there are; None where that is not known."""
    return None if operators is None else sum(operators.values())


def from_to(before: int | None, after: int | None) -> str:
    """`50 → 22`; one number where nothing has changed, or the other is not known."""
    if after is None:
        return NOT_KNOWN
    return count(after) if before is None or before == after else f"{count(before)} → {count(after)}"


def bars(shares: Sequence[tuple[float, str]]) -> Html:
    """Bars below each other, each by its share of the width: a picture of numbers that stand beside it."""
    drawn = [
        element("rect", x="0", y=place * (BAR + 2), width=percent(min(share, 1.0)), height=BAR, rx=2, class_=kind)
        for place, (share, kind) in enumerate(shares)
    ]
    height = len(shares) * (BAR + 2) - 2
    return element("svg", *drawn, width="100%", height=height, class_="bar", aria_hidden="true")
