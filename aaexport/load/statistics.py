"""Raw latencies → percentiles that the sample can carry, and ratios that a shared machine cannot fake."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aaexport.binomial import binomial_cdf
from aaexport.load.lengths import queries_needed

Milliseconds = npt.NDArray[np.float64]
COVERAGE = 0.95  # of the intervals
NEAR_ENOUGH = 0.005  # to the coverage: of such intervals the most even one is taken
BATCHES = 10
STUDENT = (2.262 / 1.960) ** 2  # Student's t with BATCHES − 1 degrees ÷ the normal's, at 97.5 %, squared
DEPENDENT = 2.33  # standard errors of the autocorrelation that chance passes once in a hundred samples
MIN_PAIRS = 6  # the range of fewer holds their median in less than 95 % of cases


def percentile(latencies: Milliseconds, p: float) -> float | None:
    """The p-th percentile by nearest rank, a latency that was really measured; None if the sample is too small."""
    if len(latencies) < queries_needed(p):
        return None
    rank = _nearest_rank(p, len(latencies))
    return float(np.partition(latencies, rank - 1)[rank - 1])


@dataclass(frozen=True)
class Percentile:
    """The p-th percentile in milliseconds with its 95 % confidence interval.

    All three are None where the sample is too small; `missing` is how many more queries it needs then, else 0.
    """

    p: float
    value: float | None
    low: float | None
    high: float | None
    missing: int = 0


def percentiles(latencies: Milliseconds, which: Sequence[float]) -> tuple[Percentile, ...]:
    """Each by nearest rank, with the interval between two order statistics that holds the true one 95 times in 100.

    How many of n independent latencies lie below the true percentile is binomial, whatever their distribution, and so
    is the coverage of any two ranks (David and Nagaraja, *Order Statistics*, 7.1). Latencies that depend on their
    neighbours, as in a queue, count for as many as `independent_queries` says.

    Args:
        latencies: in the order in which they were measured.
        which: the percentiles, between 0 and 100.
    """
    in_order = np.sort(latencies)
    return tuple(_percentile(latencies, in_order, p) for p in which)


def independent_queries(latencies: Milliseconds, p: float) -> int:
    """How many independent latencies would tell as much of the p-th percentile as these, in their order, do.

    The variance of how many exceed it, between ten batches of neighbours, ÷ what it were if they were independent
    (batch means: Law, *Simulation Modeling and Analysis*, 9.5), and a little more because ten batches tell a variance
    roughly. All of them, unless exceeding follows exceeding more often than chance has it.
    """
    if len(latencies) < 2 * BATCHES:
        return len(latencies)
    rank = _nearest_rank(p, len(latencies))
    return _independent(latencies > np.partition(latencies, rank - 1)[rank - 1])


def _percentile(latencies: Milliseconds, in_order: Milliseconds, p: float) -> Percentile:
    n = len(in_order)
    missing = queries_needed(p) - n
    if missing > 0:
        return Percentile(p, None, None, None, missing)
    worth = independent_queries(latencies, p)
    low, high = _interval_ranks(worth, p / 100)
    low, high = max(1, math.floor(low * n / worth)), min(n, math.ceil(high * n / worth))
    value, low_value, high_value = (float(in_order[rank - 1]) for rank in (_nearest_rank(p, n), low, high))
    return Percentile(p, value, low_value, high_value)


def _nearest_rank(p: float, n: int) -> int:
    return max(1, math.ceil(p / 100 * n))


def _interval_ranks(n: int, share: float) -> tuple[int, int]:
    """The ranks, from 1, of the two of n latencies that hold the quantile between them with nearest to 95 %.

    Single ranks are coarse: with 459 queries the largest is beyond p99 with 99 %, the next with 95 %. So the
    neighbours of the two that leave 2.5 % each are tried together.
    """
    middle, deviation = n * share, math.sqrt(n * share * (1 - share))
    around = np.arange(-5, 6)
    lows = np.unique(np.clip(math.floor(middle - 1.96 * deviation) + around, 1, n))
    highs = np.unique(np.clip(math.ceil(middle + 1.96 * deviation) + around, 1, n))
    below = binomial_cdf(lows - 1, n, share)[:, None]
    above = 1 - binomial_cdf(highs - 1, n, share)[None, :]
    off = np.maximum(np.abs(1 - below - above - COVERAGE), NEAR_ENOUGH)
    best = np.lexsort((np.abs(below - above).ravel(), off.ravel()))[0]
    return int(lows[best // len(highs)]), int(highs[best % len(highs)])


def _independent(over: npt.NDArray[np.bool_]) -> int:
    """`independent_queries` by which latencies exceed the percentile."""
    n, share = len(over), float(over.mean())
    variance = share * (1 - share)
    if not variance:
        return n
    together = np.count_nonzero(over[1:] & over[:-1]) / n - share**2
    if together / variance < DEPENDENT / math.sqrt(n):
        return n
    size = n // BATCHES
    batches = over[n - size * BATCHES :].reshape(BATCHES, size).sum(axis=1)
    inflation = float(batches.var(ddof=1)) / (size * variance) * STUDENT
    return max(1, math.floor(n / max(inflation, 1.0)))


@dataclass(frozen=True)
class Ratio:
    """How many times slower one contender is than another: median and range over the pairs of blocks.

    `low` and `high` bound the median with 95 % confidence; None where there are too few pairs for that.
    """

    median: float
    lowest: float
    highest: float
    pairs: int
    low: float | None = None
    high: float | None = None


def pairwise_ratio(slower: Sequence[Milliseconds], faster: Sequence[Milliseconds]) -> Ratio:
    """Block medians divided pair by pair; neighbours in time share whatever else the machine was doing."""
    pairs = zip(slower, faster, strict=True)
    ratios = np.sort([float(np.median(a)) / float(np.median(b)) for a, b in pairs])
    n = len(ratios)
    low = high = None
    if n >= MIN_PAIRS:
        # As many ranks from either end as leave at most 2.5 % outside: the sign test's interval.
        outside = np.count_nonzero(binomial_cdf(np.arange(n), n, 0.5) <= (1 - COVERAGE) / 2)
        low, high = float(ratios[outside - 1]), float(ratios[n - outside])
    return Ratio(float(np.median(ratios)), float(ratios[0]), float(ratios[-1]), n, low, high)


def typical(blocks: Sequence[Milliseconds]) -> float:
    """The median of the block medians: a block that a busy machine spoilt is one of them, however long it was."""
    return float(np.median([float(np.median(block)) for block in blocks]))


def windows(blocks: Sequence[Milliseconds], most: int) -> Sequence[Milliseconds]:
    """The blocks; one alone, as of an open loop, is cut into `most` at the most, each enough for its median."""
    if len(blocks) != 1:
        return blocks
    count = min(most, len(blocks[0]) // queries_needed(50))
    return np.array_split(blocks[0], max(count, 1))


def spread(blocks: Sequence[Milliseconds]) -> float:
    """(largest − smallest) / median of the block medians: 0 for a steady machine."""
    medians = np.asarray([float(np.median(block)) for block in blocks])
    return float((medians.max() - medians.min()) / np.median(medians))
