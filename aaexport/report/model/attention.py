"""What a model attends to → maps beside the image for each query, in one scale, each told in words too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aaexport.report.attention_picture import Attended, coloured
from aaexport.report.map_cells import colour_bar, map_cell
from aaexport.report.page.markup import Html, element, join
from aaexport.report.page.page import folded, table
from aaexport.results import LayerAttention

LONGEST_MAP, LONGEST_IMAGE = 56, 192  # pixels that are kept of a side


def attention_maps(seen: Attended) -> Html:
    """Every layer that was asked for, its own scale above its maps."""
    return join(_layer(seen, layer) for layer in seen.layers)


def _layer(seen: Attended, layer: LayerAttention) -> Html:
    height, width = layer.weights.shape[-2:]
    times = layer.weights.astype(np.float64) * (height * width)
    largest = float(times.max())
    rows = [_query(seen, layer, times[number], number, largest) for number in range(len(layer.pixels))]
    name = layer.layer or "(the model)"
    return join(
        [
            element("h3", f"Layer {name}, map {height} × {width}"),
            colour_bar(largest),
            element("div", *rows, class_="queries"),
            folded("As a table", _told(layer, times, name)),
        ]
    )


def _query(
    seen: Attended, layer: LayerAttention, times: npt.NDArray[np.float64], number: int, largest: float
) -> Html:
    """The image, then the map of each head, all looked at from one place."""
    (row, column), place = layer.pixels[number], layer.positions[number]
    said = f"query {row},{column}"
    pixels = np.ascontiguousarray(np.broadcast_to(seen.pixels, (*seen.pixels.shape[:2], 3)))
    size = (layer.weights.shape[-2], layer.weights.shape[-1])
    image = map_cell(pixels, LONGEST_IMAGE, size, place, f"{seen.image}, the framed place is {said}")
    cells = [element("figure", image, element("figcaption", said))]
    for head, weights in zip(layer.heads, times, strict=True):
        told = f"{said}, head {head}: {_most(weights)}"
        drawn = map_cell(coloured(weights / largest), LONGEST_MAP, size, place, told)
        cells.append(
            element("figure", drawn, element("figcaption", f"head {head}", element("span", _times(weights))))
        )
    return element("div", *cells, class_="looks")


def _times(weights: npt.NDArray[np.float64]) -> str:
    return f"{float(weights.max()):.3g} ×"


def _most(weights: npt.NDArray[np.float64]) -> str:
    row, column = np.unravel_index(int(weights.argmax()), weights.shape)
    return f"{float(weights.max()):.3g} × uniform at most, at {row},{column} of the map"


def _told(layer: LayerAttention, times: npt.NDArray[np.float64], name: str) -> Html:
    """The place that each head counts most."""
    rows = [
        (f"{row},{column}", str(head), _most(weights))
        for (row, column), of_query in zip(layer.pixels, times, strict=True)
        for head, weights in zip(layer.heads, of_query, strict=True)
    ]
    return table(f"What {name} attends to", ("query", "head", "most"), rows, words=("most",))
