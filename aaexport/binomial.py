"""(trials, probability) → how likely at most k succeed; and back: k of n → what the probability may be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Beyond so many standard deviations, and a few counts for the skewed ones, nothing is left that a double would show.
_REACH, _FEW = 12, 40
_HALVINGS = 40  # of an interval of probabilities: its ends are known to 12 digits


def binomial_cdf(counts: npt.ArrayLike, n: int, p: float) -> npt.NDArray[np.float64]:
    """P(K ≤ k) for every k of `counts`, K being the successes of `n` independent trials of probability 0 < p < 1.

    Neighbouring probabilities differ by the factor (n − k) / (k + 1) · p / (1 − p); those around the mean are
    multiplied up and then made to sum to 1.
    """
    reach = _REACH * math.sqrt(n * p * (1 - p)) + _FEW
    first, last = max(0, math.floor(n * p - reach)), min(n, math.ceil(n * p + reach))
    k = np.arange(first, last)
    logarithms = np.concatenate([[0.0], np.cumsum(np.log((n - k) / (k + 1) * (p / (1 - p))))])
    cumulative = np.cumsum(np.exp(logarithms - logarithms.max()))
    table = np.concatenate([[0.0], cumulative / cumulative[-1]])
    return np.asarray(table[np.clip(np.asarray(counts) - first + 1, 0, len(table) - 1)], np.float64)


@dataclass(frozen=True)
class Interval:
    """What a share may be, from `low` to `high`, both between 0 and 1."""

    low: float
    high: float


def exact_interval(count: int, n: int, coverage: float = 0.95) -> Interval:
    """What the probability may be of which n independent trials gave `count` successes (Clopper and Pearson, 1934).

    Each end is the probability by which such a count, or one farther off, comes about with (1 − coverage) / 2: the
    interval holds the true one at least as often as `coverage` says, however few trials there are. All of it without
    a single trial.
    """
    outside = (1 - coverage) / 2
    low = 0.0 if count == 0 else _where(lambda p: 1 - _likely(count - 1, n, p) >= outside)
    high = 1.0 if count == n else _where(lambda p: _likely(count, n, p) <= outside)
    return Interval(low, high)


def _likely(count: int, n: int, p: float) -> float:
    return float(binomial_cdf(count, n, p))


def _where(holds: Callable[[float], bool]) -> float:
    """The smallest probability from which on it holds, by halving."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
