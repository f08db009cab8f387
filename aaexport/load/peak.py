"""Trials at single rates → the highest rate that stays valid."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from aaexport.errors import ArgumentError, broken_rule
from aaexport.load.measurement import Peak, Trial

# How much faster or slower the next trial is while only one side of the peak is known.
_FASTER = 2.0
_SLOWER = 4.0
_LOWEST = 1 / 1000  # of the first rate: if the bound is broken even there, it is not the rate's doing
MOST_TRIALS = 24


def find_peak(
    try_rate: Callable[[float], Trial | None],
    latency_bound: float,
    *,
    start: float,
    precision: float = 0.05,
    most_trials: int = MOST_TRIALS,
) -> Peak:
    """Doubles the rate until it is not valid (or quarters it until it is), bisects, and confirms what it found.

    Both sides of the peak are confirmed by a second trial, the highest rate that was valid and the lowest that was
    not; where two trials of a rate disagree, a third decides. So neither a lucky trial nor an unlucky one, on a
    machine that was busy elsewhere for a moment, is taken for the peak.

    Args:
        try_rate: runs a trial at exactly that rate, in queries a second; None ends the search.
        latency_bound: for the report, in milliseconds.
        start: first rate; the nearer the peak, the fewer trials.
        precision: the peak's relative error: a rate higher by it was not valid.
        most_trials: the search ends after so many, if only with the highest rate that is valid so far.

    Raises:
        ArgumentError: start or precision is not a positive number.
    """
    for name, value in (("start", start), ("precision", precision)):
        if not (math.isfinite(value) and value > 0):
            raise ArgumentError(broken_rule(name, "be a positive number", value))
    search = _Search(start, precision)
    while len(search.trials) < most_trials and (rate := search.next_rate()) is not None:
        trial = try_rate(rate)
        if trial is None:
            break
        search.trials.append(trial)
    return Peak(search.best, latency_bound, tuple(search.trials))


class _Search:
    """What the trials say, by majority: rates that are valid, and rates that are not."""

    def __init__(self, start: float, precision: float) -> None:
        self._start = start
        self._precision = precision
        self.trials: list[Trial] = []

    @property
    def best(self) -> float | None:
        """The highest rate below all that are not valid."""
        return max((rate for rate, votes in self._votes.items() if votes > 0 and rate < self._ceiling), default=None)

    def next_rate(self) -> float | None:
        """What to try next; None if the peak is found and confirmed, or there is none."""
        if not self.trials:
            return self._start
        undecided = [rate for rate, votes in self._votes.items() if votes == 0]
        if undecided:
            return undecided[0]
        best, ceiling = self.best, self._ceiling
        if best is None:
            slower = ceiling / _SLOWER
            return slower if slower >= self._start * _LOWEST else None
        if ceiling == math.inf:
            return best * _FASTER
        if ceiling > best * (1 + self._precision):
            return math.sqrt(best * ceiling)
        return next((rate for rate in (ceiling, best) if self._tried[rate] == 1), None)

    @property
    def _votes(self) -> dict[float, int]:
        """How many more trials of a rate were valid than were not, in the order of the rates' first trials."""
        votes: dict[float, int] = {}
        for trial in self.trials:
            votes[trial.rate] = votes.get(trial.rate, 0) + (1 if trial.reason is None else -1)
        return votes

    @property
    def _tried(self) -> Counter[float]:
        return Counter(trial.rate for trial in self.trials)

    @property
    def _ceiling(self) -> float:
        return min((rate for rate, votes in self._votes.items() if votes < 0), default=math.inf)
