"""The system under test, as the load engine sees it: queries of samples go in, answers come back (MLPerf's terms)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

# What somebody's code may raise and a measurement must survive; an exit() would end a thread that is not theirs.
FAILURES = (Exception, SystemExit)
_DRAWN_AT_ONCE = 4096


class Query(NamedTuple):
    """A request: its number in the run, and the samples it asks about, by their index in the data set."""

    number: int
    samples: tuple[int, ...]


class Replies(Protocol):
    """Where a system delivers, from any thread, at any time. Neither raises, nor keeps the caller long."""

    def answered(self, number: int, answer: Any) -> None:
        """The answer to a query: it is kept if it was chosen, so nobody may overwrite it later.

        One that stays where the next answer will be has a method `copied`, which is called before the next query.
        """
        ...

    def failed(self, number: int, error: BaseException) -> None:
        """The query has no answer, and will have none."""
        ...


class SystemUnderTest(Protocol):
    """What is measured."""

    def issue(self, query: Query, replies: Replies) -> None:
        """Takes a query: answers it before it returns, or later. What it raises is the query's failure."""
        ...


class Synchronous:
    """A function from samples to their answer; a query is answered when the function returns."""

    def __init__(self, answer: Callable[[tuple[int, ...]], Any]) -> None:
        self._answer = answer

    def issue(self, query: Query, replies: Replies) -> None:
        """Computes the answer here and now."""
        replies.answered(query.number, self._answer(query.samples))


class Flushed:
    """A system that answers before it returns, and does something after each answer that is of no latency."""

    def __init__(self, system: SystemUnderTest, flush: Callable[[], None]) -> None:
        self._system, self._flush = system, flush

    def issue(self, query: Query, replies: Replies) -> None:
        """The next query is sent when that is done."""
        self._system.issue(query, replies)
        self._flush()


def draw_samples(available: int, per_query: int, chance: np.random.Generator) -> Iterator[tuple[int, ...]]:
    """The samples of one query after another, at random with replacement, for ever.

    A query's samples are neighbours, from a multiple of `per_query` on, so that its input can be cut beforehand;
    where more are asked for than there are, they begin again.
    """
    starts = range(0, max(available - per_query + 1, 1), per_query)
    while True:
        for chosen in chance.integers(len(starts), size=_DRAWN_AT_ONCE).tolist():
            start = starts[chosen]
            yield tuple([sample % available for sample in range(start, start + per_query)])
