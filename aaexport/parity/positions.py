"""positions × scores → whether each points at a score equal, but for rounding, to the one it should point at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aaexport.parity.cases import Array
from aaexport.parity.tolerance import Tolerance


@dataclass(frozen=True)
class Scores:
    """What an output of positions points at: of equal scores, any is right.

    Attributes:
        numbers: PyTorch's scores in float32, from which it chose.
        axis: along which.
        keeps: whether the positions still have that axis; they may be several in it, each another one.
        moves: how far each score moves when the inputs are rounded otherwise; None where that is not known.
    """

    numbers: Array
    axis: int
    keeps: bool
    moves: Array | None = None


def point_at_equals(scores: Scores | None, expected: Array, actual: Array, tolerance: Tolerance) -> bool:
    """Whether positions point at scores that are equal, but for rounding, to those that they should point at.

    But for the rounding of these very scores: beside a mask of −1e9 every other one would be a tie.
    """
    if scores is None or actual.dtype.kind not in "iu":
        return False
    axis, numbers = scores.axis, scores.numbers
    if not scores.keeps:
        expected, actual = np.expand_dims(expected, axis), np.expand_dims(actual, axis)
    if actual.min() < 0 or actual.max() >= numbers.shape[axis]:
        return False
    ordered = np.sort(actual, axis=axis)
    if (np.diff(ordered, axis=axis) == 0).any():
        return False  # one position twice is no set of positions
    found, wanted = (np.take_along_axis(numbers, positions, axis) for positions in (actual, expected))
    if numbers.dtype.kind != "f":
        return bool(np.all(found == wanted))
    slack = 2 * tolerance.floor_ulps * np.finfo(numbers.dtype).eps * np.minimum(abs(found), abs(wanted))
    if scores.moves is not None:
        moved = (np.take_along_axis(scores.moves, positions, axis) for positions in (actual, expected))
        slack = np.maximum(slack, tolerance.ratio * sum(moved))
    with np.errstate(invalid="ignore", over="ignore"):  # infinity − infinity, and a mask of the least number
        near = np.isfinite(found) & np.isfinite(wanted) & (np.abs(found - wanted) <= slack)
    return bool(np.all((found == wanted) | near))
