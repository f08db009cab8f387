"""Pixels, words, lines and frames at places of a sheet → SVG, or PNG by Pillow: the same picture in both."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aaexport.report.page.markup import Html, element
from aaexport.report.printable import encodable, printable

if TYPE_CHECKING:
    from PIL import ImageDraw

TEXT = 13  # pixels
PER_LETTER = 7.5  # pixels, more than most take
FONTS = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
GROUND, INK, MARK = "#ffffff", "#16202b", "#ff2d55"
FRAME = 2  # pixels, inside
Pixels = npt.NDArray[np.uint8]  # (H, W, 3)


@dataclass(frozen=True)
class Words:
    """A line of text; `y` is its middle."""

    x: float
    y: float
    text: str

    @property
    def width(self) -> float:
        """About, and rather too much."""
        return PER_LETTER * len(self.text)


@dataclass(frozen=True, eq=False)
class Cell:
    """Pixels whose upper left corner is there, one for one."""

    x: int
    y: int
    pixels: Pixels


@dataclass(frozen=True)
class Frame:
    """The outline of what is marked."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Tick:
    """A line to the right, one pixel thick."""

    x: int
    y: int
    length: int


Part = Words | Cell | Frame | Tick


@dataclass(frozen=True, eq=False)
class Scene:
    """A sheet of that size in pixels. `title` is for those who do not see it."""

    width: int
    height: int
    title: str
    parts: Sequence[Part]


def as_svg(scene: Scene) -> str:
    """The picture for a file in UTF-8, which needs nothing else; its words stay words."""
    ground = element("rect", width="100%", height="100%", fill=GROUND)
    drawn = element(
        "svg",
        element("title", scene.title),
        ground,
        *map(_element, scene.parts),
        xmlns="http://www.w3.org/2000/svg",
        width=str(scene.width),
        height=str(scene.height),
        viewBox=f"0 0 {scene.width} {scene.height}",
        font_family=FONTS,
        font_size=TEXT,
        role="img",
    )
    return f"{drawn}\n"


def as_png(scene: Scene) -> bytes:
    """The picture in pixels. Needs Pillow."""
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.new("RGB", (scene.width, scene.height), GROUND)
    draw = ImageDraw.Draw(sheet)
    draw.font = ImageFont.load_default(TEXT)
    for part in scene.parts:
        if isinstance(part, Cell):
            sheet.paste(Image.fromarray(part.pixels), (part.x, part.y))
        else:
            _draw(draw, part)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def png_of(pixels: Pixels) -> bytes:
    """Pixels as a PNG without compression's finer arts: what an SVG embeds, and no library is needed for."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits of each of red, green and blue
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, 3 * width)], axis=1)  # unfiltered
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _element(part: Part) -> Html:
    if isinstance(part, Words):
        return element("text", part.text, x=part.x, y=part.y, dominant_baseline="central", fill=INK)
    if isinstance(part, Tick):
        return element("rect", x=part.x, y=part.y, width=part.length, height=1, fill=INK)
    if isinstance(part, Frame):
        x, y, width, height = (part.x + FRAME / 2, part.y + FRAME / 2, part.width - FRAME, part.height - FRAME)
        return element(
            "rect", x=x, y=y, width=max(width, 0), height=max(height, 0), fill="none", stroke=MARK, stroke_width=FRAME
        )
    height, width = part.pixels.shape[:2]
    data = base64.b64encode(png_of(part.pixels)).decode()
    return element("image", x=part.x, y=part.y, width=width, height=height, href=f"data:image/png;base64,{data}")


def _draw(draw: ImageDraw.ImageDraw, part: Words | Frame | Tick) -> None:
    if isinstance(part, Words):
        draw.text((part.x, part.y), encodable(printable(part.text), "ascii"), INK, anchor="lm")  # all that it has
    elif isinstance(part, Tick):
        draw.line((part.x, part.y, part.x + part.length - 1, part.y), INK)
    else:
        box = (part.x, part.y, part.x + max(part.width, 1) - 1, part.y + max(part.height, 1) - 1)
        draw.rectangle(box, outline=MARK, width=FRAME)
