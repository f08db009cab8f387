"""Where a layer looks by epoch → a table of maps for each image, an epoch a row and a head a column."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aaexport.report.attention_picture import coloured
from aaexport.report.map_cells import colour_bar, map_cell
from aaexport.report.page.markup import Html, element, join
from aaexport.report.page.page import figure
from aaexport.training.glimpses import AttentionCourse, Glimpse

LONGEST_MAP, LONGEST_IMAGE = 32, 96  # pixels that are kept of a side


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
    return join([figure(colour_bar(largest), caption), element("div", *blocks, class_="courses")])


def _of_image(course: AttentionCourse, number: int, largest: float) -> Html:
    image = course.images[number]
    label = course.labels[number]
    said = f"Held-out image {number + 1}{f': {label}' if label else ''}"
    pixels = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    seen = element(
        "div",
        map_cell(pixels, LONGEST_IMAGE, course.map_size, course.query, said),
        element("p", said),
        class_="looked",
    )
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
        drawn = map_cell(coloured(weights / largest), LONGEST_MAP, course.map_size, course.query, said)
        cells.append(element("td", drawn, element("span", peak, aria_hidden="true")))
    return element("tr", *cells)


def _times_uniform(glimpse: Glimpse) -> npt.NDArray[np.float64]:
    height, width = glimpse.weights.shape[-2:]
    times: npt.NDArray[np.float64] = glimpse.weights.astype(np.float64) * (height * width)
    return times
