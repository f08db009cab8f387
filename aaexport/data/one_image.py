"""An image file or a held-out image → its pixels as the network sees them when it is evaluated, and normalised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aaexport.data.evaluation import evaluation_images, seen_file
from aaexport.data.sources import load_records
from aaexport.errors import ArgumentError, broken_rule
from aaexport.pixels import WHITE
from aaexport.recipe import Recipe


def read_sample(number: int, recipe: Recipe, base: Path | None = None) -> tuple[Tensor, Tensor]:
    """As `read_image`, of held-out image `number`, from 0, of the recipe's data set.

    `base` is the model folder, where a relative path of the data set starts.

    Raises:
        ArgumentError: there is no such image.
        DataError: the data set is not there, or the image cannot be decoded.
    """
    records = load_records(recipe, "test", base=base)
    if number >= len(records):
        rule = f"be from sample:0 to sample:{len(records) - 1}, the held-out images of {recipe.data.dataset}"
        raise ArgumentError(broken_rule("image", rule, f"sample:{number}"))
    index = np.array([number])
    pixels = torch.from_numpy(records.seen(index, recipe)).to(torch.float32) * (WHITE / records.white)
    batch = torch.from_numpy(evaluation_images(records, recipe, index))
    return pixels[0].round().clamp(0, WHITE).to(torch.uint8), batch


def read_image(path: Path, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """As `aaexport.data.evaluation.seen_file`, in tensors."""
    pixels, batch = seen_file(path, recipe)
    return torch.from_numpy(pixels), torch.from_numpy(batch)
