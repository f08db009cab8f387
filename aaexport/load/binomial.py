"""(trials, probability) → how likely at most k succeed: all that order statistics and early stopping need."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

# Beyond so many standard deviations, and a few counts for the skewed ones, nothing is left that a double would show.
_REACH, _FEW = 12, 40


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
