"""expected and actual numbers → how far apart they are: each, each channel, and as one number of the report."""

from __future__ import annotations

import numpy as np

from aaexport.parity.cases import Array

FLOAT32 = np.finfo(np.float32)


def largest(array: Array) -> float:
    """The largest size; 0 of no numbers."""
    return float(np.abs(array).max(initial=0.0))


def distance(one: Array, other: Array) -> Array:
    """|one − other| in float64."""
    return np.abs(one.astype(np.float64) - other.astype(np.float64))


def cosine(expected: Array, actual: Array) -> float | None:
    """Of the angle between both as vectors; None where either has no length, or one beyond float64."""
    norms = float(np.linalg.norm(expected) * np.linalg.norm(actual))
    return float(np.vdot(expected, actual)) / norms if norms > 0 and np.isfinite(norms) else None


def sqnr_db(expected: Array, error: Array) -> float | None:
    """Signal to noise, 10 · log10(Σ expected² / Σ error²) in dB; None where either is 0 or beyond float64."""
    signal, noise = float(np.square(expected).sum()), float(np.square(error).sum())
    return 10 * float(np.log10(signal / noise)) if 0 < signal < np.inf and 0 < noise < np.inf else None


def agreement(expected: Array, actual: Array, count: int) -> float | None:
    """The mean share of the `count` largest entries of a row that are the same."""
    if expected.ndim != 2 or expected.shape[1] < count:
        return None
    ours, theirs = (np.argsort(-array, axis=1, kind="stable")[:, :count] for array in (expected, actual))
    return float((ours[:, :, None] == theirs[:, None, :]).any(axis=2).mean())


def beyond_a_rounding(error: Array, size: Array, actual: Array) -> Array:
    """Of an output in fewer bits than float32, what an error has beside one unit in the last place of its number.

    Float32's own error decides which of two neighbours it is rounded to.
    """
    numbers = np.finfo(actual.dtype)
    if numbers.eps <= FLOAT32.eps:
        return error
    rounding = np.maximum(float(numbers.eps) * size, float(numbers.smallest_subnormal))
    return np.asarray(np.maximum(error - rounding, 0.0))


def by_channel(array: Array) -> Array:
    """The largest size of each index of the second axis; of the whole, where there is none."""
    if array.ndim < 2:
        return np.asarray([largest(array)])
    others = tuple(axis for axis in range(array.ndim) if axis != 1)
    return np.asarray(np.abs(array).max(axis=others, initial=0.0))
