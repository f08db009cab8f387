"""An image and attention weights over it → a PNG: a row for each query, a heat map for each head."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aaexport.results import LayerAttention

if TYPE_CHECKING:
    from PIL import Image

LONG_SIDE = 192  # of each image on the picture
LEAST_COLUMN = 136  # a caption's width
LINE, GAP = 20, 12
TEXT = 14
HEAT = 0.75  # its share of a pixel; the rest is the image, in gray
BACKGROUND, INK, MARK = "white", "black", (0, 255, 255)
# From little to much, at equal distances: dark and light tell it too.
COLOURS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))


def attention_png(image: npt.NDArray[np.uint8], layers: Sequence[LayerAttention]) -> bytes:
    """Draws all layers below each other. Colours go from 0 to the largest weight of each map, which is told above it.

    Args:
        image: (H, W, 1) or (H, W, 3), what the network sees.
        layers: what is drawn over it. A frame marks the query's position in the layer's map.
    """
    from PIL import Image

    sheet = _Sheet(image)
    blocks = [_block(sheet, layer) for layer in layers]
    width = max(block.width for block in blocks)
    canvas = Image.new("RGB", (width, sum(block.height for block in blocks)), BACKGROUND)
    top = 0
    for block in blocks:
        canvas.paste(block, (0, top))
        top += block.height
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class _Sheet:
    """What all cells share: the image, in its size on the picture."""

    pixels: npt.NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of a cell, in Pillow's order."""
        height, width = self.pixels.shape[:2]
        scale = LONG_SIDE / max(height, width)
        return max(round(width * scale), 1), max(round(height * scale), 1)

    @cached_property
    def image(self) -> Image.Image:
        from PIL import Image

        grows = max(self.pixels.shape[:2]) < LONG_SIDE
        colour = np.broadcast_to(self.pixels, (*self.pixels.shape[:2], 3))
        whole = Image.fromarray(np.ascontiguousarray(colour))
        return whole.resize(self.size, Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)

    @cached_property
    def gray(self) -> Image.Image:
        return self.image.convert("L").convert("RGB")

    def heated(self, weights: npt.NDArray[np.float32]) -> Image.Image:
        """The image under a heat map, (H, W), whose positions stay visible as such."""
        from PIL import Image

        heat = Image.fromarray(_colours(weights / weights.max())).resize(self.size, Image.Resampling.NEAREST)
        return Image.blend(self.gray, heat, HEAT)


def _block(sheet: _Sheet, layer: LayerAttention) -> Image.Image:
    """A layer: its title, and a row for each query."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(TEXT)
    column, row = max(sheet.size[0], LEAST_COLUMN) + GAP, LINE + sheet.size[1] + GAP
    size = (GAP + column * (1 + len(layer.heads)), GAP + LINE + row * len(layer.pixels))
    block = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(block)
    height, width = layer.weights.shape[-2:]
    draw.text((GAP, GAP), f"layer {layer.layer or '(the model)'}, map {height} x {width}", INK, font)
    for number, (pixel, position) in enumerate(zip(layer.pixels, layer.positions, strict=True)):
        maps = layer.weights[number]
        captions = [f"query {pixel[0]}, {pixel[1]}"]
        captions += [f"head {head}, max {weights.max():.3f}" for head, weights in zip(layer.heads, maps, strict=True)]
        cells = [sheet.image.copy(), *map(sheet.heated, maps)]
        top = GAP + LINE + row * number
        for place, (caption, cell) in enumerate(zip(captions, cells, strict=True)):
            left = GAP + column * place
            _frame(cell, position, (height, width))
            draw.text((left, top), caption, INK, font)
            block.paste(cell, (left, top + LINE))
    return block


def _frame(cell: Image.Image, position: tuple[int, int], size: tuple[int, int]) -> None:
    """Marks that position of a map of that size (H, W)."""
    from PIL import ImageDraw

    (row, column), (height, width) = position, size
    left, right = (edge * cell.width // width for edge in (column, column + 1))
    top, bottom = (edge * cell.height // height for edge in (row, row + 1))
    box = (left, top, max(right - 1, left), max(bottom - 1, top))
    ImageDraw.Draw(cell).rectangle(box, outline=MARK, width=2)


def _colours(shares: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """(H, W) from 0 to 1 → (H, W, 3)."""
    steps = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(shares, steps, channel) for channel in zip(*COLOURS, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
