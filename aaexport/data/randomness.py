"""Seed → the numbers that torch's generator draws on the CPU, by NumPy alone, for whatever must not load torch.

Both are the Mersenne Twister, begun alike. torch takes whole numbers below a limit from 32 bits by what is left of a
division, and permutes by swapping each place with one behind it.
"""

from __future__ import annotations

import math

import numpy as np

from aaexport.pixels import Array

DRAWN_AT_ONCE = 2**20


class Draws:
    """As `torch.Generator().manual_seed(seed)`."""

    def __init__(self, seed: int) -> None:
        self._source = np.random.RandomState(seed % 2**32)  # torch takes the lower 32 bits of any seed

    def below(self, limit: int, shape: tuple[int, ...], dtype: type[np.generic]) -> Array:
        """As `torch.randint(0, limit, shape)`, for limits up to 2²⁸."""
        numbers = np.empty(math.prod(shape), dtype)
        for start in range(0, len(numbers), DRAWN_AT_ONCE):
            part = numbers[start : start + DRAWN_AT_ONCE]
            part[:] = self._bits(len(part)) % np.uint32(limit)
        return numbers.reshape(shape)

    def permuted(self, count: int, most: int) -> Array:
        """The first `most` of `torch.randperm(count)`."""
        order = np.arange(count)
        for place, bits in enumerate(self._bits(max(min(count - 1, most), 0)).tolist()):
            other = place + bits % (count - place)
            order[place], order[other] = order[other], order[place]
        return order[:most]

    def _bits(self, count: int) -> Array:
        return self._source.randint(0, 2**32, count, dtype=np.uint32)
