"""BenchReport → the figures and series that its formats share, each derived from the raw times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aaexport.load.measurement import BenchReport
from aaexport.load.statistics import Milliseconds


def seconds(report: BenchReport) -> float:
    """That the blocks took.

    An open loop takes at least what so many queries take at its rate: what passes before the first arrival and after
    the last belongs to it, and without that a few queries would seem to be answered faster than they came.
    """
    taken, queries = sum(block.seconds for block in report.blocks), sum(map(len, report.blocks))
    return max(taken, queries / report.load.rate) if taken and report.load.rate else taken


def images_per_second(report: BenchReport) -> float:
    """Answered images by the time that the blocks took; 0 without answers."""
    taken = seconds(report)
    return sum(int(block.samples[block.answered].sum()) for block in report.blocks) / taken if taken else 0.0


def unanswered(report: BenchReport) -> int:
    """Queries without an answer."""
    return sum(len(block) - int(block.answered.sum()) for block in report.blocks)


def issue_delays(report: BenchReport) -> Milliseconds:
    """Of all queries."""
    return np.concatenate([block.issue_delays for block in report.blocks]) if report.blocks else np.empty(0)


@dataclass(frozen=True, eq=False)
class Series:
    """Latencies of all answered queries in the order of their schedule.

    Attributes:
        seconds: when each was due, the blocks laid end to end.
        latencies: in milliseconds.
        starts: where each block after the first begins, in seconds.
        end: where the last one ends.
    """

    seconds: npt.NDArray[np.float64]
    latencies: Milliseconds
    starts: tuple[float, ...]
    end: float

    def thinned(self, buckets: int) -> Series:
        """At most three queries for each of so many equal spans: the fastest, the slowest and one at the median.

        A single stall among millions of queries stays: it is the slowest of its span.
        """
        if len(self.seconds) <= 3 * buckets:
            return self
        span = np.minimum(self.seconds / self.end * buckets, buckets - 1).astype(np.int64)
        order = np.lexsort((self.latencies, span))
        edges = np.searchsorted(span[order], np.arange(buckets + 1))
        first, last = edges[:-1], edges[1:] - 1
        filled = last >= first
        kept = np.unique(order[np.concatenate([first, (first + last) // 2, last])[np.tile(filled, 3)]])
        return Series(self.seconds[kept], self.latencies[kept], self.starts, self.end)

    def windows(self, count: int) -> list[tuple[float, float, Milliseconds]]:
        """(beginning, end, latencies) of so many equal spans of time; those without queries are left out."""
        edges = np.linspace(0, self.end, count + 1)
        span = np.minimum(np.searchsorted(edges, self.seconds, side="right") - 1, count - 1)
        found = ((edges[n], edges[n + 1], self.latencies[span == n]) for n in range(count))
        return [(float(begin), float(end), inside) for begin, end, inside in found if inside.size]


def series(report: BenchReport) -> Series | None:
    """None if no query was answered."""
    seconds, latencies, starts, end = [], [], [], 0.0
    for block in report.blocks:
        if not block.answered.any():
            continue
        order = np.argsort(block.scheduled[block.answered], kind="stable")
        begun = (block.scheduled - block.scheduled.min())[block.answered] / 1e9
        starts.append(end)
        seconds.append(begun[order] + end)
        latencies.append(block.latencies[order])
        end += max(block.lasted, float(begun.max()))
    if not seconds:
        return None
    # A span of no length cannot be drawn.
    return Series(np.concatenate(seconds), np.concatenate(latencies), tuple(starts[1:]), max(end, 1e-9))
