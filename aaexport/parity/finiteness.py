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


def not_by_rounding(ours: Array, theirs: Array, seen: Array) -> Array:
    """Where one number is of two kinds in two precisions, and rounding was not seen to make it both."""
    return np.asarray((ours != theirs) & ((seen & (ours | theirs)) != ours | theirs))


def allowed_kinds(ours: Array, theirs: Array, seen: Array, *, is_ordinary: bool) -> Array:
    """What each number may be: as PyTorch in both precisions has it, and as rounding was seen to make it.

    Args:
        ours: the kinds in float64.
        theirs: the kinds in float32.
        seen: the kinds that rounding makes of each number, as far as that was asked for; 0 elsewhere.
        is_ordinary: whether the inputs are images that somebody means the network for, or like them.
    """
    both = np.where(ours == theirs, ours, (ours | theirs) & NOT_FINITE)
    if is_ordinary:  # NaN is what PyTorch's is, and no matter of rounding
        return np.asarray(np.where(both & NAN, both, both | (seen & ~np.uint8(NAN))))
    both |= seen
    both[(both & NOT_FINITE) > 0] |= NOT_FINITE  # where float32 itself fails, and kernels make NaN of ∞ − ∞
    return both


def why_spread_wrongly(got: Array, allowed: Array, whose: str) -> str | None:
    """What is wrong with the kinds of numbers that came out; None if all are allowed."""
    others = (got & allowed) == 0
    if not others.any():
        return None
    lost, found = allowed != FINITE, got != FINITE
    if (others & (lost != found)).any():
        rule = f"NaN and infinity must spread to the {int(lost.sum())} numbers that they spread to in {whose}"
        return f"{rule}, got {int(found.sum())}, {int((found & ~lost).sum())} of them others"
    return f"NaN, and infinity of either sign, must be as in {whose}, got {int(others.sum())} other ones"


def undecided(allowed: Array) -> str | None:
    """A warning of numbers that are finite or infinite by their rounding; None without any."""
    count = int(((allowed & FINITE > 0) & (allowed != FINITE)).sum())
    return f"whether {count} of its numbers are finite is a matter of rounding: not compared" if count else None


def is_decided_infinite(allowed: Array) -> bool:
    """Whether it is decided of some number that it is infinite, and of which sign."""
    return bool(((allowed == PLUS) | (allowed == MINUS)).any())


def not_finite(array: Array) -> int:
    """How many numbers are NaN or infinite."""
    return int(array.size - np.isfinite(array).sum())
