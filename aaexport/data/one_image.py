"""An image file or a held-out image → its pixels as the network sees them when it is evaluated, and normalised."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from aaexport.data.decoding import decoded_file, require_pillow
from aaexport.data.loading import evaluation_batch
from aaexport.data.sources import load_images
from aaexport.data.views import normalised, resized
from aaexport.errors import ArgumentError, DataError, broken_rule
from aaexport.pixels import MODES, WHITE, central_box
from aaexport.recipe import Recipe


def read_sample(number: int, recipe: Recipe, base: Path | None = None) -> tuple[Tensor, Tensor]:
    """As `read_image`, of held-out image `number`, from 0, of the recipe's data set.

    `base` is the model folder, where a relative path of the data set starts.

    Raises:
        ArgumentError: there is no such image.
        DataError: the data set is not there, or the image cannot be decoded.
    """
    images = load_images(recipe, "test", base=base)
    if number >= len(images):
        rule = f"be from sample:0 to sample:{len(images) - 1}, the held-out images of {recipe.data.dataset}"
        raise ArgumentError(broken_rule("image", rule, f"sample:{number}"))
    index = torch.tensor([number])
    pixels = images.fitted(index, recipe, None).to(torch.float32) * (WHITE / images.white)
    return pixels[0].round().clamp(0, WHITE).to(torch.uint8), evaluation_batch(images, recipe, index)


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
