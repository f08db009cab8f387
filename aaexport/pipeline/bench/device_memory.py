"""Readings of a GPU's memory in use → how much of it each contender holds.

One contender is at work at a time, so what changed meanwhile is its own, as long as nobody else uses the GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class DeviceMemory:
    """What `read` tells, in bytes, or None where nobody can.

    Attributes:
        held: by each contender, by its name.
    """

    def __init__(self, read: Callable[[], int | None]) -> None:
        self._read = read
        self.held: Counter[str] = Counter()
        self._before: int | None = None

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """While that contender starts, or is at work."""
        before = self._before = self._read()
        try:
            yield
        finally:
            after = self._read()
            if before is not None and after is not None:
                self.held[name] += after - before

    def at_peak(self, name: str, most: int | None) -> int | None:
        """What it held when `most` bytes were in use while it last was at work; to be asked within `of`."""
        if most is None or self._before is None:
            return None
        return max(self.held[name] + most - self._before, 0)
