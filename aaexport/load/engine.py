"""A system under test and a scenario (MLPerf's, or a closed loop of several clients) → what it answered when.

A run never hangs: queries are sent from a thread of its own, and whatever the system does, the run ends when its
patience does.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import replace

from aaexport.errors import ArgumentError, broken_rule
from aaexport.load.clock import SECOND, Clock, RealClock
from aaexport.load.course import INTERRUPTED, Course, Scenario
from aaexport.load.phase import Phase
from aaexport.load.plan import Plan, Progress
from aaexport.load.run import Nanoseconds, Run
from aaexport.load.system import SystemUnderTest

_TICK = 0.1  # seconds between two looks at a running phase
_TICKS_PER_PROGRESS = 5
_GRACE = 2.0  # seconds that an interrupted run waits for the answer it is in


class LoadGenerator:
    """Runs scenarios, each on its own; systems that raise, hang or answer wrongly end in `Run.trouble`.

    `samples` is how many there are to ask about. Setting `abort`, or Ctrl-C, ends a run with what was measured.
    `progress` is called about twice a second, from the thread that called the scenario. After a run that hung the
    system still holds a thread: it should not be used again.

    Every scenario raises an ArgumentError where there are no samples, none in a query, or no client.
    """

    def __init__(
        self,
        system: SystemUnderTest,
        samples: int,
        plan: Plan,
        *,
        clock: Clock | None = None,
        abort: threading.Event | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._system = system
        self._samples = samples
        self._plan = plan
        self._clock = clock or RealClock()
        self._abort = abort or threading.Event()
        self._progress = progress

    def single_stream(self) -> Run:
        """One query of one sample at a time, the next as soon as the last is answered."""
        return self.closed_loop()

    def multi_stream(self, samples_per_query: int) -> Run:
        """One query of several samples at a time, the next as soon as the last is answered."""
        return self.closed_loop(samples_per_query)

    def closed_loop(self, samples_per_query: int = 1, concurrency: int = 1) -> Run:
        """As many clients, each with one query at a time.

        A system that answers before `issue` returns has one client only; `BatchingServer` lets it answer later.
        """
        send = _closed_loop(self._plan, self._clock, concurrency)
        return self._run(send, samples_per_query, concurrency)

    def offline(self, samples_per_query: int, warmup_samples: int = 1) -> Run:
        """All samples in one query, which has `max_duration` and the patience after it."""

        def send(phase: Phase) -> None:
            phase.issue()
            phase.await_answers()

        patience = self._plan.max_duration + self._plan.patience
        return self._run(send, samples_per_query, warmup_samples=warmup_samples, patience=patience)

    def server(self, schedule: Nanoseconds, samples_per_query: int = 1, warmup_concurrency: int = 1) -> Run:
        """An open loop: every query is sent when it is due, whether or not those before are answered."""

        def send(phase: Phase) -> None:
            for offset in schedule:
                due = phase.record.began + int(offset)
                phase.await_moment(due)
                phase.issue(due)
            phase.await_answers()

        return self._run(send, samples_per_query, warmup_concurrency)

    def _run(
        self,
        send: Callable[[Phase], None],
        samples: int,
        concurrency: int = 1,
        *,
        warmup_samples: int | None = None,
        patience: float | None = None,
    ) -> Run:
        plan = self._plan
        for name, value in (("samples", self._samples), ("samples_per_query", samples), ("concurrency", concurrency)):
            if value < 1:
                raise ArgumentError(broken_rule(name, "be at least 1", value))
        warmup = replace(plan, duration=plan.warmup, max_duration=plan.warmup, min_queries=1)
        scenario = Scenario(
            send=send,
            warm_up=_closed_loop(warmup, self._clock, concurrency),
            samples=samples,
            warmup_samples=warmup_samples or samples,
            patience=patience or plan.patience,
        )
        return self._conduct(
            Course(self._system, self._samples, plan, scenario, self._clock, self._progress is not None)
        )

    def _conduct(self, course: Course) -> Run:
        sending = self._clock.start(course.send)
        try:
            finished = self._watch(course, sending)
        except BaseException:
            course.stop(INTERRUPTED)
            raise
        if finished:
            sending.result()  # raises what is wrong with the engine itself
        return course.result(left_behind=not finished)

    def _watch(self, course: Course, sending: Future[None]) -> bool:
        """Whether all was sent and answered; if not, it was given up with the sending thread still in the system."""
        ticks_since_stop = 0
        for tick in itertools.count(1):
            try:
                if wait([sending], timeout=_TICK).done:
                    return True
                if self._abort.is_set():
                    course.stop(INTERRUPTED)
                ticks_since_stop += bool(course.stopped)
                if course.is_hung(_TICK) or ticks_since_stop * _TICK > _GRACE:
                    return False
                if self._progress and tick % _TICKS_PER_PROGRESS == 0:
                    self._progress(course.progress())
            except KeyboardInterrupt:
                if course.stopped:
                    return False  # asked twice: not even the grace
                course.stop(INTERRUPTED)
        raise AssertionError("counting never ends")


def _closed_loop(plan: Plan, clock: Clock, concurrency: int) -> Callable[[Phase], None]:
    """Sends a query as soon as fewer than `concurrency` are outstanding, for as long as planned."""
    enough, most = round(plan.duration * SECOND), round(plan.max_duration * SECOND)

    def send(phase: Phase) -> None:
        record = phase.record
        for number in range(plan.max_queries):
            # Until the last answer: what passes between it and this line is not of the queries.
            is_enough = record.latest - record.first >= enough and number >= plan.min_queries
            if number and (is_enough or clock.now() - record.began >= most):
                break
            phase.issue()
            phase.await_answers(concurrency - 1)
        phase.await_answers()

    return send
