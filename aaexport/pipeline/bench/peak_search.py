"""A session → the trials of a search for the highest rate, of which the best becomes its report."""

from __future__ import annotations

from typing import Protocol

from aaexport.load.measurement import AnswerCheck, Load, Peak, Trial
from aaexport.load.peak import MOST_TRIALS, find_peak
from aaexport.load.statistics import percentile
from aaexport.load.validity import why_invalid
from aaexport.pipeline.bench.contender import Served
from aaexport.pipeline.bench.measured import Measured
from aaexport.pipeline.bench.options import BenchOptions

LEAST_PATIENCE = 2.0  # seconds for an answer: a rate that lets queries wait so long is not the peak
BOUNDS_OF_PATIENCE = 50
LONGEST_TRIAL = 10  # times the duration: so slowly may the queries come that a trial needs


class Trials(Protocol):
    """What a search may ask of the session that it searches in."""

    measured: Measured

    def load_at(self, rate: float) -> Load:
        """The server's load with that rate, in queries a second."""

    def serve(self, load: Load, number: int, patience: float, share: float) -> Served:
        """Trial `number` under that load, with so many seconds for an answer; `share` of the search is done."""

    def settle_on(self, load: Load, served: Served, peak: Peak) -> None:
        """Makes that trial the one that the report tells of."""


class PeakSearch:
    """What `find_peak` tries on a session, and what each trial left."""

    def __init__(self, session: Trials, options: BenchOptions, bound: float) -> None:
        self._session, self._options, self._bound = session, options, bound
        self._patience = max(LEAST_PATIENCE, BOUNDS_OF_PATIENCE * bound / 1000)
        self._left: list[tuple[Load, Served]] = []
        self._trials: list[Trial] = []

    def run(self, start: float, most_trials: int) -> None:
        """Searches from that rate on, and settles on what it found, also if it is interrupted."""
        try:
            peak = find_peak(self._try, self._bound, start=start, most_trials=most_trials)
        except KeyboardInterrupt:
            valid = [trial.rate for trial in self._trials if trial.reason is None]
            self._settle(Peak(max(valid, default=None), self._bound, tuple(self._trials)))
            raise
        self._settle(peak)

    def _try(self, rate: float) -> Trial | None:
        """Runs it; None for one so low that its queries would take too long to come."""
        options = self._options
        if self._trials and options.least_queries / rate > LONGEST_TRIAL * options.seconds:
            return None
        load = self._session.load_at(rate)
        served = self._session.serve(load, len(self._trials), self._patience, len(self._trials) / MOST_TRIALS)
        self._left.append((load, served))
        self._trials.append(_trial(load, served, options))
        return self._trials[-1]

    def _settle(self, peak: Peak) -> None:
        """The report is that of the last run at the best rate, or at the lowest if none was valid."""
        rates = [trial.rate for trial in self._trials]
        if not rates:
            return
        if peak.rate is None:
            reason = f"no rate kept the bound, and {min(rates):,.3g} queries a second did not either"
            self._session.measured.reasons.append(reason)
        chosen = min(rates) if peak.rate is None else peak.rate
        load, served = self._left[len(rates) - 1 - rates[::-1].index(chosen)]
        self._session.settle_on(load, served, peak)


def _trial(load: Load, served: Served, options: BenchOptions) -> Trial:
    """What that rate is worth, by the same rules as a whole measurement."""
    reasons = why_invalid(
        [served.log],
        load,
        options.duration,
        rules=options.rules,
        trouble=served.trouble,
        aborted=served.aborted,
        check=AnswerCheck("the expected ones", served.checked, served.wrong, served.largest_error),
    )
    assert load.rate is not None
    return Trial(load.rate, percentile(served.log.latencies, 99), reasons[0] if reasons else None)
