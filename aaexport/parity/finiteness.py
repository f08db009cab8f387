"""Which numbers are finite, +∞, −∞ or NaN, each a bit: what several runs give of one number may be put together."""

from __future__ import annotations

import numpy as np

from aaexport.parity.cases import Array

FINITE, PLUS, MINUS, NAN = 1, 2, 4, 8
NOT_FINITE = PLUS | MINUS | NAN


def kinds(array: Array) -> Array:
    """Of each number, in the shape of the array."""
    found = np.full(array.shape, FINITE, np.uint8)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        found[array == np.inf] = PLUS
        found[array == -np.inf] = MINUS
        found[np.isnan(array)] = NAN
    return found


def largest_finite(array: Array) -> float:
    """The size of the largest number that is finite; 0 if none is."""
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
