"""Encoded images → uint8 pixels, through Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from aaexport.cores import usable_cores
from aaexport.errors import DataError, first_line

if TYPE_CHECKING:
    from PIL import Image

MODES = {1: "L", 3: "RGB"}
ORIENTATION = 0x0112  # the EXIF tag
NAMED_BAD_IMAGES = 3


class Files(Protocol):
    """Encoded images by number. Worker processes get a copy, so it can be pickled."""

    def __len__(self) -> int: ...

    def content(self, number: int) -> Path | bytes:
        """The file, or what would be in it."""

    def name(self, number: int) -> str:
        """What a user finds it by."""


def require_pillow(reader: str) -> None:
    """DataError, which says what to install for `reader`, if Pillow is not there."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise DataError(f"{reader} needs Pillow; pip install 'aaexport[datasets]'") from error


def decoded(files: Files, number: int, channels: int, *, quick: bool = False) -> Tensor:
    """One image, upright as its EXIF data says, in gray or RGB.

    Transparency is dropped and 16 bits become the upper 8. `quick` may halve the sides up to three times: enough to
    learn whether the image can be decoded.

    Returns:
        (channels, height, width), uint8.

    Raises:
        DataError: it cannot be decoded; the text names it.
    """
    try:
        return _pixels(files.content(number), channels, quick=quick)
    # Of a damaged file Pillow raises whatever the damage leads it to.
    except Exception as error:
        complaint = _complaint(files.name(number), error)
        raise DataError(f"{complaint}; leave such images out with --skip-bad") from error


def decoded_file(path: Path, channels: int) -> Tensor:
    """As `decoded`, for a file that belongs to no data set."""
    try:
        return _pixels(path, channels)
    # As in `decoded`.
    except Exception as error:
        raise DataError(_complaint(str(path), error)) from error


def readable(files: Files, channels: int, numbers: Sequence[int] | None = None) -> tuple[list[int], tuple[str, ...]]:
    """Decodes every image, or those of `numbers`, once → the numbers that can be decoded, a note about the others."""
    asked = range(len(files)) if numbers is None else numbers

    def can_be_decoded(number: int) -> bool:
        try:
            decoded(files, number, channels, quick=True)
        except DataError:
            return False
        return True

    with ThreadPoolExecutor(usable_cores()) as pool:
        verdicts = list(pool.map(can_be_decoded, asked))
    good = [number for number, verdict in zip(asked, verdicts, strict=True) if verdict]
    bad = [files.name(number) for number, verdict in zip(asked, verdicts, strict=True) if not verdict]
    return good, (_skipped(bad),) if bad else ()


def _skipped(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_BAD_IMAGES} more" if len(names) > NAMED_BAD_IMAGES else ""
    images = "image" if len(names) == 1 else "images"
    return f"{len(names)} corrupt {images} skipped: {', '.join(names[:NAMED_BAD_IMAGES])}{more}"


def _pixels(content: Path | bytes, channels: int, *, quick: bool = False) -> Tensor:
    from PIL import Image

    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
        if quick:
            image.draft(None, (1, 1))
        pixels = np.array(_eight_bit(_upright(image), MODES[channels]))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)


def _complaint(name: str, error: Exception) -> str:
    from PIL import UnidentifiedImageError

    unknown = isinstance(error, UnidentifiedImageError)
    cause = "Pillow knows no such format" if unknown else first_line(error)
    return f"{name} must be a readable image, but: {cause}"


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
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**16:
            raise ValueError("its pixels have more than 16 bits")
        # Pillow's own conversion would cut everything above 255 off.
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)
