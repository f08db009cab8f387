"""Since when processes have been at work, and which are stopped → those that hang, in words."""

from __future__ import annotations

from collections.abc import Mapping

LONGEST = 60.0  # seconds of one run at the most
SURE = 5.0  # seconds between two looks that find the same: where all was stopped together, all goes on meanwhile
STOPPED = "was stopped from outside"


class Hanging:
    """What was found hanging so far, by the processes' numbers."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[object, float]] = {}

    def found(self, began: Mapping[int, float], stopped: frozenset[int], now: float) -> dict[int, str]:
        """Those that hang, each with what it did; `began` is when the run of each began that is in one.

        A process hangs in which one run takes longer than `LONGEST`, and one that is stopped.
        """
        signs: dict[int, object] = {pid: at for pid, at in began.items() if now - at > LONGEST}
        signs |= dict.fromkeys(stopped, STOPPED)
        before, self._seen = self._seen, {}
        for pid, sign in signs.items():
            same = pid in before and before[pid][0] == sign
            self._seen[pid] = before[pid] if same else (sign, now)
        late = f"was at one query for more than {LONGEST:.0f} s"
        return {
            pid: STOPPED if sign == STOPPED else late for pid, (sign, at) in self._seen.items() if now - at >= SURE
        }
