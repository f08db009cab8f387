"""An image and attention weights → a picture: a row for each query, the image beside the map of each head.

The maps are raw, a field for each position, and those of a layer share one scale, from 0 to the largest weight of any
head that is drawn. It counts in multiples of uniform attention, 1 ÷ (H · W), so that maps of all sizes compare.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from aaexport.report.scene import Cell, Frame, Part, Pixels, Scene, Tick, Words, as_png, as_svg
from aaexport.results import LayerAttention, Prediction

LONG_SIDE, LONGEST_SIDE = 192, 320  # of each image and map on the picture: as large as the image, within these
LEAST_COLUMN = 176  # a caption's width
LINE, GAP = 20, 12
BAR, TICK = 16, 5  # the colour bar's width, and a tick's
NEAR = 14  # pixels between two numbers of the colour bar, or the one within is left out
WIDTH_OF_SCALE = 90
Form = Literal["svg", "png"]

# viridis by Stéfan van der Walt and Nathaniel Smith (matplotlib, _cm_listed.py; CC0): every 15th of its 256 colours.
# It is perceptually uniform: equal steps of weight look equally large, in gray and to the colour-blind too.
VIRIDIS = (
    (68, 1, 84), (72, 23, 105), (71, 42, 122), (67, 61, 132), (61, 78, 138), (53, 94, 141), (46, 109, 142),
    (41, 123, 142), (35, 137, 142), (31, 151, 139), (33, 165, 133), (46, 179, 124), (70, 192, 111), (101, 203, 94),
    (137, 213, 72), (176, 221, 47), (216, 226, 25), (253, 231, 37),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Attended:
    """What a model attends to in one image: what a picture is drawn of.

    Attributes:
        image: what it is called.
        pixels: (H, W, 1) or (H, W, 3), what the network sees.
        layers: what is drawn beside it.
        predicted: what the network takes it for; None if it is no classifier.
        notes: what a user should know of the weights.
    """

    image: str
    pixels: npt.NDArray[np.uint8]
    layers: tuple[LayerAttention, ...]
    predicted: Prediction | None
    notes: tuple[str, ...] = ()


def attention_picture(
    image: npt.NDArray[np.uint8],
    layers: Sequence[LayerAttention],
    *,
    title: str,
    predicted: Prediction | None,
    form: Form,
) -> bytes:
    """Draws all layers below each other.

    Args:
        image: (H, W, 1) or (H, W, 3), what the network sees.
        layers: what is drawn beside it. A frame marks the query's position in the layer's map.
        title: what it is the picture of.
        predicted: what the network takes the image for; None if it is no classifier.
        form: `svg`, or `png`, which needs Pillow.
    """
    scene = attention_scene(image, layers, title=title, predicted=predicted)
    return as_svg(scene).encode() if form == "svg" else as_png(scene)


def attention_scene(
    image: npt.NDArray[np.uint8], layers: Sequence[LayerAttention], *, title: str, predicted: Prediction | None
) -> Scene:
    """The same as parts at their places."""
    said = [title, *([] if predicted is None else [f"predicted: {predicted.name} ({predicted.probability:.1%})"])]
    parts: list[Part] = [Words(GAP, GAP + LINE * (row + 0.5), line) for row, line in enumerate(said)]
    top = GAP + LINE * len(said)
    pixels = scaled(np.broadcast_to(image, (*image.shape[:2], 3)), size_of(image))
    for layer in layers:
        parts += _layer(pixels, layer, top)
        top += _height(pixels, layer)
    words = (part for part in parts if isinstance(part, Words))
    columns = max(1 + len(layer.heads) for layer in layers)
    width = max(GAP + columns * _column(pixels) + WIDTH_OF_SCALE, *(round(part.x + part.width) for part in words))
    return Scene(width + GAP, top + GAP, "; ".join(said), parts)


def size_of(image: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """(height, width) of the image and of each map on the picture."""
    height, width = image.shape[:2]
    scale = min(max(LONG_SIDE, height, width), LONGEST_SIDE) / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def scaled(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """(H, W, 3) in another size. Larger, each position is a field of its own; smaller, pixels are means."""
    for axis, wanted in enumerate(size):
        given = pixels.shape[axis]
        begins = np.arange(wanted) * given // wanted
        if wanted >= given:
            pixels = np.take(pixels, begins, axis)
        else:
            counts = np.diff([*begins, given]).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
            pixels = (np.add.reduceat(pixels, begins, axis, np.float64) / counts).round().astype(np.uint8)
    return np.ascontiguousarray(pixels)


def coloured(shares: npt.NDArray[np.floating]) -> Pixels:
    """(H, W) from 0 to 1 → (H, W, 3)."""
    steps = np.linspace(0, 1, len(VIRIDIS))
    channels = [np.interp(shares, steps, channel) for channel in zip(*VIRIDIS, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _column(pixels: Pixels) -> int:
    return GAP + max(int(pixels.shape[1]), LEAST_COLUMN)


def _row(pixels: Pixels) -> int:
    return LINE + int(pixels.shape[0]) + GAP


def _height(pixels: Pixels, layer: LayerAttention) -> int:
    return GAP + LINE + max(_row(pixels) * len(layer.pixels), LINE + LONG_SIDE + GAP)


def _layer(pixels: Pixels, layer: LayerAttention, top: int) -> Iterator[Part]:
    """Its title, a row for each query, and the scale to the right of the first."""
    height, width = layer.weights.shape[-2:]
    times_uniform = layer.weights.astype(np.float64) * (height * width)
    largest = float(times_uniform.max())
    name = layer.layer or "(the model)"
    yield Words(GAP, top + GAP + LINE / 2, f"layer {name}, map {height} × {width}: weights ÷ uniform")
    top += GAP + LINE
    for number, (pixel, position) in enumerate(zip(layer.pixels, layer.positions, strict=True)):
        row = top + _row(pixels) * number
        captions = [f"query {pixel[0]},{pixel[1]}"]
        captions += [
            f"head {head}, at most {_times(float(weights.max()))}"
            for head, weights in zip(layer.heads, times_uniform[number], strict=True)
        ]
        maps = [scaled(coloured(weights / largest), pixels.shape[:2]) for weights in times_uniform[number]]
        for place, (caption, cell) in enumerate(zip(captions, [pixels, *maps], strict=True)):
            left = GAP + _column(pixels) * place
            yield Words(left, row + LINE / 2, caption)
            yield Cell(left, row + LINE, cell)
            yield _frame(left, row + LINE, cell.shape[:2], position, (height, width))
    yield from _scale(GAP + _column(pixels) * (1 + len(layer.heads)), top, largest)


def _frame(
    left: int, top: int, size: tuple[int, ...], position: tuple[int, int], positions: tuple[int, int]
) -> Frame:
    """Around that one of so many positions (rows, columns) on a cell of that size."""
    (first, last), (begin, end) = (
        tuple(-(-edge * pixels // count) for edge in (place, place + 1))
        for pixels, place, count in zip(size, position, positions, strict=True)
    )
    return Frame(left + begin, top + first, max(end - begin, 1), max(last - first, 1))


def _scale(left: int, top: int, largest: float) -> Iterator[Part]:
    """The colour bar: 0 below, the largest above, and where uniform attention is."""
    yield Words(left, top - LINE / 2, "× uniform")
    top += LINE
    shares = np.broadcast_to(np.linspace(1, 0, LONG_SIDE)[:, None], (LONG_SIDE, BAR))
    yield Cell(left, top, coloured(shares))
    below, uniform = LONG_SIDE - 1, round((LONG_SIDE - 1) * (1 - 1 / max(largest, 1.0)))
    numbers = {0: _times(largest), below: "0"}
    if min(uniform, below - uniform) >= NEAR:
        numbers[uniform] = "1 (uniform)"
    yield Tick(left + BAR, top + uniform, 2 * TICK)
    for height, number in numbers.items():
        yield Tick(left + BAR, top + height, TICK)
        yield Words(left + BAR + 2 * TICK + 2, top + height, number)


def _times(weight: float) -> str:
    """A multiple of uniform, in three digits."""
    return f"{weight:.3g} ×" if weight < 999.5 else f"{weight:,.0f} ×"
