"""Latencies → what MLPerf Inference's rules let one say of them: how long is enough, and is a latency bound kept.

The rules: github.com/mlcommons/inference_policies, inference_rules.adoc, "Scenarios" and the appendix "Early Stopping
Criterion"; their percentiles and minimums in numbers: loadgen/mlperf.conf of github.com/mlcommons/inference.
"""

from __future__ import annotations

import math

import numpy as np

from aaexport.binomial import binomial_cdf
from aaexport.load.lengths import CONFIDENCE
from aaexport.load.statistics import Milliseconds


def most_over(queries: int, percentile: float) -> int | None:
    """How many of `queries` may exceed a bound, if the percentile is to keep it with 99 % confidence.

    The most, t, that a system would show with at most 1 % probability whose percentile only just misses the bound:
    F(t; n, 1 − p) ≤ 0.01, F being the binomial distribution. None if even none over would not do.
    """
    share = 1 - percentile / 100
    likely = binomial_cdf(np.arange(math.ceil(queries * share) + 1), queries, share)
    allowed = int(np.count_nonzero(likely <= 1 - CONFIDENCE)) - 1
    return allowed if allowed >= 0 else None


def queries_required(over: int, percentile: float) -> int:
    """The fewest queries of which `over` may exceed a bound: 459 for p99 with none over, 662 with one."""
    too_few, enough = 0, 1
    while not _may_exceed(over, enough, percentile):
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if _may_exceed(over, middle, percentile) else (middle, enough)
    return enough


def percentile_estimate(latencies: Milliseconds, percentile: float) -> float | None:
    """The early-stopping estimate of single-stream and multi-stream: a bound that the percentile surely keeps.

    Of the t latencies that may exceed a bound, the t − 1 highest are left out and the highest of the rest is told:
    above the true percentile with at least 99 % confidence. None where t is below 1: fewer than 64 queries for p90,
    or than 662 for p99.
    """
    over = most_over(len(latencies), percentile)
    if not over:
        return None
    rank = len(latencies) - over
    return float(np.partition(latencies, rank)[rank])


def _may_exceed(over: int, queries: int, percentile: float) -> bool:
    allowed = most_over(queries, percentile)
    return allowed is not None and over <= allowed
