"""The single-stream scenario (MLPerf): one query at a time, the next as soon as the last is answered.

The bare loop for blocks of one contender after another: in the caller's thread, and what a query raises ends it.
`engine.LoadGenerator` measures what may misbehave.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Nanoseconds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BlockPlan:
    """How long one uninterrupted block of queries lasts.

    Attributes:
        warmup: seconds of queries before the clock counts, at least one query.
        duration: seconds of counted queries.
        min_queries: counted queries at the least, however long they take,
        max_duration: but never more seconds than this.
    """

    warmup: float
    duration: float
    min_queries: int
    max_duration: float


def run_block(
    query: Callable[[int], None], plan: BlockPlan, between: Callable[[], None] = lambda: None
) -> Nanoseconds:
    """Calls `query(0)`, `query(1)`, … and returns the counted latencies in nanoseconds.

    A closed loop has no schedule to fall behind: a query counts from the moment it is sent. What is done `between`
    two of them is in none.
    """
    number = 0
    began = time.perf_counter()
    while number == 0 or time.perf_counter() - began < plan.warmup:
        query(number)
        between()
        number += 1
    latencies: list[int] = []
    counted = 0
    began = time.perf_counter()
    while not _done(len(latencies), counted / 1e9, time.perf_counter() - began, plan):
        sent = time.perf_counter_ns()
        query(number)
        latencies.append(time.perf_counter_ns() - sent)
        counted += latencies[-1]
        between()
        number += 1
    return np.asarray(latencies, np.int64)


def _done(queries: int, counted: float, passed: float, plan: BlockPlan) -> bool:
    enough = queries >= plan.min_queries and counted >= plan.duration
    return queries > 0 and (enough or passed >= plan.max_duration)
