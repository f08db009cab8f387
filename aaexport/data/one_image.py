"""An image file → its pixels as the network sees them when it is evaluated, before and after normalisation."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from aaexport.data.decoding import MODES, decoded_file, require_pillow
from aaexport.data.views import central_box, normalised, resized
from aaexport.errors import DataError, broken_rule
from aaexport.recipe import Recipe

WHITE = 255


def read_image(path: Path, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Cropped, resized and normalised as `evaluation_batch` does with an image of the recipe's data set.

    Returns:
        (C, H, W) uint8, and (1, C, H, W) float32 for the network.

    Raises:
        DataError: Pillow is not there, the file cannot be decoded, or the network takes neither gray nor RGB.
    """
    require_pillow("an image file")
    channels, size = recipe.input.channels, recipe.input.size
    if channels not in MODES:
        raise DataError(broken_rule("[input] channels", "be 1 or 3 for an image file", channels))
    pixels = decoded_file(path, channels)
    top, left, height, width = central_box(pixels.shape[1], pixels.shape[2], size, recipe.data.crop_share)
    seen = resized(pixels[None, :, top : top + height, left : left + width], size)
    return seen[0], normalised(seen, WHITE, recipe.input)
