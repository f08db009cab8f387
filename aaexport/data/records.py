"""What was read of a data set, as arrays → pixels as the network sees them in evaluation. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from aaexport.data.decoding import Files, decoded
from aaexport.pixels import Array, central_box, resized_pixels
from aaexport.recipe import Recipe


class Records(Protocol):
    """Labelled images, however they are kept."""

    @property
    def labels(self) -> Array:
        """(N,), int64; −1 where a recipe without classes asked for a data set without labels."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user must be told about them, a sentence each."""

    @property
    def white(self) -> int:
        """The pixel value that stands for 1.0."""

    def __len__(self) -> int: ...

    def seen(self, index: Array, recipe: Recipe) -> Array:
        """The images at `index` (B,), cropped and resized to the recipe's input size, not normalised.

        Returns:
            (B, C, H, W), uint8 or float32, from 0 to `white`.

        Raises:
            DataError: an image cannot be decoded.
        """


@dataclass(frozen=True, eq=False)
class StoredRecords:
    """Images of one size as they were recorded, all in memory.

    Attributes:
        pixels: (N, C, H, W), uint8.
        labels: (N,), int64.
        white: the pixel value that stands for 1.0.
        notes: what a user must be told.
    """

    pixels: Array
    labels: Array
    white: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def seen(self, index: Array, recipe: Recipe) -> Array:
        """As `Records.seen`; float32 where they are resized, which takes torch."""
        chosen = self.pixels[index]
        height, width = chosen.shape[-2:]
        top, left, height, width = central_box(height, width, recipe.input.size, recipe.data.crop_share)
        part = chosen[..., top : top + height, left : left + width]
        return part if (height, width) == recipe.input.size else _resized_as_numbers(part, recipe.input.size)


@dataclass(frozen=True, eq=False)
class EncodedRecords:
    """Encoded images of any sizes, decoded whenever they are asked for.

    Attributes:
        files: where each is.
        labels: (N,), int64.
        channels: 1 (converted to gray) or 3 (to RGB).
        notes: what a user must be told.
    """

    files: Files
    labels: Array
    channels: int
    notes: tuple[str, ...] = ()
    white: int = field(default=255, init=False)

    def __len__(self) -> int:
        return len(self.labels)

    def seen(self, index: Array, recipe: Recipe) -> Array:
        """As `Records.seen`; uint8."""
        seen = np.empty((len(index), self.channels, *recipe.input.size), np.uint8)
        for place, number in enumerate(index.tolist()):
            seen[place] = seen_pixels(decoded(self.files, number, self.channels), recipe)
        return seen


def seen_pixels(pixels: Array, recipe: Recipe) -> Array:
    """One decoded image (C, h, w), uint8 → the same of the recipe's input size."""
    height, width = pixels.shape[-2:]
    top, left, height, width = central_box(height, width, recipe.input.size, recipe.data.crop_share)
    return resized_pixels(pixels[:, top : top + height, left : left + width], recipe.input.size)


def _resized_as_numbers(pixels: Array, size: tuple[int, int]) -> Array:
    """Not rounded to uint8. In which order torch adds such products, and how it rounds, only torch knows."""
    import torch

    from aaexport.data.views import resized

    resized_ones: Array = resized(torch.from_numpy(np.ascontiguousarray(pixels)).to(torch.float32), size).numpy()
    return resized_ones
