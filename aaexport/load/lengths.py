"""How long a measurement must be, in seconds, queries and images: numbers alone, by which options are checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from aaexport.errors import ArgumentError, broken_rule, parameter

RuleSet = Literal["quick", "mlperf"]
CONFIDENCE = 0.99
MOST_QUERIES = 10_000_000  # of a schedule: more would fill the memory before they filled an evening
MOST_SECONDS = 1e9  # beyond it, nanoseconds no longer fit their integers

MIN_SECONDS = 600.0  # of MLPerf's rules
OFFLINE_SAMPLES = 24_576  # or the whole data set where it is smaller


@dataclass(frozen=True)
class Rules:
    """What MLPerf asks of a scenario besides its 600 seconds.

    Attributes:
        samples_per_query: images in each query; None where they are all in one.
        min_queries: the fewest with which early stopping can succeed.
        min_samples: images over all queries.
        percentile: of the latency that is reported, or that must keep the bound; None without one.
    """

    samples_per_query: int | None
    min_queries: int
    min_samples: int = 1
    percentile: float | None = None


RULES = {
    "single-stream": Rules(samples_per_query=1, min_queries=64, percentile=90.0),
    "multi-stream": Rules(samples_per_query=8, min_queries=662, percentile=99.0),
    "server": Rules(samples_per_query=1, min_queries=459, percentile=99.0),
    "offline": Rules(samples_per_query=None, min_queries=1, min_samples=OFFLINE_SAMPLES),
}


def queries_needed(percentile: float) -> int:
    """The smallest sample that reaches beyond the true percentile with 99 % confidence.

    None of n samples exceeds the p-quantile with probability pⁿ, so n = ⌈ln 0.01 / ln p⌉: 7 for p50, 44 for
    p90, 459 for p99. This is MLPerf's early-stopping bound with no sample over it.
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(percentile / 100))


def queries_of(rate: float, duration: float, min_queries: int) -> int:
    """How many queries `rate` a second give in `duration` seconds, or `min_queries` if they are fewer.

    ArgumentError if rate or duration is not a positive number, or there would be too many queries.
    """
    for name, value in (("rate", rate), ("duration", duration)):
        if not (math.isfinite(value) and value > 0):
            raise ArgumentError(broken_rule(name, "be a positive number", value))
    expected = max(rate * duration, min_queries)
    if expected > MOST_QUERIES:
        rule = f"give at most {MOST_QUERIES:,} queries"
        name = f"{parameter('rate')} × {parameter('duration')}"
        raise ArgumentError(broken_rule(name, rule, round(expected), "measure for a shorter time"))
    if expected / rate > MOST_SECONDS:
        raise ArgumentError(broken_rule("rate", f"give {min_queries} queries within {MOST_SECONDS:g} s", rate))
    return math.ceil(expected)
