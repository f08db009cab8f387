"""Whether a measurement may be quoted: by its length, by what the system under test did, and by who had the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aaexport.errors import first_few
from aaexport.load.lengths import MIN_SECONDS, RULES, RuleSet, queries_needed
from aaexport.load.machine import Environment
from aaexport.load.measurement import AnswerCheck, Comparison, Load
from aaexport.load.mlperf import queries_required
from aaexport.load.run import Nanoseconds, QueryLog, Trouble
from aaexport.load.statistics import percentile
from aaexport.parity.report import Placement

MIN_QUERIES = queries_needed(90)
BOUND_PERCENTILE = 99.0  # that must keep a latency bound
ENOUGH = 0.9  # of the duration: how long a query will take, and an offline one is all there is, must be guessed
HELD = 0.95  # of the scheduled rate
# Standard deviations of how many arrivals a Poisson stream has. In simulated M/D/1 and M/M/1 queues at a load of 0.9,
# the rate falls behind by more in at most 3 of 100 runs of ten blocks and 2 of 1,000 of one; of 600 queries that come
# half as fast again as they can be served, all runs do.
CHANCE = 3.0
LATE = 0.5  # of the latency; beyond it the sending was measured rather than the answering
WORTH_A_NOTE = 60.0  # seconds: nobody takes less for an MLPerf result
STEAL_LIMIT = 0.05
OTHER_LOAD_LIMIT = 0.10
THROTTLED_LIMIT = 0.01  # of the quota's periods: each has a query that waits for milliseconds, and p99 shows them
# Beside one busy process PyTorch's threads can wait for each other forty times longer than they compute.
RATIO_LOAD_LIMIT = 0.25
# Of a CPU of which others have so much, while nearly nothing is left over, a query waits for its turn as often as it
# computes: a turn lasts milliseconds, which is the latency of a small network. Where as much stays idle there was
# a free core for every thread, however busy the others were.
TAKEN_LIMIT = 0.25
IDLE_ENOUGH = 0.25
NAMES_SHOWN = 3
LONGER = "measure longer with --duration"


def why_invalid(
    blocks: Sequence[QueryLog],
    load: Load,
    duration: float | None,
    *,
    rules: RuleSet = "quick",
    trouble: Trouble | None = None,
    aborted: str | None = None,
    check: AnswerCheck | None = None,
    comparisons: Sequence[Comparison] = (),
    placement: Placement | None = None,
    allow_fallback: bool = False,
    environment: Environment | None = None,
) -> tuple[str, ...]:
    """Every reason for which the numbers may not be quoted; () if they may.

    Args:
        blocks: the queries of the model that is measured.
        load: what was asked of it.
        duration: seconds of load that were asked for; None where a trace says how long.
        rules: `quick` asks for the duration and for the queries that p90 needs, `mlperf` for MLPerf's minimums.
        trouble: what the system did that none may.
        aborted: why the measurement ended before its plan: `interrupted`, or what was given up.
        check: of its answers.
        comparisons: of which those of the same network must answer as it does.
        placement: where its nodes ran.
        allow_fallback: whether some may run on the CPU though an accelerator was asked for.
        environment: who had the CPU meanwhile.
    """
    reasons = [*_broken_off(blocks, aborted), *_misbehaved(trouble or Trouble()), *_wrong(check, comparisons)]
    if not allow_fallback:
        reasons += fallen_back(placement)
    if environment is not None:
        reasons += why_starved(environment)
    reasons += _behind_schedule(blocks, load)
    reasons += _bound_broken(blocks, load)
    if not aborted:
        reasons += _too_short(blocks, load, duration, rules)
    if rules == "mlperf":
        reasons += _other_load_than_mlperf(load)
    return tuple(reasons)


def note_on_mlperf(blocks: Sequence[QueryLog], load: Load, rules: RuleSet) -> str | None:
    """That a measurement is not long enough for MLPerf, for those who measure so long that they may think it is."""
    if rules == "mlperf" or _seconds(blocks, load) < WORTH_A_NOTE or not _too_short(blocks, load, None, "mlperf"):
        return None
    return f"MLPerf asks for {MIN_SECONDS:g} s and its own number of queries; measure with --rules mlperf"


def fallen_back(placement: Placement | None) -> tuple[str, ...]:
    """The complaint about nodes that run on the CPU though an accelerator was asked for."""
    if placement is None or not placement.on_cpu:
        return ()
    names = first_few(placement.on_cpu, NAMES_SHOWN)
    return (
        f"every node must run on {placement.provider}, got {len(placement.on_cpu)} on the CPU ({names}); "
        "write the file by --target cuda of convert or optimize, or accept it with --allow-fallback",
    )


def is_starved(environment: Environment) -> bool:
    """Whether others had so much of the CPU, and so little was idle, that whoever computed waited for it."""
    taken = (environment.other_load_share or 0.0) + (environment.steal_share or 0.0)
    return taken > TAKEN_LIMIT and (environment.idle_share or 0.0) < IDLE_ENOUGH


def why_starved(environment: Environment) -> tuple[str, ...]:
    """The complaint about others who had so much of the CPU that the times are theirs as much as the model's."""
    others, steal = environment.other_load_share or 0.0, environment.steal_share or 0.0
    if not is_starved(environment):
        return ()
    stolen = f" and the hypervisor {steal:.0%}" if steal > STEAL_LIMIT else ""
    return (
        f"at least {1 - TAKEN_LIMIT:.0%} of the CPU must be left to the measurement, or some of it idle, but other "
        f"processes took {others:.0%}{stolen}: the times are not the model's own; stop them and measure again",
    )


def warnings_about_the_machine(environment: Environment) -> tuple[str, ...]:
    """Who else had the CPU, where it was so much that the numbers show it."""
    warnings = []
    steal = environment.steal_share
    if steal is not None and steal > STEAL_LIMIT:
        warnings.append(f"the hypervisor took {steal:.0%} of the CPU: absolute times are too long, ratios less so")
    other = environment.other_load_share
    if other is not None and other > OTHER_LOAD_LIMIT:
        warnings.append(
            f"other processes took {other:.0%} of the CPU: times and ratios are not the model's own; "
            "stop them and measure again"
        )
    stopped = environment.throttled_share
    if stopped is not None and stopped > THROTTLED_LIMIT:
        warnings.append(
            f"the quota of {environment.cpu_quota:g} cores was used up in {stopped:.0%} of its periods, and "
            "everything stood still until the next; take fewer threads with --threads, or raise the quota"
        )
    return tuple(warnings)


def why_no_ratio(environment: Environment) -> str | None:
    """Why a ratio must be withheld; single bad pairs do not move its median, and its range shows them."""
    other = environment.other_load_share
    if other is not None and other > RATIO_LOAD_LIMIT:
        return f"other processes took {other:.0%} of the CPU; stop them and measure again"
    return None


def lateness(blocks: Sequence[QueryLog], p: float) -> float:
    """The p-th percentile of the issue delay ÷ that of the latency; 0 where too little was measured to tell."""
    if not blocks:
        return 0.0
    delay = percentile(np.concatenate([log.issue_delays for log in blocks]), p)
    latency = percentile(np.concatenate([log.latencies for log in blocks]), p)
    return delay / latency if delay and latency else 0.0


def _broken_off(blocks: Sequence[QueryLog], aborted: str | None) -> tuple[str, ...]:
    if not aborted:
        return ()
    return (f"the measurement ended before its plan, after {_answered(blocks):,} answers: {aborted}",)


def _misbehaved(trouble: Trouble) -> tuple[str, ...]:
    reasons = [f"{count:,} queries failed: {text}" for text, count in list(trouble.errors.items())[:NAMES_SHOWN]]
    if len(trouble.errors) > NAMES_SHOWN:
        reasons.append(f"queries failed with {len(trouble.errors) - NAMES_SHOWN} other errors")
    if trouble.hung:
        reasons.append("every query must return, got one that had not when the run was given up")
    for count, what in (
        (trouble.lost, "every query must be answered, got no answer to"),
        (trouble.doubled, "every query must be answered once, got several answers to"),
        (trouble.unknown, "every answer must be to a query, got others:"),
    ):
        if count:
            reasons.append(f"{what} {count:,}")
    return tuple(reasons)


def _wrong(check: AnswerCheck | None, comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    """A fast wrong answer is no answer."""
    reasons = []
    if check is not None and check.wrong:
        reasons.append(
            f"answers must equal those of {check.against}, got {check.wrong} of {check.checked} that differ, the "
            f"worst by {check.largest_error:.2g} of the largest number; look at `aaexport verify`"
        )
    reasons += [
        f"the measured file and {other.name} must answer alike, got different answers; look at `aaexport verify`"
        for other in comparisons
        if other.same_answers is False
    ]
    return tuple(reasons)


def _behind_schedule(blocks: Sequence[QueryLog], load: Load) -> list[str]:
    """Of an open loop: the answers came more slowly than the queries were due, or those were not even sent."""
    if load.arrivals is None:
        return []
    reasons = []
    scheduled, achieved = (
        _rate([log.scheduled for log in blocks]),
        _rate([log.completed[log.answered] for log in blocks]),
    )
    if achieved < _rate_to_hold(scheduled, sum(map(len, blocks))):
        reasons.append(f"{scheduled:,.1f} queries a second must be answered, got {achieved:,.1f}; lower --rate")
    late = lateness(blocks, 50)
    if late > LATE:
        reasons.append(
            f"queries must be sent when they are due, got a delay of {late:.0%} of the latency in the median; "
            "lower --rate, or leave the load generator a core with --threads"
        )
    return reasons


def _rate_to_hold(scheduled: float, queries: int) -> float:
    """Less than is scheduled by what a queue is behind by chance when it happens to end on many arrivals."""
    return min(HELD, 1 - CHANCE / math.sqrt(max(queries, 1))) * scheduled


def _bound_broken(blocks: Sequence[QueryLog], load: Load) -> tuple[str, ...]:
    """By MLPerf's early stopping; a query without an answer is over any bound."""
    if load.latency_bound is None:
        return ()
    queries = sum(len(log) for log in blocks)
    over = queries - sum(int(np.count_nonzero(log.latencies <= load.latency_bound)) for log in blocks)
    rule = f"p{BOUND_PERCENTILE:g} must keep {load.latency_bound:g} ms with 99% confidence"
    if over > queries * (1 - BOUND_PERCENTILE / 100):
        remedy = "lower --rate" if load.arrivals is not None else "give it more time or smaller queries"
        return (f"{rule}, got {over:,} of {queries:,} queries over it; {remedy}",)
    required = queries_required(over, BOUND_PERCENTILE)
    if queries >= required:
        return ()
    return (f"{rule}, which takes {required:,} queries if {over:,} are over it, got {queries:,}; {LONGER}",)


def _too_short(blocks: Sequence[QueryLog], load: Load, duration: float | None, rules: RuleSet) -> tuple[str, ...]:
    if rules == "mlperf":
        asked, by = RULES[load.scenario], " by MLPerf's rules"
        least, samples, seconds, share = asked.min_queries, asked.min_samples, MIN_SECONDS, 1.0
    else:
        by = ""
        least, samples, seconds, share = 1 if load.scenario == "offline" else MIN_QUERIES, 0, duration or 0.0, ENOUGH
    lasted = _seconds(blocks, load)
    images = sum(int(log.samples[log.answered].sum()) for log in blocks)
    reasons = []
    if _answered(blocks) < least:
        reasons.append(f"{least:,} queries must be counted{by}, got {_answered(blocks):,}; {LONGER}")
    if images < samples:
        reasons.append(f"{samples:,} images must be answered{by}, got {images:,}; {LONGER}")
    if lasted + _last_gaps(blocks, load) < share * seconds:
        reasons.append(f"{seconds:g} s of queries must be counted{by}, got {lasted:.2f} s; {LONGER}")
    return tuple(reasons)


def _other_load_than_mlperf(load: Load) -> list[str]:
    samples = RULES[load.scenario].samples_per_query
    reasons = []
    if samples is not None and load.samples_per_query != samples:
        reasons.append(f"a query must have {samples} images by MLPerf's rules, got {load.samples_per_query}")
    if load.scenario == "server" and load.arrivals != "poisson":
        reasons.append(f"arrivals must be poisson by MLPerf's rules, got {load.arrivals}")
    if load.scenario == "server" and load.latency_bound is None:
        reasons.append(
            "the server scenario must have a latency bound by MLPerf's rules, got none; give one with --p99"
        )
    return reasons


def _answered(blocks: Sequence[QueryLog]) -> int:
    return sum(int(np.count_nonzero(log.answered)) for log in blocks)


def _seconds(blocks: Sequence[QueryLog], load: Load) -> float:
    """How long the load lasted: in an open loop from the beginning to the last arrival, however late its answer."""
    if load.arrivals is None:
        return sum(log.lasted for log in blocks)
    return sum(float(log.scheduled[-1]) / 1e9 for log in blocks if len(log))


def _last_gaps(blocks: Sequence[QueryLog], load: Load) -> float:
    """Most seconds between the last arrivals of Poisson schedules and their ends: once in 20,000 there are more."""
    gaps = sum(1 for log in blocks if len(log))
    return (gaps + 4 * math.sqrt(gaps) + 5) / load.rate if load.rate else 0.0


def _rate(blocks: Sequence[Nanoseconds]) -> float:
    """Events a second over all blocks, each without its first and last twentieth: one late answer is no low rate."""
    events, passed = 0, 0.0
    for times in map(np.sort, blocks):
        first, last = len(times) // 20, len(times) - 1 - len(times) // 20
        if last > first:
            events += last - first
            passed += float(times[last] - times[first]) / 1e9
    return events / passed if passed else 0.0
