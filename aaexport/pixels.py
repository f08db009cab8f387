"""An encoded image → the numbers that a network is fed with, by NumPy and Pillow alone.

Reading a data set and answering a request both come here, so that a served image is seen as it was in training. This
file is also copied into model repositories and runs there by itself, so it imports nothing of aaexport.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]

# What a stranger's bytes may be: of other formats Pillow would hand some to programs, as EPS to Ghostscript.
SERVED_FORMATS = ("JPEG", "PNG")
MODES = {1: "L", 3: "RGB"}
WHITE = 255
ORIENTATION = 0x0112  # the EXIF tag
WEIGHT_BITS, MOST_PRECISION = 15, 22  # of torch's uint8 resizing: int16 weights, sums of 32 bits


def decoded_pixels(
    content: Path | bytes,
    channels: int,
    *,
    quick: bool = False,
    most: int | None = None,
    formats: tuple[str, ...] | None = None,
) -> Pixels:
    """An image, upright as its EXIF data says, in gray or RGB; transparency is dropped, 16 bits become the upper 8.

    Args:
        content: the file, or what would be in it.
        channels: 1 or 3.
        quick: the sides may be halved up to three times: enough to learn whether it can be decoded.
        most: pixels that it may have by its head, which is read first; None for Pillow's own bound.
        formats: those of Pillow that it may have; None for all.

    Returns:
        (channels, height, width), uint8.

    Raises:
        Exception: whatever the damage of a damaged file leads Pillow to.
    """
    from PIL import Image

    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=formats) as image:
        if most is not None and image.width * image.height > most:
            raise ValueError(f"it has {image.width} × {image.height} pixels, more than {most}")
        if quick:
            image.draft(None, (1, 1))
        pixels = np.array(_eight_bit(_upright(image), MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)


def network_input(
    content: bytes,
    shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    crop_share: float,
    most: int,
) -> npt.NDArray[np.float32]:
    """The bytes of a JPEG or PNG file → (1, C, H, W) float32, as evaluation feeds it.

    `most` is the number of pixels that it may have. Raises as `decoded_pixels`.
    """
    channels, height, width = shape
    pixels = decoded_pixels(content, channels, most=most, formats=SERVED_FORMATS)
    top, left, box_height, box_width = central_box(pixels.shape[1], pixels.shape[2], (height, width), crop_share)
    seen = resized_pixels(pixels[:, top : top + box_height, left : left + box_width], (height, width))
    return normalised_pixels(seen[None], WHITE, mean, std)


def normalised_pixels(
    pixels: Array, white: int, mean: Sequence[float], std: Sequence[float]
) -> npt.NDArray[np.float32]:
    """(pixel / white − mean) / std of each channel in float32. (B, C, H, W) → the same shape."""
    means, deviations = (np.asarray(each, np.float32).reshape(-1, 1, 1) for each in (mean, std))
    scaled: npt.NDArray[np.float32] = (pixels.astype(np.float32) / np.float32(white) - means) / deviations
    return scaled


def central_box(height: int, width: int, size: tuple[int, int], crop_share: float) -> tuple[int, int, int, int]:
    """The largest central (top, left, height, width) of size's shape that keeps at most `crop_share` of each side."""
    scale = max(size[0] / (crop_share * height), size[1] / (crop_share * width))
    box_height = min(max(round(size[0] / scale), 1), height)
    box_width = min(max(round(size[1] / scale), 1), width)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def resized_pixels(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """(C, h, w) → (C, H, W), antialiased bilinear: to the last bit what torch makes of uint8.

    Columns first and then rows, each rounded to uint8, with the weights of `torch.nn.functional.interpolate`
    (`antialias=True`) in the fixed point that torch has for uint8.
    """
    if pixels.shape[1:] == size:
        return pixels
    if pixels.shape[2] != size[1]:
        pixels = _along_rows(pixels.transpose(2, 0, 1), size[1]).transpose(1, 2, 0)
    if pixels.shape[1] != size[0]:
        pixels = _along_rows(pixels.transpose(1, 0, 2), size[0]).transpose(1, 0, 2)
    return np.ascontiguousarray(pixels)


def _along_rows(rows: Pixels, size: int) -> Pixels:
    """(n, …) → (size, …): each a weighted sum of neighbours."""
    rows = np.ascontiguousarray(rows)
    starts, weights, precision = _weights(len(rows), size)
    out = np.empty((size, *rows.shape[1:]), np.uint8)
    half = 1 << (precision - 1)
    for place, (start, each) in enumerate(zip(starts, weights, strict=True)):
        total = np.full(rows.shape[1:], half, np.int32)
        for offset, weight in enumerate(each):
            total += rows[start + offset] * np.int32(weight)
        out[place] = np.clip(total >> precision, 0, WHITE)
    return out


def _weights(length: int, size: int) -> tuple[list[int], list[list[int]], int]:
    """Where each output's neighbours begin, their weights as whole numbers, and how many bits they were shifted."""
    scale = length / size
    support, inverse = (scale, 1 / scale) if scale >= 1 else (1.0, 1.0)
    starts, shares = [], []
    for place in range(size):
        centre = scale * (place + 0.5)
        start = max(int(centre - support + 0.5), 0)
        count = min(int(centre + support + 0.5), length) - start
        triangle = [max(1 - abs((start + offset - centre + 0.5) * inverse), 0.0) for offset in range(count)]
        total = sum(triangle)
        starts.append(start)
        shares.append([weight / total for weight in triangle])
    largest = max(max(each) for each in shares)
    precision = 0
    while precision < MOST_PRECISION and int(0.5 + largest * (1 << (precision + 1))) < 1 << WEIGHT_BITS:
        precision += 1
    return starts, [[int(0.5 + weight * (1 << precision)) for weight in each] for each in shares], precision


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    if image.getexif().get(ORIENTATION, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _eight_bit(image: Image.Image, mode: str) -> Image.Image:
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, without a known white")
    if image.mode.startswith("I"):
        values: Array = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**16:
            raise ValueError("its pixels have more than 16 bits")
        # Pillow's own conversion would cut everything above 255 off.
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)
