"""A recipe's shape → noise and random labels, for load tests: nothing can be learned from them."""

from __future__ import annotations

import math

import numpy as np

from aaexport.data.randomness import Draws
from aaexport.data.records import StoredRecords
from aaexport.data.request import Request

MOST_IMAGES = 512
MOST_BYTES = 64 * 2**20
SEEDS = {"train": 1, "test": 2}


def read_synthetic(request: Request) -> StoredRecords:
    """512 images of uniform noise, or as many as 64 MiB hold; the same at every call, others in the other part."""
    shape, classes = request.recipe.input.shape, request.recipe.input.classes
    draws = Draws(SEEDS[request.split])
    count = max(1, min(MOST_IMAGES, MOST_BYTES // math.prod(shape)))
    return StoredRecords(
        draws.below(256, (count, *shape), np.uint8), draws.below(max(classes, 1), (count,), np.int64), white=255
    )
