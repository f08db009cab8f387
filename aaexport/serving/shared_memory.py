"""A model, and how it is served → the bytes of shared memory through which its tensors reach the Python backend.

`serve` asks for them before it loads anything, and what `deploy` writes for a container gives it as many.
"""

from __future__ import annotations

import math

from aaexport.memory import MEBIBYTE
from aaexport.serving.engine import SHARED_MEMORY
from aaexport.serving.facts import ModelFacts, ServedTensor
from aaexport.serving.protocol import dtype_of
from aaexport.serving.repository import MOST_IMAGE_BYTES

COPIES = 4  # of a batch's tensors in shared memory: in, out, and those of the next
GIVEN = 64  # MiB that containers and pods have unless more is asked for
STEP = 32  # MiB: sizes are written in whole steps


def needed_bytes(facts: ModelFacts, max_batch: int, instances: int, *, images: bool) -> int:
    """What a service of this model fills at the most; `images` where it takes image files too."""
    batch = max_batch if facts.batched else 1
    own = instances * (SHARED_MEMORY + COPIES * batch * _bytes_of_one(facts))
    return own + image_bytes(facts) if images else own


def image_bytes(facts: ModelFacts) -> int:
    """The part of the model that takes image files: the largest file, and the tensors that it becomes."""
    return SHARED_MEMORY + MOST_IMAGE_BYTES + COPIES * _bytes_of_one(facts)


def mebibytes(needed: int) -> int:
    """In MiB as they are asked for: in whole steps, and no fewer than there are in any case."""
    return max(GIVEN, math.ceil(needed / MEBIBYTE / STEP) * STEP)


def _bytes_of_one(facts: ModelFacts) -> int:
    """Of all tensors of a query of one image; of a fixed batch where the file has one.

    A size that the file leaves open is that of the golden vectors, where there are some: nobody knows the largest.
    """
    known = {**facts.golden[0].inputs, **facts.golden[0].outputs} if facts.golden else {}
    total = 0
    for tensor in (*facts.inputs, *facts.outputs):
        sizes = tensor.shape[1:] if facts.batched else tensor.shape
        asked = known[tensor.name].shape[-len(sizes) :] if tensor.name in known and sizes else sizes
        closed = (size if size >= 0 else max(own, 1) for size, own in zip(sizes, asked, strict=False))
        total += math.prod(closed) * _itemsize(tensor)
    return total


def _itemsize(tensor: ServedTensor) -> int:
    return dtype_of(tensor.datatype).itemsize
