"""Raw latencies → percentiles that the sample can carry, and ratios that a shared machine cannot fake."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Milliseconds = npt.NDArray[np.float64]
CONFIDENCE = 0.99


def queries_needed(percentile: float) -> int:
    """The smallest sample that reaches beyond the true percentile with 99 % confidence.

    None of n samples exceeds the p-quantile with probability pⁿ, so n = ⌈ln 0.01 / ln p⌉: 7 for p50, 44 for
    p90, 459 for p99. This is MLPerf's early-stopping bound with no sample over it.
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(percentile / 100))


def percentile(latencies: Milliseconds, p: float) -> float | None:
    """The p-th percentile by nearest rank, a latency that was really measured; None if the sample is too small."""
    if len(latencies) < queries_needed(p):
        return None
    rank = math.ceil(p / 100 * len(latencies))
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
    """Each by nearest rank, with its interval."""
    raise NotImplementedError  # in the making


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
    ratios = np.asarray([float(np.median(a)) / float(np.median(b)) for a, b in pairs])
    return Ratio(float(np.median(ratios)), float(ratios.min()), float(ratios.max()), len(ratios))


def typical(blocks: Sequence[Milliseconds]) -> float:
    """The median of the block medians: a block that a busy machine spoilt is one of them, however long it was."""
    return float(np.median([float(np.median(block)) for block in blocks]))


def spread(blocks: Sequence[Milliseconds]) -> float:
    """(largest − smallest) / median of the block medians: 0 for a steady machine."""
    medians = np.asarray([float(np.median(block)) for block in blocks])
    return float((medians.max() - medians.min()) / np.median(medians))
