"""Two tensors from the inside of a network → how far apart they are, and each of them in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from aaexport.parity.cases import Array
from aaexport.parity.report import TensorFacts


def facts(array: Array) -> TensorFacts:
    """The type, shape and statistics of the finite numbers of `array`."""
    if not are_numbers(array):
        return TensorFacts(str(array.dtype), array.shape, None, None, None, None, 0)
    finite = array[np.isfinite(array)].astype(np.float64)
    numbers = (finite.min(), finite.max(), finite.mean(), finite.std()) if finite.size else (None,) * 4
    smallest, largest, mean, std = (None if number is None else float(number) for number in numbers)
    return TensorFacts(str(array.dtype), array.shape, smallest, largest, mean, std, array.size - finite.size)


def relative_error(actual: Array, expected: Array) -> float | None:
    """The largest error ÷ the largest expected number, over what is finite.

    None where they cannot be subtracted: one holds text, the shapes differ, or the places that are NaN or infinite
    do.
    """
    if actual.shape != expected.shape or not are_numbers(actual, expected):
        return None
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(actual)):
        return None
    if not finite.all():
        actual, expected = actual[finite], expected[finite]
    error = float(np.abs(np.subtract(actual, expected, dtype=np.float64)).max(initial=0.0))
    scale = float(np.abs(expected).max(initial=0))
    return error / scale if scale else 0.0 if not error else float("inf")


def unit(*dtypes: np.dtype[Any]) -> float:
    """The unit in the last place of 1.0 in the coarsest of `dtypes`; 0 for integers, which are exact."""
    return max((float(np.finfo(d).eps) for d in dtypes if np.issubdtype(d, np.floating)), default=0.0)


def are_numbers(*arrays: Array) -> bool:
    """Whether none holds text: objects and strings; bfloat16 and float8 are of a kind of their own, `V`."""
    return all(array.dtype.kind not in "OSU" for array in arrays)


def fingerprint(array: Array) -> Array:
    """What does not depend on the order of the numbers: seven values, those after the first of the array's scale."""
    finite = np.isfinite(array) if are_numbers(array) else np.zeros(array.shape, bool)
    numbers = array[finite].astype(np.float64).ravel()
    if not numbers.size:
        return np.array([array.size, 0, 0, 0, 0, 0, 0], np.float64)
    sizes = np.abs(numbers)
    moments = (np.sqrt(np.mean(numbers**2)), np.cbrt(np.mean(numbers**3)))
    return np.array([array.size, numbers.min(), numbers.max(), numbers.mean(), sizes.mean(), *moments])
