"""Since when processes have been at work, and which are stopped → those that hang, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping

LONGEST = 60.0  # seconds that one run may take, of whatever model
TIMES = 4.0  # as long as a full batch takes by what was seen: a machine that computes for others too is slower
SURE = 5.0  # seconds between two looks that find the same: where all was stopped together, all goes on meanwhile
STOPPED = "was stopped from outside"


class Hanging:
    """What was found hanging so far, by the processes' numbers."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[object, float]] = {}
        self._full: dict[str, float] = {}

    def seen(self, model: str, seconds: float, images: int, most: int) -> None:
        """A query of so many images took so long, of a model that runs `most` at a time: a slow one may be longer.

        The least that was seen of a model counts: the others have waited for queries of clients. Infinite seconds are
        of a model whose queries may be of any size: none of its runs is too long.
        """
        full = seconds * max(1.0, most / images)
        self._full[model] = min(full, self._full.get(model, full))

    def _longest(self) -> float:
        return max([LONGEST, *(TIMES * full for full in self._full.values())])

    def may_last(self, seconds: float) -> bool:
        """Whether a run of so many seconds is right because models are slow, as far as that is known."""
        return LONGEST < self._longest() < math.inf and seconds <= self._longest()

    def found(self, began: Mapping[int, float], stopped: frozenset[int], now: float) -> dict[int, str]:
        """Those that hang, each with what it did; `began` is when the run of each began that is in one.

        A process hangs in which one run takes longer than a minute and than any model's may, and one that is stopped.
        """
        longest = self._longest()
        signs: dict[int, object] = {pid: at for pid, at in began.items() if now - at > longest}
        signs |= dict.fromkeys(stopped, STOPPED)
        before, self._seen = self._seen, {}
        for pid, sign in signs.items():
            same = pid in before and before[pid][0] == sign
            self._seen[pid] = before[pid] if same else (sign, now)
        late = f"was at one query for more than {longest:.0f} s"
        return {
            pid: STOPPED if sign == STOPPED else late for pid, (sign, at) in self._seen.items() if now - at >= SURE
        }
