"""Two tensors that should be equal → typical causes that fit what they differ in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from aaexport.parity.cases import Array, Case
from aaexport.parity.tensors import are_numbers

FLOAT16_MAX = float(np.finfo(np.float16).max)
CLOSE = 1e-4  # relative; of numbers that are the same but for rounding
FEW = 4  # numbers; fewer are often equal to others by chance
LARGEST_DEPTH = 1024  # of a head, in the search for the factor √dkh


def tensor_hints(actual: Array, expected: Array) -> tuple[str, ...]:
    """What a node's output looks like, beside what it should be."""
    if not are_numbers(actual, expected):
        return ()
    found = [float16_overflow(actual, expected), lost_slices(actual, expected), another_order(actual, expected)]
    found += [constant_factor(actual, expected)]
    return tuple(hint for hint in found if hint)


def float16_overflow(actual: Array, expected: Array) -> str | None:
    """Numbers that are too large for float16, where float16 is what was computed in."""
    if actual.dtype != np.float16 or actual.shape != expected.shape:
        return None
    lost = ~np.isfinite(actual) & np.isfinite(expected)
    if not lost.any():
        return None
    largest = float(np.abs(expected[np.isfinite(expected)]).max())
    tail = f": the largest number is {largest:.3g}, and float16 ends at {FLOAT16_MAX:.0f}"
    return f"float16 overflows here{tail}" if largest > FLOAT16_MAX else "float16 overflows on the way to this number"


def lost_slices(actual: Array, expected: Array) -> str | None:
    """NaN or infinity at whole positions of an axis other than the batch: `for index 3 along axis 1`."""
    if actual.shape != expected.shape or not actual.size:
        return None
    lost = ~np.isfinite(actual) & np.isfinite(expected)
    for axis in range(1, actual.ndim):
        others = tuple(other for other in range(actual.ndim) if other != axis)
        every, some = lost.all(axis=others), lost.any(axis=others)
        if some.any() and not every.all() and np.array_equal(every, some):
            return f"NaN or infinite for {_indices(np.flatnonzero(every))} along axis {axis}, and nowhere else"
    return None


def another_order(actual: Array, expected: Array) -> str | None:
    """The right numbers in the wrong places: heads that were not permuted, a transposition too many or too few."""
    if actual.size != expected.size or actual.size < 2 or not _all_finite(actual, expected):
        return None
    if actual.shape == expected.shape and _same(actual, expected):
        return None
    if not _same(np.sort(actual, axis=None), np.sort(expected, axis=None)):
        return None
    return "the right numbers in another order: heads that are not permuted, or a transposition"


def constant_factor(actual: Array, expected: Array) -> str | None:
    """All numbers that differ do so by one factor; a power of √dkh is the query's scale, missing or doubled."""
    if actual.shape != expected.shape or not _all_finite(actual, expected):
        return None
    given, wanted = actual.astype(np.float64), expected.astype(np.float64)
    scale = np.abs(wanted).max(initial=0.0)
    other = np.abs(given - wanted) > CLOSE * np.abs(wanted) + CLOSE**2 * scale
    if np.count_nonzero(other) < 2 or np.any(wanted[other] == 0):
        return None
    ratios = given[other] / wanted[other]
    factor = float(np.median(ratios))
    if np.abs(ratios - factor).max() > 10 * CLOSE * abs(factor):
        return None
    count = np.count_nonzero(other)
    which = "all numbers are" if count == actual.size else f"{count} of {actual.size} numbers are"
    return f"{which} {factor:.6g} times what they should be{_as_root(factor)}"


def other_axis(actual: Array, expected: Array) -> str | None:
    """A softmax along another axis: the numbers that should add up to 1 do not."""
    if actual.shape != expected.shape or not _all_finite(actual, expected):
        return None
    rightly, wrongly = _axes_of_sum_1(expected), _axes_of_sum_1(actual)
    if not rightly or set(rightly) <= set(wrongly):
        return None
    instead = f", they do along axis {wrongly[0]}" if wrongly else ""
    return f"the numbers must add up to 1 along axis {rightly[0]}{instead}: a softmax along the wrong axis"


def constant_hints(name: str, actual: Array, expected: Array, others: Mapping[str, Array]) -> tuple[str, ...]:
    """What became of the initializer `name`; `others` are the right ones that it may be mistaken for."""
    return tuple(f"initializer {name} {how}" for how in _what_became(name, actual, expected, others))


def another_preprocessing(fed: Array, right: Sequence[Array], images: Array) -> str | None:
    """The network is fed another affine function of each channel of the images than one that it should be fed."""
    given = _affine(fed, images)
    if given is None or any(each.shape == fed.shape and _same(fed, each) for each in right):
        return None
    wanted = next((found for found in (_affine(each, images) for each in right) if found is not None), None)
    instead = "" if wanted is None else f" where the model takes {_described(*wanted)}"
    return f"preprocessing mismatch: the file takes {_described(*given)}{instead}"


def baked_in_batch(failing: Sequence[Case], passing: Sequence[Case]) -> str | None:
    """One batch size is right, and all others are wrong."""
    right = {len(case.batch) for case in passing if case.kind == "ordinary"}
    wrong = {len(case.batch) for case in failing if case.kind == "ordinary"}
    if len(right) != 1 or not wrong or right & wrong:
        return None
    sizes = ", ".join(str(size) for size in sorted(wrong))
    return f"right for a batch of {right.pop()} and wrong for {sizes}: the batch size is baked in"


def _what_became(name: str, actual: Array, expected: Array, others: Mapping[str, Array]) -> Iterator[str]:
    if actual.shape == expected.shape and np.array_equal(actual, expected):
        return
    if actual.size < FEW:
        yield "holds other numbers"
        return
    twins = (n for n, array in others.items() if n != name and _equal(array, actual))
    laid_out = (n for n, array in others.items() if n != name and _relaid(actual, array, expected))
    twin = next(twins, None) or next(laid_out, None)
    if twin is not None:
        yield f"holds what {twin} should: two tables swapped"
        return
    if actual.ndim == 2 and _equal(expected.T, actual):
        yield "is transposed"
        return
    for axis in range(actual.ndim if actual.shape == expected.shape else 0):
        for step in (1, -1):
            if actual.shape[axis] > 1 and _shifted(actual, expected, step, axis):
                yield f"is shifted by one along axis {axis}"
                return
    if _rounded_to_half(actual, expected):
        yield "is rounded to float16"
    elif hint := another_order(actual, expected):
        yield f"holds {hint}"
    elif hint := constant_factor(actual, expected):
        yield f"holds other numbers: {hint}"
    else:
        yield "holds other numbers"


def _relaid(actual: Array, other: Array, expected: Array) -> bool:
    """Whether it holds the numbers of `other`, and none but those, in another layout, and those of `expected` not.

    A table may lie in a file as it is, transposed, or spread out so that numbers come several times.
    """
    if not other.size or not all(np.issubdtype(array.dtype, np.floating) for array in (actual, other)):
        return False
    if actual.max() != other.max() or actual.min() != other.min():
        return False
    numbers = np.unique(actual)
    return numbers.size >= FEW and _equal(numbers, np.unique(other)) and not _equal(numbers, np.unique(expected))


def _shifted(actual: Array, expected: Array, step: int, axis: int) -> bool:
    """Whether all but what fell off the edge is the neighbour's; what came in at the other edge may be anything."""
    size = actual.shape[axis]
    here = np.arange(max(step, 0), size + min(step, 0))
    there = np.arange(max(-step, 0), size + min(-step, 0))
    return _equal(np.take(expected, there, axis), np.take(actual, here, axis))


def _rounded_to_half(actual: Array, expected: Array) -> bool:
    if actual.shape != expected.shape or not np.issubdtype(expected.dtype, np.floating):
        return False
    with np.errstate(over="ignore"):
        return _equal(expected.astype(np.float16).astype(actual.dtype), actual)


def _affine(array: Array, images: Array) -> tuple[Array, Array] | None:
    """(scale, shift), each (C,), with which `array` is scale · images + shift; None if it is nothing of the kind."""
    if array.shape != images.shape or images.ndim < 2 or not _all_finite(array, images):
        return None
    given, fed = (np.moveaxis(each.astype(np.float64), 1, 0).reshape(each.shape[1], -1) for each in (array, images))
    mean = fed.mean(axis=1, keepdims=True)
    spread = ((fed - mean) ** 2).sum(axis=1, keepdims=True)
    if not np.all(spread > 0):
        return None
    scale = ((fed - mean) * given).sum(axis=1, keepdims=True) / spread
    shift = given.mean(axis=1, keepdims=True) - scale * mean
    if np.any(scale == 0) or not _same(scale * fed + shift, given):
        return None
    return scale.ravel(), shift.ravel()


def _described(scale: Array, shift: Array) -> str:
    """`the image × 255`, or `(the image − 0.305) ÷ 0.376`, by channels where these differ."""
    mean, moved = -shift / scale, bool(np.any(np.abs(shift) > CLOSE * np.abs(scale)))
    image = f"(the image − {_by_channel(mean)})" if moved else "the image"
    if np.allclose(scale, 1, rtol=CLOSE):
        return image.strip("()")
    larger = bool(np.all(np.abs(scale) > 1)) and not moved
    return f"{image} × {_by_channel(scale)}" if larger else f"{image} ÷ {_by_channel(1 / scale)}"


def _by_channel(numbers: Array) -> str:
    shown = [f"{number:.4g}" for number in numbers]
    return shown[0] if len(set(shown)) == 1 else f"({', '.join(shown)})"


def _as_root(factor: float) -> str:
    """`, which is √16` for a factor that is the root of a head's depth, or one over it."""
    if factor <= 0:
        return ""
    squared, sign = (factor**2, "√") if factor > 1 else (factor**-2, "1/√")
    depth = round(squared)
    fits = 2 <= depth <= LARGEST_DEPTH and abs(squared - depth) < 100 * CLOSE
    return f", which is {sign}{depth}: the query's scale, √dkh, once too often or not at all" if fits else ""


def _axes_of_sum_1(array: Array) -> list[int]:
    wide = array.astype(np.float64)
    return [axis for axis in range(array.ndim) if array.shape[axis] > 1 and np.allclose(wide.sum(axis), 1, atol=1e-2)]


def _indices(found: Array) -> str:
    return f"index {', '.join(str(index) for index in found[:8])}{' …' if len(found) > 8 else ''}"


def _all_finite(*arrays: Array) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)


def _equal(one: Array, other: Array) -> bool:
    return one.shape == other.shape and bool(np.array_equal(one, other))


def _same(one: Array, other: Array) -> bool:
    """But for rounding, seen against the largest number."""
    scale = float(np.abs(other).max(initial=0.0))
    return float(np.abs(np.subtract(one, other, dtype=np.float64)).max(initial=0.0)) <= CLOSE * scale
