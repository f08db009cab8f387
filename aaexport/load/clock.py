"""Time for the load engine: the machine's own, or one that jumps from event to event, for simulations and tests."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from aaexport.load.threads import Starts, fulfil, in_new_thread

SECOND = 1_000_000_000
# Linux may wake a sleeper so much later than asked (prctl(2), PR_SET_TIMERSLACK): sleep less, and look at the clock
# for the rest.
_TIMER_SLACK = 50_000


class Clock(Protocol):
    """What the engine needs of time. Moments are nanoseconds since some beginning."""

    def now(self) -> int:
        """This moment."""
        ...

    def wait(self, until: int, signal: threading.Event) -> None:
        """Returns at `until`, or as soon as `signal` is set."""
        ...

    def start(self, target: Callable[[], None]) -> Future[None]:
        """Runs `target`; the future ends with it, or with what it raised."""
        ...


class RealClock:
    """The machine's monotonic clock; what it starts runs in a thread of its own, or where `begin` has it done."""

    now = staticmethod(time.perf_counter_ns)

    def __init__(self, begin: Starts = in_new_thread) -> None:
        self._begin = begin

    def wait(self, until: int, signal: threading.Event) -> None:
        """Sleeps, and burns at most the last 50 µs, in which other threads of Python have their turn."""
        while (left := until - time.perf_counter_ns()) > 0 and not signal.is_set():
            if left > _TIMER_SLACK:
                signal.wait((left - _TIMER_SLACK) / SECOND)
            else:
                time.sleep(0)

    def start(self, target: Callable[[], None]) -> Future[None]:
        """In a thread of its own, unless another is meant for it."""
        return self._begin(target)


class VirtualClock:
    """Stands still while anything computes, and jumps to the next event when everybody waits. For one thread."""

    def __init__(self) -> None:
        self._now = 0
        self._order = itertools.count()  # events of one moment happen in the order in which they were planned
        self._events: list[tuple[int, int, Callable[[], None]]] = []

    def now(self) -> int:
        """Nanoseconds since the clock was made."""
        return self._now

    def at(self, moment: int, action: Callable[[], None]) -> None:
        """Plans an event."""
        heapq.heappush(self._events, (moment, next(self._order), action))

    def wait(self, until: int, signal: threading.Event | None = None) -> None:
        """Lets all events until then happen, one after another, unless one of them sets `signal`."""
        while not (signal and signal.is_set()):
            if not self._events or self._events[0][0] > until:
                self._now = max(self._now, until)
                return
            moment, _, action = heapq.heappop(self._events)
            self._now = max(self._now, moment)
            action()

    def start(self, target: Callable[[], None]) -> Future[None]:
        """At once, to its end."""
        future: Future[None] = Future()
        fulfil(future, target)
        return future
