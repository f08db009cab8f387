"""Queries of few samples → batches for several workers, and their answers → back to the queries: dynamic batching."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

from aaexport.errors import ArgumentError, broken_rule
from aaexport.load.clock import SECOND, Clock, RealClock
from aaexport.load.system import FAILURES, Query, Replies
from aaexport.load.threads import Starts, in_new_thread

Worker = Callable[[list[int]], Sequence[Any]]  # samples → an answer to each; runs in a thread of its own


class BatchQueue:
    """The policy alone, without threads or a clock: who is in the next batch, and when it is due.

    Samples are served in the order in which they came, so a batch takes whatever fits: the samples of one query may
    be spread over several batches, and those of a query larger than `max_batch` are.

    Args:
        max_batch: most samples of a batch.
        max_delay: nanoseconds that a sample may wait for others to share its batch.
    """

    def __init__(self, max_batch: int, max_delay: int) -> None:
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._waiting: deque[_Place] = deque()
        self._delivering = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether there is a whole batch, which waits for nobody."""
        return len(self._waiting) >= self._max_batch

    @property
    def due(self) -> int | None:
        """When the next batch should be run, if a worker is free; None if nothing waits."""
        if not self._waiting:
            return None
        return self._waiting[0].came + (0 if self.is_full else self._max_delay)

    def add(self, query: Query, replies: Replies, now: int) -> None:
        """Takes a query's samples in."""
        request = _Request(query, replies)
        self._waiting.extend(_Place(request, position, now) for position in range(len(query.samples)))

    def take(self) -> Batch:
        """The next batch, full or not."""
        size = min(self._max_batch, len(self._waiting))
        return Batch([self._waiting.popleft() for _ in range(size)], self._delivering)


@dataclass(eq=False, slots=True)
class _Request:
    query: Query
    replies: Replies
    answers: list[Any] = field(default_factory=list)
    missing: int = 0
    has_failed: bool = False

    def __post_init__(self) -> None:
        self.missing = len(self.query.samples)
        self.answers = [None] * self.missing


class _Place(NamedTuple):
    """One sample in the queue."""

    request: _Request
    position: int
    came: int


class Batch:
    """Samples that are run together, and whose they are."""

    def __init__(self, places: list[_Place], delivering: threading.Lock) -> None:
        self._delivering = delivering
        self._places = places
        self.samples = [place.request.query.samples[place.position] for place in places]

    def answer(self, answers: Sequence[Any]) -> None:
        """Gives every sample its answer, and every query that is complete by it the list of its own.

        Raises:
            ValueError: there is not one answer to each sample.
        """
        if len(answers) != len(self._places):
            raise ValueError(broken_rule("a worker's answers", f"be {len(self._places)}", len(answers)))
        complete = []
        with self._delivering:  # another worker may hold the rest of a query
            for place, answer in zip(self._places, answers, strict=True):
                place.request.answers[place.position] = answer
                place.request.missing -= 1
                if place.request.missing == 0:
                    complete.append(place.request)
        for request in complete:
            request.replies.answered(request.query.number, request.answers)

    def fail(self, error: BaseException) -> None:
        """Every query with a sample in here fails: the rest of its answers would be of no use."""
        failed = []
        with self._delivering:
            for place in self._places:
                if not place.request.has_failed:
                    place.request.has_failed = True
                    failed.append(place.request)
        for request in failed:
            request.replies.failed(request.query.number, error)


class BatchingServer:
    """A system under test that runs queries in batches on its workers; each is one thread, all share one queue.

    A query's answer is the list of its samples' answers. Leave the `with` block, or `close`, and the threads end.

    Args:
        workers: each takes a list of samples and returns an answer to each of them, in their order.
        max_batch: most samples that a worker gets at once.
        max_delay: seconds that a sample may wait for others to share its batch; 0 takes what is there.
        pad: for files with a fixed batch size: every batch is filled up to `max_batch` by repeating its last
            sample, and the answers to those are dropped. (Waiting for full batches would never serve the last ones.)
        threads: where each worker is at work until the server is closed; a new thread for each by default.

    Raises:
        ArgumentError: no worker, or a batch or delay out of range.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        max_batch: int,
        max_delay: float = 0.0,
        *,
        pad: bool = False,
        threads: Sequence[Starts] = (),
        clock: Clock | None = None,
    ) -> None:
        for name, rule, value, kept in (
            ("workers", "be at least 1", len(workers), len(workers) >= 1),
            ("max_batch", "be at least 1", max_batch, max_batch >= 1),
            ("max_delay", "be 0 or more seconds", max_delay, 0 <= max_delay < threading.TIMEOUT_MAX),
        ):
            if not kept:
                raise ArgumentError(broken_rule(name, rule, value))
        self._clock = clock or RealClock()
        self._queue = BatchQueue(max_batch, round(max_delay * SECOND))
        self._fixed = max_batch if pad else 0
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closed = False
        starts = threads or [in_new_thread] * len(workers)
        self._at_work: list[Future[None]] = [
            start(partial(self._serve, worker)) for start, worker in zip(starts, workers, strict=True)
        ]

    def __enter__(self) -> BatchingServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def issue(self, query: Query, replies: Replies) -> None:
        """Puts the query in the queue.

        Raises:
            RuntimeError: the server has been closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the server has been closed")
            was_empty = not self._queue
            self._queue.add(query, replies, self._clock.now())
            # The first sample starts somebody's delay, a full batch ends it; others change nothing for a worker.
            if was_empty or self._queue.is_full:
                self._changed.notify()

    def close(self, patience: float = 5.0) -> bool:
        """Ends the threads; what still waits in the queue fails.

        Returns:
            Whether all have ended: a worker that does not return within `patience` seconds is left behind.
        """
        with self._lock:
            self._closed = True
            left = []
            while self._queue:
                left.append(self._queue.take())
            self._changed.notify_all()
        for batch in left:
            batch.fail(RuntimeError("the server was closed before it answered"))
        return not wait(self._at_work, patience).not_done

    def _serve(self, worker: Worker) -> None:
        while (batch := self._next_batch()) is not None:
            try:
                batch.answer(self._run(worker, batch.samples))
            except FAILURES as error:
                batch.fail(error)

    def _run(self, worker: Worker, samples: list[int]) -> Sequence[Any]:
        if not self._fixed:
            return worker(samples)
        filled = samples + samples[-1:] * (self._fixed - len(samples))
        answers = worker(filled)
        if len(answers) != len(filled):
            raise ValueError(broken_rule("a worker's answers", f"be {len(filled)}", len(answers)))
        return answers[: len(samples)]

    def _next_batch(self) -> Batch | None:
        """Waits for a batch that is due; None when the server is closed."""
        with self._lock:
            while not self._closed:
                due, now = self._queue.due, self._clock.now()
                if due is not None and due <= now:
                    batch = self._queue.take()
                    if self._queue:
                        self._changed.notify()  # somebody else's: to run it, or to look after its delay
                    return batch
                self._changed.wait(None if due is None else (due - now) / SECOND)
            return None
