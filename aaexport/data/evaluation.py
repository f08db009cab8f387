"""Records → what the network is fed with when it is evaluated, and a choice of them. Needs no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aaexport.data.decoding import decoded_file, readable, require_pillow
from aaexport.data.randomness import Draws
from aaexport.data.records import EncodedRecords, Records, seen_pixels
from aaexport.errors import DataError, broken_rule
from aaexport.pixels import MODES, WHITE, Array, normalised_pixels
from aaexport.recipe import Recipe


def evaluation_images(records: Records, recipe: Recipe, index: Array | None = None) -> Array:
    """What the network sees of all records, or those at `index`, when it is evaluated.

    To the last bit what `aaexport.data.evaluation_batch` makes of the same images by torch.

    Returns:
        (len(index), C, H, W), float32.

    Raises:
        DataError: an image cannot be decoded.
    """
    chosen = np.arange(len(records)) if index is None else index
    image = recipe.input
    return normalised_pixels(records.seen(chosen, recipe), records.white, image.mean, image.std)


def sample(records: Records, count: int, seed: int) -> tuple[Array, tuple[str, ...]]:
    """At most `count` records that can be decoded, drawn by `seed`: their numbers, and a note about the others.

    Raises:
        DataError: none of those drawn can be decoded.
    """
    drawn = Draws(seed).permuted(len(records), count)
    if not isinstance(records, EncodedRecords):
        return drawn, ()
    good, notes = readable(records.files, records.channels, drawn.tolist())
    if not good:
        raise DataError(f"the data set must hold readable images, but of {len(drawn)} drawn none is: {notes[0]}")
    return np.array(good, np.int64), notes


def seen_file(path: Path, recipe: Recipe) -> tuple[Array, Array]:
    """An image file, seen as the images of the recipe's data set are.

    Returns:
        (C, H, W) uint8, and (1, C, H, W) float32 for the network.

    Raises:
        DataError: Pillow is not there, the file cannot be decoded, or the network takes neither gray nor RGB.
    """
    require_pillow("an image file")
    image = recipe.input
    if image.channels not in MODES:
        raise DataError(broken_rule("[input] channels", "be 1 or 3 for an image file", image.channels))
    seen = seen_pixels(decoded_file(path, image.channels), recipe)
    return seen, normalised_pixels(seen[None], WHITE, image.mean, image.std)
