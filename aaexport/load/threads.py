"""Work → a thread that does it, and a future that ends with it: one thread for each work, or for all of a runner."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

Done = TypeVar("Done")
_Job = tuple["Future[Any]", Callable[[], Any]]


class Starts(Protocol):
    """Whatever begins work in a thread."""

    def __call__(self, work: Callable[[], Done]) -> Future[Done]:
        """The future ends with the work, or with what it raised."""


def in_new_thread(work: Callable[[], Done]) -> Future[Done]:
    """In a thread of its own, which ends with it and does not keep Python alive."""
    future: Future[Done] = Future()
    threading.Thread(target=fulfil, args=(future, work), name="aaexport-load", daemon=True).start()
    return future


class RunnerThread:
    """Where the work of one runner is done.

    CUDA graphs and the handles of CUDA's libraries belong to the thread that made them: there a runner keeps one
    `lasting` thread. OpenMP gives every thread that asks for it a team of its own, and teams that are left behind
    make the next one wait: there each work has a thread that ends with it.
    """

    def __init__(self, *, lasting: bool) -> None:
        self._lasting = lasting
        self._jobs: SimpleQueue[_Job | None] | None = None
        self._last: Future[Any] | None = None

    def start(self, work: Callable[[], Done]) -> Future[Done]:
        """Begins the work. Where earlier work has not returned its thread is left behind: it may never."""
        if not self._lasting:
            return in_new_thread(work)
        if self._jobs is None or (self._last is not None and not self._last.done()):
            self.end()
            self._jobs = SimpleQueue()
            threading.Thread(target=_serve, args=(self._jobs,), name="aaexport-runner", daemon=True).start()
        future: Future[Done] = Future()
        self._last = future
        self._jobs.put((future, work))
        return future

    def run(self, work: Callable[[], Done]) -> Done:
        """What `work` returns, or raises."""
        return self.start(work).result()

    def end(self) -> None:
        """Its thread ends with the work that it is in."""
        if self._jobs is not None:
            self._jobs.put(None)
            self._jobs = None


def fulfil(future: Future[Done], work: Callable[[], Done]) -> None:
    """Does the work here and now, for a future."""
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001  raised again by whoever asks the future
        future.set_exception(error)
    else:
        future.set_result(result)


def _serve(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        fulfil(*job)
        del job  # what it holds must not live until the next
