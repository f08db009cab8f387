"""Queries sent one by one, with patience: what every scenario does, and how it ends when the system does not."""

from __future__ import annotations

from collections.abc import Iterator

from aaexport.load.clock import SECOND, Clock
from aaexport.load.record import Record
from aaexport.load.system import FAILURES, Query, SystemUnderTest

MOST_FAILURES = 100  # in a row: a system that only raises would be asked millions of times
_NEVER = 1 << 62


class GivenUp(Exception):  # noqa: N818  not an error: the way out of any scenario, with its reason
    """The phase has ended before its plan; the text says why."""


class Phase:
    """The warm-up of a run, or the queries that count. One thread sends; another may `stop` it.

    Attributes:
        inside: number of the query that the system has not yet returned from taking; None if it is in none.
    """

    def __init__(
        self,
        system: SystemUnderTest,
        samples: Iterator[tuple[int, ...]],
        record: Record,
        clock: Clock,
        patience: float,
    ) -> None:
        self._system = system
        self._samples = samples
        self._clock = clock
        self._reason = ""
        self.record = record
        self.patience = round(patience * SECOND)
        self.inside: int | None = None

    def issue(self, due: int | None = None) -> None:
        """Sends the next query, which was due then; it counts from now if it was not due at a certain moment."""
        record = self.record
        query = Query(len(record), next(self._samples))
        self.inside = query.number
        record.issue(query, due)
        try:
            self._system.issue(query, record)
            record.hold(query.number)
        except FAILURES as error:
            record.failed(query.number, error)
        self.inside = None

    def await_moment(self, due: int) -> None:
        """Waits until then.

        Raises:
            GivenUp: stopped meanwhile, or queries have been waiting for longer than there is patience.
        """
        self.record.is_settled(-1)
        while (now := self._clock.now()) < due:
            self._check(now)
            self._clock.wait(min(due, self._deadline()), self.record.settled)
        self._check(now)
        if now - due > self.patience:
            raise GivenUp(f"it did not keep up: queries were sent {(now - due) / SECOND:.1f} s late")

    def await_answers(self, most: int = 0) -> None:
        """Waits until at most so many queries are outstanding.

        Raises:
            GivenUp: as of `await_moment`.
        """
        record = self.record
        if self._reason or record.failures_in_a_row >= MOST_FAILURES:
            self._check(self._clock.now())
        if record.outstanding <= most:
            return
        while not record.is_settled(most):
            now = self._clock.now()
            self._check(now)
            self._clock.wait(self._deadline(), record.settled)
        self._check(self._clock.now())

    def stop(self, reason: str) -> None:
        """Lets the sending thread end as soon as it has control. The first reason counts."""
        self._reason = self._reason or reason
        self.record.settled.set()

    def _check(self, now: int) -> None:
        if self._reason:
            raise GivenUp(self._reason)
        if self.record.failures_in_a_row >= MOST_FAILURES:
            raise GivenUp(f"{MOST_FAILURES} queries in a row failed")
        if now >= self._deadline():
            raise GivenUp(self._why_late(now))

    def _deadline(self) -> int:
        oldest = self.record.oldest()
        return _NEVER if oldest is None else oldest + self.patience

    def _why_late(self, now: int) -> str:
        waited = f"{self.patience / SECOND:g} s"
        if self.record.lost(now, self.patience):
            return f"a query had no answer within {waited}"
        return f"it did not keep up: {self.record.outstanding} queries waited, the oldest for {waited}"
