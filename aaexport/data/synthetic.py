"""A recipe's shape → noise and random labels, for load tests: nothing can be learned from them."""

from __future__ import annotations

import math

import torch

from aaexport.data.images import StoredImages
from aaexport.data.request import Request

MOST_IMAGES = 512
MOST_BYTES = 64 * 2**20
SEEDS = {"train": 1, "test": 2}


def read_synthetic(request: Request) -> StoredImages:
    """512 images of uniform noise, or as many as 64 MiB hold; the same at every call, others in the other part."""
    shape, classes = request.recipe.input.shape, request.recipe.input.classes
    generator = torch.Generator().manual_seed(SEEDS[request.split])
    count = max(1, min(MOST_IMAGES, MOST_BYTES // math.prod(shape)))
    return StoredImages(
        torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator),
        torch.randint(0, max(classes, 1), (count,), generator=generator),
        white=255,
    )
