"""What one run of a scenario leaves: when each query was scheduled, sent and answered, and what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aaexport.load.statistics import Milliseconds

Nanoseconds = npt.NDArray[np.int64]
UNANSWERED = -1


@dataclass(frozen=True, eq=False)
class QueryLog:
    """Times of every counted query, in the order of their schedule, in nanoseconds since the run began.

    Attributes:
        scheduled: when it was due. A closed loop has no schedule: there it is when the query was sent.
        issued: when it was handed to the system under test.
        completed: when its answer came; `UNANSWERED` if none did.
        samples: how many images a query had.
        apart: whether something was done between two queries that is no part of what is measured; one came at a time.
    """

    scheduled: Nanoseconds
    issued: Nanoseconds
    completed: Nanoseconds
    samples: npt.NDArray[np.int32]
    apart: bool = False

    @classmethod
    def empty(cls) -> QueryLog:
        """Of no queries."""
        nothing = np.empty(0, np.int64)
        return cls(nothing, nothing, nothing, np.empty(0, np.int32))

    def __len__(self) -> int:
        return len(self.scheduled)

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """Which queries have an answer."""
        return np.not_equal(self.completed, UNANSWERED)

    @property
    def latencies(self) -> Milliseconds:
        """Of the answered queries, from the moment they were due (MLPerf): waiting counts."""
        return (self.completed - self.scheduled)[self.answered] / 1e6

    @property
    def issue_delays(self) -> Milliseconds:
        """How much later than due each query was sent: what the measuring itself, or a busy machine, took."""
        return (self.issued - self.scheduled) / 1e6

    @property
    def lasted(self) -> float:
        """Seconds from the first query's schedule to the last answer."""
        done = self.completed[self.answered]
        return float(done.max() - self.scheduled[0]) / 1e9 if done.size else 0.0

    @property
    def seconds(self) -> float:
        """As `lasted`; without what lay between two queries, where that was something else."""
        return float(self.latencies.sum()) / 1e3 if self.apart else self.lasted

    @property
    def throughput(self) -> float:
        """Answered images a second."""
        return float(self.samples[self.answered].sum()) / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Trouble:
    """What a system under test did that none may: any of it makes a measurement invalid.

    `errors` are different texts of what it raised, with how many queries each ended; `lost` queries have no answer,
    `doubled` more than one, and `unknown` answers are to no query. `hung`: it had not returned from a query when the
    run was given up.
    """

    errors: Mapping[str, int] = field(default_factory=dict)
    lost: int = 0
    doubled: int = 0
    unknown: int = 0
    hung: bool = False

    def __bool__(self) -> bool:
        return bool(self.errors or self.lost or self.doubled or self.unknown or self.hung)

    def __add__(self, other: Trouble) -> Trouble:
        texts = dict.fromkeys((*self.errors, *other.errors))
        return Trouble(
            {text: self.errors.get(text, 0) + other.errors.get(text, 0) for text in texts},
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.unknown + other.unknown,
            self.hung or other.hung,
        )


@dataclass(frozen=True, eq=False)
class Run:
    """One run. `kept` are the answers of the queries that were chosen to be checked, with the samples asked for.

    `began` is when its log begins, by the clock of the run. `aborted` says why it ended before its plan:
    `interrupted`, or what was given up; None if it did not.
    """

    log: QueryLog
    trouble: Trouble = field(default_factory=Trouble)
    aborted: str | None = None
    kept: tuple[tuple[tuple[int, ...], Any], ...] = ()
    began: int = 0
