"""Signals → an end of the service that no wait holds up: told once it drains, told twice it ends at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Interrupted(BaseException):
    """The service was told to end while it waited for an answer."""


class Stopping:
    """Whether a service has been told to end, by a signal of its main thread.

    Told while the thread is inside of `waiting`, the wait is given up; told elsewhere, it is seen at the next look.
    There is no lock in it, which a signal's handler could wait for while its own thread has it.
    """

    def __init__(self) -> None:
        self._is_told = self._is_waiting = False

    def is_set(self) -> bool:
        """Whether it was told."""
        return self._is_told

    def set(self) -> None:
        """Tells it, for the next look."""
        self._is_told = True

    def tell(self) -> None:
        """What a signal's handler calls. KeyboardInterrupt where it was told before, Interrupted out of a wait."""
        if self._is_told:
            raise KeyboardInterrupt
        self._is_told = True
        if self._is_waiting:
            raise Interrupted

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For a block that waits for others and may be left anywhere. Interrupted where it is told, or was before."""
        self._is_waiting = True
        try:
            if self._is_told:
                raise Interrupted
            yield
        finally:
            self._is_waiting = False

    def wait(self, seconds: float) -> bool:
        """Lets time pass, less where it is told → `is_set`."""
        with suppress(Interrupted), self.waiting():
            time.sleep(seconds)
        return self._is_told
