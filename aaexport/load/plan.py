"""What is asked of a run, and what it tells while it lasts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aaexport.errors import ArgumentError, broken_rule


@dataclass(frozen=True)
class Plan:
    """How long a run lasts, in seconds, and what is kept of it.

    Attributes:
        duration: of counted queries; open loops last as long as their schedule.
        min_queries: counted queries at the least, however long they take,
        max_duration: but none is sent after so many seconds,
        max_queries: and never more than so many.
        warmup: of uncounted queries before, at least one if it is not 0.
        patience: for one answer; it should be a multiple of what an answer takes, for what is older is given up.
        keep: answers that are kept at the most, of queries chosen by the seed.
        seed: of the samples and of the choice.

    Raises:
        ArgumentError: a time is negative or not finite, or there is no patience.
    """

    duration: float
    min_queries: int = 1
    max_duration: float = 600.0
    max_queries: int = 5_000_000
    warmup: float = 0.0
    patience: float = 10.0
    keep: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("duration", "max_duration", "warmup", "patience"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0) or (name == "patience" and value == 0):
                rule = "be a positive number of seconds" if name == "patience" else "be 0 or more seconds"
                raise ArgumentError(broken_rule(name, rule, value))


@dataclass(frozen=True)
class Progress:
    """How far a run is: answered queries, and percentiles in milliseconds of the last 2,000; None if too few."""

    queries: int
    seconds: float
    p50: float | None
    p99: float | None
    is_warmup: bool
