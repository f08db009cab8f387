"""Warm-up and counted queries of one run: sent by one thread, watched by another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aaexport.load.chance import Part, chance
from aaexport.load.clock import SECOND, Clock
from aaexport.load.phase import GivenUp, Phase
from aaexport.load.plan import Plan, Progress
from aaexport.load.record import Kept, Record
from aaexport.load.run import Run, Trouble
from aaexport.load.statistics import percentile
from aaexport.load.system import SystemUnderTest, draw_samples

INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Scenario:
    """How the counted queries are sent, and those that warm the system up, and how many samples each has.

    `patience` is for one answer, in seconds.
    """

    send: Callable[[Phase], None]
    warm_up: Callable[[Phase], None]
    samples: int
    warmup_samples: int
    patience: float


class Course:
    """One run on its way.

    Attributes:
        stopped: why it was stopped from outside; empty if it was not.
    """

    def __init__(
        self,
        system: SystemUnderTest,
        samples: int,
        plan: Plan,
        scenario: Scenario,
        clock: Clock,
        with_recent: bool,
    ) -> None:
        def phase(part: Part, per_query: int, keep: int) -> Phase:
            record = Record(clock, Kept(keep, plan.seed), with_recent=with_recent)
            drawn = draw_samples(samples, per_query, chance(part, plan.seed))
            return Phase(system, drawn, record, clock, scenario.patience)

        self._plan = plan
        self._scenario = scenario
        self._clock = clock
        self._warmup = phase("warm-up", scenario.warmup_samples, 0)
        self._counted = phase("samples", scenario.samples, plan.keep)
        self._current = self._warmup
        self._given_up = ""
        self._inside: tuple[Phase, int | None] = (self._warmup, None)
        self._stuck = 0.0
        self.stopped = ""

    def send(self) -> None:
        """Sends all, in the calling thread; warming up belongs there, for much of what is warm is a thread's own."""
        try:
            if self._plan.warmup:
                self._warmup.record.begin()
                self._scenario.warm_up(self._warmup)
            self._current = self._counted
            self._counted.record.begin()
            self._scenario.send(self._counted)
        except GivenUp as reason:
            self._given_up = self._in_words(str(reason))

    def stop(self, reason: str) -> None:
        """Lets the sending thread end as soon as it has control."""
        self.stopped = self.stopped or reason
        for phase in (self._warmup, self._counted):
            phase.stop(self.stopped)

    def is_hung(self, passed: float) -> bool:
        """Whether the system has kept the sending thread in one query beyond all patience; the run is stopped then.

        To be asked regularly; `passed` are the seconds since the last time. Adding them up, instead of looking at
        the clock, forgives a machine that stood still and the system with it.
        """
        inside = (self._current, self._current.inside)
        self._stuck = self._stuck + passed if inside == self._inside and inside[1] is not None else 0.0
        self._inside = inside
        hung = self._stuck > self._scenario.patience
        if hung:
            self.stop(f"a query did not return within {self._scenario.patience:g} s")
        return hung

    def progress(self) -> Progress:
        """How far it is."""
        record = self._current.record
        recent = np.asarray(list(record.recent or ())) / 1e6
        return Progress(
            queries=len(record) - record.outstanding,
            seconds=(self._clock.now() - record.began) / SECOND,
            p50=percentile(recent, 50),
            p99=percentile(recent, 99),
            is_warmup=self._current is self._warmup,
        )

    def result(self, *, left_behind: bool) -> Run:
        """What was measured. `left_behind`: the sending thread is still in the system; nothing it does counts now."""
        warmup, counted = self._warmup.record, self._counted.record
        warmup.close()
        counted.close()
        before, after = warmup.trouble(self._warmup.patience), counted.trouble(self._counted.patience)
        stopped = self._in_words(self.stopped) if left_behind else ""
        return Run(
            log=counted.log(),
            trouble=_sum(before, after, hung=self._stuck > self._scenario.patience),
            aborted=self._given_up or stopped or None,
            kept=counted.keep.result(),
            began=counted.began,
        )

    def _in_words(self, reason: str) -> str:
        in_warmup = self._current is self._warmup and reason not in {"", INTERRUPTED}
        return f"{reason}, in the warm-up" if in_warmup else reason


def _sum(before: Trouble, after: Trouble, *, hung: bool) -> Trouble:
    return Trouble(
        errors=dict(Counter(before.errors) + Counter(after.errors)),
        lost=before.lost + after.lost,
        doubled=before.doubled + after.doubled,
        unknown=before.unknown + after.unknown,
        hung=hung,
    )
