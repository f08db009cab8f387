"""Where a layer looks by epoch → a table of maps for each image, an epoch a row and a head a column."""

from __future__ import annotations

import base64

import numpy as np
import numpy.typing as npt

from aaexport.report.attention_picture import coloured, scaled
from aaexport.report.page.markup import Html, element, join
from aaexport.report.page.page import figure
from aaexport.report.page.plot import percent
from aaexport.report.scene import Pixels, png_of
from aaexport.training.glimpses import AttentionCourse, Glimpse

LONGEST_MAP, LONGEST_IMAGE = 32, 96  # pixels that are kept of a side
BAR, BELOW = 14, 20  # pixels: the colour bar, and its numbers
NEAR = 0.12  # of the bar: nearer than that two numbers would touch


def attention_course(course: AttentionCourse) -> Html:
    """All images beside each other where there is room, and the one scale of all maps."""
    height, width = course.map_size
    largest = max(float(_times_uniform(glimpse).max()) for glimpse in course.glimpses)
    heads = course.glimpses[0].weights.shape[1]
    some = "" if heads == course.num_heads else f"; {heads} of its {course.num_heads} heads"
    caption = (
        f"Layer {course.layer or '(the network)'}, map {height} × {width}{some}. How much the framed place takes "
        "from every other one; below each map its largest weight. 1 × uniform: all places alike. Epoch 0: before "
        "training; below each epoch what the image is taken for."
    )
    blocks = [_of_image(course, number, largest) for number in range(len(course.images))]
    return join([figure(_scale(largest), caption), element("div", *blocks, class_="courses")])


def _of_image(course: AttentionCourse, number: int, largest: float) -> Html:
    image = course.images[number]
    label = course.labels[number]
    said = f"Held-out image {number + 1}{f': {label}' if label else ''}"
    pixels = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    seen = element("div", _cell(course, _fitting(pixels, LONGEST_IMAGE), said), element("p", said), class_="looked")
    heads = range(course.glimpses[0].weights.shape[1])
    columns = ("epoch", *(f"head {head}" for head in heads))
    head = element("thead", element("tr", *(element("th", name, scope="col") for name in columns)))
    rows = [_row(course, glimpse, number, largest) for glimpse in course.glimpses]
    caption = element("caption", f"{said}: where it looks by epoch")
    return element("div", seen, element("table", caption, head, element("tbody", *rows), class_="course"))


def _row(course: AttentionCourse, glimpse: Glimpse, number: int, largest: float) -> Html:
    answer = f"{course.taken_for(glimpse, number)}, {glimpse.probabilities[number]:.0%}"
    when = f"epoch {glimpse.epoch}" if glimpse.epoch else "before training"
    cells = [element("th", str(glimpse.epoch), element("span", answer), scope="row")]
    for head, weights in enumerate(_times_uniform(glimpse)[number]):
        row, column = np.unravel_index(int(weights.argmax()), weights.shape)
        peak = f"{float(weights.max()):.3g} ×"
        said = f"{when}, head {head}: at most {peak} uniform, at row {row + 1}, column {column + 1}"
        drawn = _cell(course, _fitting(coloured(weights / largest), LONGEST_MAP), said)
        cells.append(element("td", drawn, element("span", peak, aria_hidden="true")))
    return element("tr", *cells)


def _times_uniform(glimpse: Glimpse) -> npt.NDArray[np.float64]:
    height, width = glimpse.weights.shape[-2:]
    times: npt.NDArray[np.float64] = glimpse.weights.astype(np.float64) * (height * width)
    return times


def _cell(course: AttentionCourse, pixels: Pixels, said: str) -> Html:
    """Pixels stretched over the map's positions, with a frame around the one that is looked from."""
    (height, width), (row, column) = course.map_size, course.query
    drawn = element(
        "image", width=width, height=height, preserveAspectRatio="none", href=f"data:image/png;base64,{_png(pixels)}"
    )
    frame = element("rect", x=column, y=row, width=1, height=1)
    return element("svg", drawn, frame, viewBox=f"0 0 {width} {height}", role="img", aria_label=said, class_="map")


def _fitting(pixels: Pixels, longest: int) -> Pixels:
    height, width = pixels.shape[:2]
    share = min(longest / max(height, width), 1.0)
    return scaled(pixels, (max(round(height * share), 1), max(round(width * share), 1)))


def _scale(largest: float) -> Html:
    """The colour bar, from 0 to the largest weight of all."""
    bar = coloured(np.linspace(0, 1, 64)[None, :])
    drawn = element(
        "image", width="100%", height=BAR, preserveAspectRatio="none", href=f"data:image/png;base64,{_png(bar)}"
    )
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


def _png(pixels: Pixels) -> str:
    return base64.b64encode(png_of(pixels)).decode()
