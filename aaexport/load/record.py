"""Queries and answers as they come and go → the log of a run, and what the system did that it must not."""

from __future__ import annotations

import math
import random
import threading
from array import array
from collections import Counter, deque
from typing import Any

import numpy as np

from aaexport.errors import first_line
from aaexport.load.clock import Clock
from aaexport.load.run import UNANSWERED, Nanoseconds, QueryLog, Trouble
from aaexport.load.system import Query

_FAILED = -2  # ended without an answer
_MOST_TEXTS = 20  # of errors: one that names its query would make as many as there are queries
_RECENT = 2000


class Record:
    """What happened to each query of one phase, by its number. Answers may come from any thread, and be wrong.

    Attributes:
        began, first, latest: when the phase began, the first query was sent, and the last answer came.
        outstanding: queries that were sent and are not ended.
        settled: is set when no more are outstanding than are awaited.
        failures_in_a_row: queries that failed since the last answer.
        keep: the answers that are kept.
        recent: latencies of the last answers in nanoseconds; None if nobody looks at them.
    """

    def __init__(self, clock: Clock, keep: Kept, *, with_recent: bool = False) -> None:
        self._now = clock.now
        self._lock = threading.Lock()
        self._closed = False
        self._scheduled, self._issued, self._completed = array("q"), array("q"), array("q")
        self._samples = array("i")
        self.keep = keep
        self._errors: Counter[str] = Counter()
        self._doubled: set[int] = set()
        self._unknown = 0
        self._awaited = -1
        self._oldest = 0
        self.began = self.first = self.latest = clock.now()
        self.outstanding = 0
        self.settled = threading.Event()
        self.failures_in_a_row = 0
        self.recent: deque[int] | None = deque(maxlen=_RECENT) if with_recent else None

    def __len__(self) -> int:
        return len(self._issued)

    def begin(self) -> None:
        """The clock of the log starts."""
        self.began = self._now()

    def issue(self, query: Query, due: int | None) -> None:
        """Notes that the next query is sent now; it counts from when it was due, in a closed loop from now."""
        with self._lock:
            if query.number == self.keep.next:
                self.keep.choose(query)
            self.outstanding += 1
            self._completed.append(UNANSWERED)
        self._samples.append(len(query.samples))
        now = self._now()  # last of all: what this note takes is not the system's
        if not self._scheduled:
            self.first = now
        self._scheduled.append(now if due is None else due)
        self._issued.append(now)

    def answered(self, number: int, answer: Any) -> None:
        """The first answer to a query counts; what comes after the end is ignored."""
        now = self._now()
        with self._lock:
            if not self._is_open(number):
                return
            self._completed[number] = self.latest = now
            self.failures_in_a_row = 0
            if number in self.keep.queries:
                self.keep.answers[number] = answer
            if self.recent is not None:
                self.recent.append(now - self._scheduled[number])
            self._settle()

    def hold(self, number: int) -> None:
        """Copies an answer that was kept where the next query would overwrite it: one that has `copied` says so.

        To be called when the answer has its time, and before the next query.
        """
        answer = self.keep.answers.get(number)
        copied = getattr(answer, "copied", None)
        if copied is not None:
            self.keep.answers[number] = copied()

    def failed(self, number: int, error: BaseException) -> None:
        """A query that the system raised for; it is not lost."""
        text = f"{type(error).__name__}: {first_line(error)}"
        with self._lock:
            if not self._is_open(number):
                return
            self._completed[number] = _FAILED
            self.failures_in_a_row += 1
            self._errors[text if text in self._errors or len(self._errors) < _MOST_TEXTS else "other errors"] += 1
            self._settle()

    def is_settled(self, most: int) -> bool:
        """Whether at most so many queries are outstanding; if not, `settled` will be set when it is so."""
        with self._lock:
            self._awaited = most
            if self.outstanding > most:
                self.settled.clear()
            return self.outstanding <= most

    def oldest(self) -> int | None:
        """When the oldest outstanding query was due."""
        while self._oldest < len(self) and self._completed[self._oldest] != UNANSWERED:
            self._oldest += 1
        return self._scheduled[self._oldest] if self._oldest < len(self) else None

    def close(self) -> None:
        """Nothing counts from now on, so that log, trouble and kept answers agree."""
        with self._lock:
            self._closed = True

    def lost(self, now: int, patience: int) -> int:
        """How many queries will have no answer: one sent much later has its own, or none have come for long.

        What waits its turn in a queue is not lost. Much and long are half the patience.
        """
        issued, completed = self._column(self._issued), self._column(self._completed)
        waiting, answered = completed == UNANSWERED, completed >= 0
        if not waiting.any():
            return 0
        last_sign = completed[answered].max() if answered.any() else issued[0]
        if last_sign <= now - patience // 2:
            return int(waiting.sum())
        overtaken = issued < issued[answered].max(initial=issued[0]) - patience // 2
        return int((waiting & overtaken).sum())

    def trouble(self, patience: int) -> Trouble:
        """What the system did that it must not, as far as answers tell."""
        return Trouble(dict(self._errors), self.lost(self._now(), patience), len(self._doubled), self._unknown)

    def log(self) -> QueryLog:
        """Every query that was sent, with times since the record was begun."""
        completed = self._column(self._completed)
        return QueryLog(
            scheduled=self._column(self._scheduled) - self.began,
            issued=self._column(self._issued) - self.began,
            completed=np.where(completed >= 0, completed - self.began, UNANSWERED),
            samples=np.asarray(self._samples[: len(self)], np.int32),
        )

    def _column(self, times: array[int]) -> Nanoseconds:
        return np.asarray(times[: len(self)], np.int64)  # a copy: what is shared could not grow meanwhile

    def _is_open(self, number: int) -> bool:
        if self._closed:
            return False
        if not (isinstance(number, int) and 0 <= number < len(self._issued)):
            self._unknown += 1
            return False
        if self._completed[number] != UNANSWERED:
            self._doubled.add(number)
            return False
        return True

    def _settle(self) -> None:
        self.outstanding -= 1
        if self.outstanding <= self._awaited:
            self.settled.set()


class Kept:
    """The answers of at most `size` queries, a uniform choice of all there will be.

    Which is decided when a query is sent, and by its number alone, so that neither speed nor order of answers has
    a say: reservoir sampling that draws how many to skip (Li 1994, "Reservoir-sampling algorithms of time
    complexity O(n(1 + log(N/n)))", algorithm L).

    Attributes:
        next: number of the next query to be chosen.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._random = random.Random(seed)
        self._weight = 1.0
        self.next = 0 if size else -1
        self.queries: dict[int, Query] = {}
        self.answers: dict[int, Any] = {}

    def choose(self, query: Query) -> None:
        """Takes a query, for another where the choice is full already."""
        if len(self.queries) == self._size:
            evicted = self._random.choice([*self.queries])
            del self.queries[evicted]
            self.answers.pop(evicted, None)
        self.queries[query.number] = query
        self.next += 1
        if len(self.queries) == self._size:
            self._weight *= math.exp(math.log(self._uniform()) / self._size)
            self.next += math.floor(math.log(self._uniform()) / math.log1p(-self._weight))

    def result(self) -> tuple[tuple[tuple[int, ...], Any], ...]:
        """The samples and the answer of each chosen query that was answered."""
        chosen = sorted(self.queries.items())
        return tuple((query.samples, self.answers[number]) for number, query in chosen if number in self.answers)

    def _uniform(self) -> float:
        return 1 - self._random.random()  # above 0, at most 1
