"""Uncounted blocks of a contender until its medians, and the clock of the GPU, stand still: only then does it count.

A GPU that was at rest raises its clocks for a while, warms, and lowers them again: a fixed warm-up is too short for
one network and too long for another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aaexport.load.gpu_watch import GpuWatch
from aaexport.load.single_stream import BlockPlan
from aaexport.load.statistics import Milliseconds

BLOCK = BlockPlan(warmup=0.0, duration=0.3, min_queries=5, max_duration=3.0)
ALIKE = 3  # blocks in a row
STILL = 0.02  # how far their medians, and the clocks, may lie apart

Run = Callable[[BlockPlan], Milliseconds]


@dataclass(frozen=True)
class Settled:
    """What came of it: whether all stands still, after how many seconds."""

    still: bool
    seconds: float


def settle(run: Run, watch: GpuWatch, most: float, clock: Callable[[], float] = time.monotonic) -> Settled:
    """Blocks for at most so many seconds."""
    began = clock()
    medians: list[float] = []
    clocks: list[float] = []
    while (passed := clock() - began) < most:
        with watch.period(counts=False):
            latencies = run(BLOCK)
        medians.append(float(np.median(latencies)))
        load = watch.load([watch.last_period])
        if load is not None and load.sm_clock is not None:
            clocks.append(load.sm_clock)
        if stands_still(medians) and (not clocks or stands_still(clocks)):
            return Settled(True, clock() - began)
    return Settled(False, passed)


def stands_still(values: Sequence[float]) -> bool:
    """Whether the last few are alike."""
    last = values[-ALIKE:]
    return len(last) == ALIKE and max(last) - min(last) <= STILL * max(last)
