"""What was asked for × a load → the orders of single runs, each with time enough for what it is to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aaexport.device import parse_device
from aaexport.load.arrivals import trace
from aaexport.load.measurement import Load
from aaexport.pipeline.bench.options import BenchOptions
from aaexport.pipeline.bench.run_order import RunOrder

BLOCKS = 10  # so many that a slowdown of 10 % is told from the noise between blocks (`aaexport.load.regression`)
LEAST_IN_A_BLOCK = 7  # queries, for a median
PATIENCE = 10  # a block may last this many times longer than planned to reach its queries
LEAST_PATIENCE = 10.0  # seconds for an answer
SLOW_ANSWER = 20  # first queries
QUEUED_BATCHES = 3
SCHEDULE_MARGIN = 1.5  # Poisson arrivals may take longer than they should
SEEDS_APART = 1000


class Orders:
    """The orders of one measurement.

    Args:
        options: what was asked for.
        fixed_batch: images a query, of a file that fixes them.
        first_query: seconds that the first query of the contender that is measured took, asked when an order is made.
    """

    def __init__(self, options: BenchOptions, fixed_batch: int | None, first_query: Callable[[], float]) -> None:
        self._options, self._fixed, self._first_query = options, fixed_batch, first_query

    def of(self, load: Load, duration: float, least: int, block: int = 0, **given: Any) -> RunOrder:
        """Of a block that lasts so many seconds and has at least so many queries; each has a seed of its own."""
        longest = max(duration, 1.0) * PATIENCE
        # Of the first query, which is slow itself; a queue of several whole batches may be before a query.
        images = max(SLOW_ANSWER * min(load.samples_per_query, load.max_batch), QUEUED_BATCHES * load.max_batch)
        patience = max(LEAST_PATIENCE, images * self._first_query())
        load = replace(load, seed=load.seed * SEEDS_APART + block)
        more: dict[str, Any] = {
            "answer_patience": patience,
            "warm_sizes": self._sizes_to_warm(load.max_batch),
            **given,
        }
        return RunOrder(load, duration, self._options.warmup, least, longest, **more)

    def closed_loop(self, load: Load, block: int) -> RunOrder:
        """One of the `BLOCKS` in which contenders take turns."""
        least = -(-self._options.least_queries // BLOCKS)
        return self.of(load, self._options.seconds / BLOCKS, least, block)

    def server(self, load: Load, duration: float, least: int, block: int = 0, **more: Any) -> RunOrder:
        """Queries that come when they come: by the load's rate, or as a trace says."""
        path = self._options.trace
        if path is not None:
            lasts = float(trace(path)[-1]) / 1e9
        else:
            assert load.rate is not None
            lasts = SCHEDULE_MARGIN * max(duration, least / load.rate)
        more = {"trace": None if path is None else str(path), "lasts": lasts, "shares_batches": True, **more}
        return self.of(load, duration, least, block, **more)

    def _sizes_to_warm(self, most: int) -> tuple[int, ...]:
        """Batch sizes that may come: on CUDA the first run of each searches for algorithms, and records its graph."""
        on_cuda = parse_device(self._options.device or "cpu")[0] == "cuda"
        if not on_cuda or self._fixed is not None:
            return (self._fixed or most,)
        recorded = self._options.session.get("graph_sizes") or ()  # others are filled up to one of these, if there is
        return (*sorted(recorded), *range(max(recorded, default=0) + 1, most + 1))


def warm_up_apart(order: RunOrder) -> tuple[RunOrder, RunOrder]:
    """The warm-up of an order, one query after the other, and the order without it."""
    load = replace(order.load, scenario="single-stream", arrivals=None, rate=None)
    if order.load.scenario == "offline":
        load = replace(load, samples_per_query=load.max_batch)
    ahead = replace(order, load=load, duration=order.warmup, warmup=0.0, min_queries=1, trace=None, lasts=0.0)
    return ahead, replace(order, warmup=0.0)
