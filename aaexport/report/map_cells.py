"""A map of attention, or the image it is of → a small picture on a page, and the colour bar of all of them."""

from __future__ import annotations

import base64

import numpy as np

from aaexport.report.attention_picture import coloured, scaled
from aaexport.report.page.markup import Html, element
from aaexport.report.page.plot import percent
from aaexport.report.scene import Pixels, png_of

BAR, BELOW = 14, 20  # pixels: the colour bar, and its numbers
NEAR = 0.12  # of the bar: nearer than that two numbers would touch


def map_cell(pixels: Pixels, longest: int, map_size: tuple[int, int], query: tuple[int, int], said: str) -> Html:
    """Pixels, of no more than `longest` a side, over the map's positions, with a frame around the query.

    `said` is for those who do not see it.
    """
    (height, width), (row, column) = map_size, query
    data = f"data:image/png;base64,{_png(_fitting(pixels, longest))}"
    drawn = element("image", width=width, height=height, preserveAspectRatio="none", href=data)
    frame = element("rect", x=column, y=row, width=1, height=1)
    return element("svg", drawn, frame, viewBox=f"0 0 {width} {height}", role="img", aria_label=said, class_="map")


def colour_bar(largest: float) -> Html:
    """From 0 to the largest weight of all, with the place of uniform attention."""
    data = f"data:image/png;base64,{_png(coloured(np.linspace(0, 1, 64)[None, :]))}"
    drawn = element("image", width="100%", height=BAR, preserveAspectRatio="none", href=data)
    uniform = 1 / max(largest, 1.0)
    middle = [element("line", x1=percent(uniform), x2=percent(uniform), y1=0, y2=BAR + 4)]
    if NEAR < uniform < 1 - 2 * NEAR:
        middle.append(element("text", "1", x=percent(uniform), y=BAR + BELOW - 2, text_anchor="middle"))
    ends = [
        element("text", "0", x=0, y=BAR + BELOW - 2),
        element("text", f"{largest:.3g} × uniform", x="100%", y=BAR + BELOW - 2, text_anchor="end"),
    ]
    said = f"Colours from 0, dark, to {largest:.3g} × uniform, bright"
    return element(
        "svg", drawn, *middle, *ends, role="img", aria_label=said, class_="scale", height=BAR + BELOW, width="100%"
    )


def _fitting(pixels: Pixels, longest: int) -> Pixels:
    height, width = pixels.shape[:2]
    share = min(longest / max(height, width), 1.0)
    return scaled(pixels, (max(round(height * share), 1), max(round(width * share), 1)))


def _png(pixels: Pixels) -> str:
    return base64.b64encode(png_of(pixels)).decode()
