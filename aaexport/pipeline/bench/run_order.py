"""What the parent orders a worker to run, and how the worker marks the lines that it writes on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aaexport.load.measurement import Load

PROGRESS_MARK = '{"progress":'


@dataclass(frozen=True)
class RunOrder:
    """One run of a scenario.

    Attributes:
        load: what to bear.
        duration: seconds of counted queries.
        warmup: seconds of uncounted queries before.
        min_queries: counted queries at the least, however long they take,
        max_duration: but never more seconds than this.
        clients: of a closed loop, each with one query under way.
        total_samples: of an offline query.
        trace: file of times to replay, instead of those that `load` says.
        lasts: seconds of its schedule, as far as can be known; 0 for a closed loop.
        answer_patience: seconds after which an answer is given up.
        shares_batches: whether queries go through the dynamic batching.
        warm_sizes: batch sizes that every session runs once before, because it may be slow the first time.
    """

    load: Load
    duration: float
    warmup: float
    min_queries: int = 1
    max_duration: float = 60.0
    clients: int = 1
    total_samples: int = 0
    trace: str | None = None
    lasts: float = 0.0
    answer_patience: float = 10.0
    shares_batches: bool = False
    warm_sizes: tuple[int, ...] = ()

    @classmethod
    def read(cls, value: dict[str, Any]) -> RunOrder:
        """From JSON."""
        return cls(**value | {"load": Load(**value["load"])})

    @property
    def patience(self) -> float:
        """Seconds after which the run has surely ended."""
        return self.warmup + 2 * max(self.lasts, self.max_duration) + 4 * self.answer_patience
