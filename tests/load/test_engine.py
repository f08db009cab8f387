"""The load engine against systems whose latencies are known, and against systems that do what none may."""

import itertools
import math
import threading
import time
from concurrent.futures import wait

import numpy as np
import pytest
from fake_systems import MILLISECOND, Inline, Queue

from aaexport.errors import ArgumentError
from aaexport.load import arrivals, engine
from aaexport.load.clock import SECOND, RealClock, VirtualClock
from aaexport.load.engine import LoadGenerator
from aaexport.load.plan import Plan
from aaexport.load.run import UNANSWERED
from aaexport.load.statistics import percentile
from aaexport.load.system import Synchronous

SAMPLES = 64


@pytest.fixture
def clock():
    return VirtualClock()


def virtually(clock, system, plan=None, **plans):
    return LoadGenerator(system, SAMPLES, plan or Plan(**{"duration": 1, **plans}), clock=clock)


def really(system, progress=None, abort=None, **plans):
    plan = Plan(**{"duration": 0.2, "patience": 2, **plans})
    return LoadGenerator(system, SAMPLES, plan, abort=abort, progress=progress)


def found(run):
    return [percentile(run.log.latencies, p) for p in (50, 90, 99)]


# What is measured is what was injected.


@pytest.mark.parametrize("system", [Inline, Queue])
def test_a_constant_service_time_is_every_percentile(clock, system):
    run = virtually(clock, system(clock, lambda _: 3 * MILLISECOND), duration=3).single_stream()
    assert found(run) == [3, 3, 3]
    assert (len(run.log), run.log.seconds, run.trouble, run.aborted) == (1000, 3, type(run.trouble)(), None)


def test_exponential_service_times_have_their_percentiles(clock, rng):
    service = (4 * MILLISECOND * rng.exponential(size=100_000)).astype(int).tolist()
    plan = Plan(1, max_duration=1e6, min_queries=len(service))
    run = virtually(clock, Inline(clock, service.__getitem__), plan).single_stream()
    assert found(run) == pytest.approx([4 * math.log(100 / (100 - p)) for p in (50, 90, 99)], rel=0.02)


def test_a_rare_stall_is_in_the_tail_and_nowhere_else(clock, rng):
    service = np.where(rng.random(10_000) < 0.015, 50 * MILLISECOND, MILLISECOND).tolist()
    run = virtually(clock, Inline(clock, service.__getitem__), duration=5, min_queries=10_000).single_stream()
    assert found(run) == [1, 1, 50]


def test_the_server_scenario_has_the_tail_of_an_m_d_1_queue(clock):
    service, rate = 5 * MILLISECOND, 120.0
    run = virtually(clock, Queue(clock, lambda _: service)).server(arrivals.poisson(rate, 1200, seed=1))
    expected = [5 + 1000 * md1_wait(p, rate, service / SECOND) for p in (0.5, 0.9, 0.99)]
    assert found(run) == pytest.approx(expected, rel=0.05)


def md1_wait(p, rate, service):
    """The p-quantile of waiting in an M/D/1 queue, in seconds.

    P(W ≤ t) = (1 − ρ) Σ_{k=0}^{⌊t/D⌋} (λ(kD − t))^k / k! · e^{−λ(kD − t)}: Erlang 1909; C. D. Crommelin, "Delay
    probability formulae when the holding times are constant", P.O. Electrical Engineers' Journal 25, 1932.
    """

    def at_most(t):
        steps = [rate * (k * service - t) for k in range(int(t / service) + 1)]
        return (1 - rate * service) * sum(x**k / math.factorial(k) * math.exp(-x) for k, x in enumerate(steps))

    low, high = 0.0, 20 * service
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(middle) < p else (low, middle)
    return high


def test_a_stall_shows_in_an_open_loop_and_a_closed_loop_hides_it(clock):
    """Coordinated omission: all that should have come during the second are late, one query only is slow."""

    def service(number):
        return SECOND if number == 500 else MILLISECOND

    opened = virtually(clock, Queue(clock, service)).server(arrivals.constant(100, 10))
    clock = VirtualClock()
    closed = virtually(clock, Inline(clock, service), duration=3, min_queries=1000).single_stream()
    latencies = opened.log.latencies
    assert latencies.max() == 1000
    # Of the 100 queries due while it stood still the n-th waited 10·n ms less, but for what the queue then took.
    assert np.sum(latencies > 100) == pytest.approx(100, abs=2)
    assert percentile(latencies, 95) == pytest.approx(500 + 50, rel=0.1)
    assert percentile(closed.log.latencies, 99) == 1


def test_latency_counts_from_the_schedule_and_the_issue_delay_is_kept(clock):
    run = virtually(clock, Inline(clock, lambda _: 30 * MILLISECOND)).server(arrivals.constant(100, 0.05))
    assert run.log.issue_delays.tolist() == [0, 20, 40, 60, 80]
    assert run.log.latencies.tolist() == [30, 50, 70, 90, 110]


@pytest.mark.parametrize("clients", [1, 3])
def test_as_many_clients_have_a_query_each(clock, clients):
    run = virtually(clock, Queue(clock, lambda _: 10 * MILLISECOND, servers=3)).closed_loop(concurrency=clients)
    assert (len(run.log), set(run.log.latencies)) == (clients * 100, {10})


def test_offline_is_one_query_with_all_samples(clock):
    run = virtually(clock, Queue(clock, lambda _: 20 * SECOND), max_duration=15, keep=1).offline(100)
    assert (run.log.samples.tolist(), run.log.throughput) == ([100], 5)
    assert run.kept[0][0] == (*range(64), *range(36))


def test_a_query_of_several_samples_has_neighbours(clock):
    run = virtually(clock, Inline(clock, lambda _: MILLISECOND), keep=1000).multi_stream(8)
    assert {samples for samples, _ in run.kept} == {tuple(range(n, n + 8)) for n in range(0, 64, 8)}
    assert run.log.throughput == 8000


# How long it lasts, and what is kept.


@pytest.mark.parametrize(
    ("plan", "queries"),
    [
        (Plan(0.25), 2),
        (Plan(0.25, min_queries=20), 20),
        (Plan(0.25, min_queries=1000, max_duration=2), 16),
        (Plan(9, max_queries=5), 5),
        (Plan(0.001, max_duration=0.001), 1),
    ],
)
def test_a_closed_loop_lasts_as_planned(clock, plan, queries):
    run = virtually(clock, Inline(clock, lambda _: SECOND // 8), plan).single_stream()
    assert (len(run.log), run.aborted) == (queries, None)


def test_the_warm_up_is_not_counted(clock):
    seen = []

    def service(number):
        seen.append(number)
        return MILLISECOND if len(seen) > 10 else 100 * MILLISECOND

    run = virtually(clock, Inline(clock, service), warmup=1.0).single_stream()
    assert found(run) == [1, 1, 1]
    assert len(run.log) == 1000 == len(seen) - 10


def test_kept_answers_are_a_uniform_seeded_choice_with_their_samples(clock):
    class Numbered(Queue):
        def issue(self, query, replies):
            self.clock.at(self.clock.now() + 1000, lambda: replies.answered(query.number, query.number))

    def chosen(seed):
        run = virtually(clock, Numbered(clock, None), max_queries=100, keep=10, seed=seed).single_stream()
        return [answer for _, answer in run.kept]

    counts = np.bincount(np.concatenate([chosen(seed) for seed in range(300)]), minlength=100)
    assert counts.sum() == 3000
    assert np.sum((counts - 30) ** 2 / 30) < 150  # χ² with 99 degrees of freedom: above with probability 0.0007
    assert chosen(5) == chosen(5) != chosen(6)


# What no system may do ends in the trouble of the run, and the run ends.


class Careless(Queue):
    """Answers in 1 ms, with `instead` for the query of number 5: a function of the query and where answers go."""

    def __init__(self, clock, instead):
        super().__init__(clock, lambda _: MILLISECOND, servers=2)
        self.instead = instead

    def issue(self, query, replies):
        if query.number == 5:
            self.instead(query, replies)
        else:
            super().issue(query, replies)


def raises(query, replies):
    raise OSError(f"no device\nfor {query}")


def exits(query, replies):
    raise SystemExit(3)


def answers_twice(query, replies):
    replies.answered(query.number, 1)
    replies.answered(query.number, 2)


def answers_another(query, replies):
    for stranger in (99, -1, "5", None):
        replies.answered(stranger, 0)
    replies.answered(query.number, 0)


def forgets(query, replies):
    pass


@pytest.mark.parametrize("open_loop", [False, True])
@pytest.mark.parametrize(
    ("instead", "trouble", "unanswered"),
    [
        (raises, {"errors": {"OSError: no device": 1}}, 1),
        (exits, {"errors": {"SystemExit: 3": 1}}, 1),
        (answers_twice, {"doubled": 1}, 0),
        (answers_another, {"unknown": 4}, 0),
        (forgets, {"lost": 1}, 1),
    ],
)
def test_what_no_system_may_do_is_counted(clock, open_loop, instead, trouble, unanswered):
    generator = virtually(clock, Careless(clock, instead), duration=0.1, patience=2)
    run = generator.server(arrivals.constant(100, 4)) if open_loop else generator.closed_loop(concurrency=2)
    assert run.trouble == type(run.trouble)(**trouble)
    assert np.sum(run.log.completed == UNANSWERED) >= unanswered
    assert run.aborted == ("a query had no answer within 2 s" if instead is forgets else None)
    assert found(run)[0] == 1


def test_one_lost_answer_ends_a_run_with_what_was_measured(clock):
    run = virtually(clock, Careless(clock, forgets), patience=2).single_stream()
    assert (len(run.log), run.trouble.lost, clock.now()) == (6, 1, 5 * MILLISECOND + 2 * SECOND)


def test_a_system_that_only_raises_is_not_asked_for_ever(clock):
    def service(number):
        raise ValueError(f"query {number}")

    run = virtually(clock, Inline(clock, service)).single_stream()
    assert (len(run.log), run.aborted) == (100, "100 queries in a row failed")
    assert run.trouble.errors == {**{f"ValueError: query {n}": 1 for n in range(20)}, "other errors": 80}


def test_trouble_in_the_warm_up_counts(clock):
    run = virtually(clock, Careless(clock, forgets), warmup=1.0, patience=2).single_stream()
    assert (len(run.log), run.trouble.lost) == (0, 1)
    assert run.aborted == "a query had no answer within 2 s, in the warm-up"


def test_a_rate_that_cannot_be_held_is_given_up_before_the_backlog_grows_for_ever(clock):
    system = Queue(clock, lambda _: 10 * MILLISECOND)
    run = virtually(clock, system, patience=3).server(arrivals.constant(1000, 3600))
    assert run.aborted.startswith("it did not keep up: ")
    assert clock.now() < 4 * SECOND
    assert (len(run.log) < 4000, bool(run.trouble)) == (True, False)


def test_a_function_too_slow_for_the_schedule_is_given_up(clock):
    run = virtually(clock, Inline(clock, lambda _: SECOND), patience=3).server(arrivals.constant(10, 60))
    assert run.aborted == "it did not keep up: queries were sent 3.6 s late"


def test_answers_after_the_end_change_nothing(clock):
    late = []

    def later(query, replies):
        late.append(lambda: replies.answered(query.number, "late"))

    run = virtually(clock, Careless(clock, later), patience=2, keep=100).single_stream()
    late[0]()
    assert (len(run.kept), run.log.completed[5], run.trouble.lost) == (5, UNANSWERED, 1)


# On the real clock.


def test_a_system_that_hangs_does_not_hold_its_caller():
    release = threading.Event()
    run = really(Synchronous(lambda _: release.wait(30)), patience=0.3).single_stream()
    assert (run.trouble.hung, run.trouble.lost, len(run.log)) == (True, 1, 1)
    assert run.aborted == "a query did not return within 0.3 s"
    release.set()


@pytest.mark.parametrize("by", ["abort", "Ctrl-C"])
@pytest.mark.parametrize("scenario", ["closed", "open", "waiting"])
def test_an_interrupted_run_has_what_was_measured(by, scenario, monkeypatch):
    abort = threading.Event()
    if by == "abort":
        threading.Timer(0.25, abort.set).start()
    else:
        monkeypatch.setattr(engine, "wait", interrupted_at_the_third_look())
    generator = really(Synchronous(lambda _: time.sleep(0.001)), abort=abort, duration=20)
    began = time.monotonic()
    if scenario == "closed":
        run = generator.single_stream()
    else:
        rate = 100 if scenario == "open" else 0.01
        run = generator.server(arrivals.constant(rate, 1000))
    assert time.monotonic() - began < 5
    assert (run.aborted, bool(run.trouble), len(run.log) >= 1) == ("interrupted", False, True)


def interrupted_at_the_third_look():
    """As `wait`, where Ctrl-C arrives while the caller waits: at a known moment, as no signal does."""
    looks = itertools.count(1)

    def look(futures, timeout):
        if next(looks) == 3:
            raise KeyboardInterrupt
        return wait(futures, timeout)

    return look


def test_progress_is_told_about_twice_a_second():
    told = []
    run = really(Synchronous(lambda _: time.sleep(0.002)), told.append, duration=1.3, warmup=0.01).single_stream()
    assert (len(told), told[-1].is_warmup) == (2, False)
    assert 0 < told[0].queries < told[1].queries < len(run.log)
    assert told[1].p50 == pytest.approx(percentile(run.log.latencies, 50), rel=0.5)


def test_what_the_progress_callback_raises_ends_the_run():
    asked = []

    def broken(progress):
        raise BrokenPipeError("nobody reads")

    with pytest.raises(BrokenPipeError):
        really(Synchronous(asked.append), broken, duration=20).single_stream()
    time.sleep(0.05)
    queries = len(asked)
    time.sleep(0.05)
    assert queries == len(asked)


def test_the_closed_loop_takes_less_than_30_microseconds_a_query_and_none_of_it_is_latency():
    best, latency = 1.0, 1.0
    for _ in range(20):  # what else the machine does must not decide this
        run = really(Synchronous(lambda _: None), warmup=0.01, max_queries=2000).single_stream()
        best, latency = min(best, run.log.seconds / len(run.log)), min(latency, np.median(run.log.latencies) / 1e3)
        if best <= 30e-6 and latency <= 3e-6:
            return
    pytest.fail(f"{best * 1e6:.1f} µs a query, {latency * 1e6:.1f} µs of latency")


def test_the_real_clock_waits_until_the_moment_or_the_signal():
    clock, never, set_already = RealClock(), threading.Event(), threading.Event()
    set_already.set()
    began = clock.now()
    clock.wait(began + 60 * SECOND, set_already)
    before, late = time.thread_time(), []
    for _ in range(50):
        due = clock.now() + 2 * MILLISECOND
        clock.wait(due, never)
        late.append(clock.now() - due)
    assert min(late) >= 0
    assert sorted(late)[10] < MILLISECOND  # a busy machine may wake most of them late, not all
    assert time.thread_time() - before < 0.05 < (clock.now() - began) / SECOND < 30


@pytest.mark.parametrize(
    ("run", "complaint"),
    [
        (lambda: really(None).closed_loop(concurrency=0), "concurrency must be at least 1, got 0"),
        (lambda: really(None).multi_stream(0), "samples_per_query must be at least 1, got 0"),
        (lambda: LoadGenerator(None, 0, Plan(1)).single_stream(), "samples must be at least 1, got 0"),
        (lambda: Plan(float("nan")), "duration must be 0 or more seconds, got nan"),
        (lambda: Plan(1, patience=0), "patience must be a positive number of seconds, got 0"),
    ],
)
def test_a_run_that_could_not_be_is_refused(run, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        run()
