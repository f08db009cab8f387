"""Latencies of several launches of each number of threads → the number that is fast and steady.

A process keeps for its life what it was given when it began: which processors its threads run on, and which memory.
So one process may tell a latency to a thousandth that the next one has twice over, and no interval of its own shows
it. Launches show it, and they take turns, so that a slow minute of the machine is every setting's.

What a setting is worth is its slowest launch: a deployed process is one of them, and nobody knows which. Of those
whose slowest launch is within a tenth of the best, the one with the fewest threads is taken, because what a gain of
less is worth another process can use the processor for, and a gain that comes and goes is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aaexport.load.statistics import Milliseconds, percentiles, spread, typical

WORTH_MORE_THREADS = 1.10  # times as fast as with fewer
STEADY = 0.10  # perf_analyzer calls a run stable when its windows agree within 10 %
MEDIAN = (50.0,)


@dataclass(frozen=True, eq=False)
class ThreadSetting:
    """One number of threads, and the raw latencies of every process that was launched with it.

    `threads` is None for the runtime's default. Latencies are in milliseconds, in the order in which they came.
    """

    threads: int | None
    launches: tuple[Milliseconds, ...]

    @property
    def medians(self) -> tuple[float, ...]:
        """Of each launch."""
        return tuple(typical([latencies]) for latencies in self.launches)

    @property
    def p50(self) -> float:
        """The median of the launches' medians."""
        return typical(self.launches)

    @property
    def slowest(self) -> float:
        """The median of the slowest launch."""
        return max(self.medians)

    @property
    def apart(self) -> float:
        """How far the launches' medians lie apart, as a share of `p50`."""
        return spread(self.launches)

    @property
    def within(self) -> float | None:
        """The 95 % interval of a launch's own median, as a share of it, in the median launch; None if withheld."""
        found = [percentiles(latencies, MEDIAN)[0] for latencies in self.launches]
        widths = [(one.high - one.low) / one.value for one in found if one.value and one.low and one.high]
        return float(np.median(widths)) if widths else None

    @property
    def steady(self) -> bool:
        """Whether a next launch can be expected to be as fast."""
        return self.apart <= STEADY


@dataclass(frozen=True, eq=False)
class Launches:
    """Every setting that was launched, in the order of its threads.

    Attributes:
        settings: one for each number of threads, with as many launches as the others.
        batch: images a query.
        named: the setting that is fast and steady, or the least unsteady where none is; None if it is withheld.
        withheld: why none is named: something else than the settings decided the times.
    """

    settings: tuple[ThreadSetting, ...]
    batch: int
    named: ThreadSetting | None
    withheld: str | None = None

    @property
    def count(self) -> int:
        """Launches of each setting."""
        return len(self.settings[0].launches)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the spread between launches says of every figure that comes from a single process."""
        if self.withheld is not None or self.named is None or self.named.steady:
            return ()
        remedy = "measure more --launches on a quiet machine"
        if len(self.settings) == 1:
            remedy = f"compare settings with --threads 1,2,…, or {remedy}"
        low, high = min(self.named.medians), self.named.slowest
        return (
            f"{called(self.named.threads)}: p50 is {low:.3g} ms in one launch and {high:.3g} ms in another, and the "
            f"interval of one process shows nothing of it; {remedy}",
        )

    def of(self, threads: int | None) -> tuple[Milliseconds, ...]:
        """The launches with so many threads; () if there was none."""
        return next((setting.launches for setting in self.settings if setting.threads == threads), ())


def settle_threads(
    launches: Mapping[int | None, Sequence[Milliseconds]], batch: int, withheld: str | None = None
) -> Launches:
    """Which setting to take.

    Args:
        launches: raw latencies of every launch, by the number of threads; None is the runtime's default, which is
            taken for the most threads.
        batch: images a query.
        withheld: why none is to be named: others had the CPU.
    """
    in_order = sorted(launches, key=lambda threads: float("inf") if threads is None else threads)
    settings = tuple(ThreadSetting(threads, tuple(launches[threads])) for threads in in_order)
    if withheld is not None:
        return Launches(settings, batch, None, withheld)
    best = min(setting.slowest for setting in settings)
    named = next(setting for setting in settings if setting.slowest <= WORTH_MORE_THREADS * best)
    return Launches(settings, batch, named)


def called(threads: int | None) -> str:
    """`1 thread`, `2 threads`, `default threads`."""
    return "default threads" if threads is None else f"{threads} thread{'s' if threads > 1 else ''}"
