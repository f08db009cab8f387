"""Encoded images → uint8 pixels, through Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from aaexport.cores import usable_cores
from aaexport.errors import DataError, first_line
from aaexport.pixels import Pixels, decoded_pixels

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


def decoded(files: Files, number: int, channels: int, *, quick: bool = False) -> Pixels:
    """One image, upright as its EXIF data says, in gray or RGB.

    Transparency is dropped and 16 bits become the upper 8. `quick` may halve the sides up to three times: enough to
    learn whether the image can be decoded.

    Returns:
        (channels, height, width), uint8.

    Raises:
        DataError: it cannot be decoded; the text names it.
    """
    try:
        return decoded_pixels(files.content(number), channels, quick=quick)
    # Of a damaged file Pillow raises whatever the damage leads it to.
    except Exception as error:
        complaint = _complaint(files.name(number), error)
        raise DataError(f"{complaint}; leave such images out with --skip-bad") from error


def decoded_file(path: Path, channels: int) -> Pixels:
    """As `decoded`, for a file that belongs to no data set."""
    try:
        return decoded_pixels(path, channels)
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


def _complaint(name: str, error: Exception) -> str:
    from PIL import UnidentifiedImageError

    unknown = isinstance(error, UnidentifiedImageError)
    cause = "Pillow knows no such format" if unknown else first_line(error)
    return f"{name} must be a readable image, but: {cause}"
