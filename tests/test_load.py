"""Single-stream blocks by a clock of our own, statistics by hand, and the texts that judge a measurement."""

import numpy as np
import pytest

from aaexport.load import machine, single_stream
from aaexport.load.machine import Environment, MachineWatch
from aaexport.load.measurement import Comparison
from aaexport.load.single_stream import BlockPlan, run_block
from aaexport.load.statistics import Ratio, pairwise_ratio, percentile, queries_needed, spread
from aaexport.load.validity import shortfalls, warnings_about, why_no_ratio

SECOND = 1_000_000_000


class FakeClock:
    """Stands for the module `time`: it moves when a query takes its time, and by `reading` when the loop asks."""

    def __init__(self):
        self.nanoseconds = 0
        self.reading = 0

    def perf_counter(self):
        self.nanoseconds += self.reading
        return self.nanoseconds / SECOND

    def perf_counter_ns(self):
        return self.nanoseconds


class FakeQuery:
    """Remembers its numbers; the first `warm_after` take four times as long as the rest."""

    def __init__(self, clock, seconds, warm_after=0):
        self.clock, self.seconds, self.warm_after = clock, seconds, warm_after
        self.numbers = []

    def __call__(self, number):
        self.numbers.append(number)
        self.clock.nanoseconds += int(self.seconds * SECOND) * (4 if len(self.numbers) <= self.warm_after else 1)


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(single_stream, "time", clock)
    return clock


def plan(warmup=0.0, duration=1.0, min_queries=1, max_duration=100.0):
    return BlockPlan(warmup, duration, min_queries, max_duration)


def test_a_block_counts_for_its_duration(clock):
    assert run_block(FakeQuery(clock, 0.125), plan(duration=1)).tolist() == [SECOND // 8] * 8


def test_the_warm_up_is_not_counted(clock):
    query = FakeQuery(clock, 0.125, warm_after=2)
    latencies = run_block(query, plan(warmup=1, duration=1))
    assert (len(query.numbers), set(latencies.tolist())) == (2 + 8, {SECOND // 8})


def test_the_first_query_is_warm_up_even_if_none_was_asked_for(clock):
    query = FakeQuery(clock, 0.125, warm_after=1)
    latencies = run_block(query, plan(warmup=0, duration=1))
    assert (len(query.numbers), set(latencies.tolist())) == (1 + 8, {SECOND // 8})


def test_a_block_lasts_until_it_has_its_least_number_of_queries(clock):
    assert len(run_block(FakeQuery(clock, 0.125), plan(duration=0.25, min_queries=20))) == 20


def test_a_block_ends_at_its_longest_duration_with_fewer_queries(clock):
    assert len(run_block(FakeQuery(clock, 0.125), plan(min_queries=1000, max_duration=2))) == 16


def test_a_block_counts_one_query_at_least(clock):
    assert len(run_block(FakeQuery(clock, 5), plan(duration=0.001, max_duration=0.001))) == 1


def test_the_counted_queries_fill_the_duration_whatever_passes_between_them(clock):
    clock.reading = SECOND // 64
    assert run_block(FakeQuery(clock, 0.125), plan(duration=1)).sum() >= SECOND


def test_queries_are_numbered_from_0_through_warm_up_and_block(clock):
    query = FakeQuery(clock, 0.125)
    run_block(query, plan(warmup=1, duration=1))
    assert query.numbers == list(range(16))


@pytest.mark.parametrize("at", [0, 3])
def test_what_a_query_raises_ends_the_block(clock, at):
    def query(number):
        clock.nanoseconds += SECOND // 8
        if number == at:
            raise OSError("the runtime is gone")

    with pytest.raises(OSError, match="the runtime is gone"):
        run_block(query, plan())


@pytest.mark.parametrize(("p", "queries"), [(50, 7), (90, 44), (99, 459)])
def test_a_percentile_needs_as_many_queries_as_reach_beyond_it_with_99_percent_confidence(p, queries):
    assert queries_needed(p) == queries


@pytest.mark.parametrize("p", [50, 90, 99])
def test_a_sample_one_too_small_has_no_percentile(p, rng):
    assert percentile(rng.exponential(size=queries_needed(p) - 1), p) is None


@pytest.mark.parametrize("p", [50, 90, 99])
def test_a_percentile_is_the_nearest_rank_of_numpy(p, rng):
    for size in range(queries_needed(p), queries_needed(p) + 250):
        latencies = rng.exponential(size=size)
        assert percentile(latencies, p) == np.percentile(latencies, p, method="inverted_cdf"), size


def test_a_percentile_leaves_the_sample_in_its_order(rng):
    latencies = rng.exponential(size=100)
    before = latencies.copy()
    percentile(latencies, 50)
    np.testing.assert_array_equal(latencies, before)


def test_a_ratio_is_that_of_the_medians_of_neighbouring_blocks():
    slower = [np.asarray([2.0, 2.0, 90.0]), np.asarray([6.0]), np.asarray([4.0, 8.0])]
    faster = [np.asarray([1.0]), np.asarray([2.0, 2.0, 70.0]), np.asarray([1.0])]
    assert pairwise_ratio(slower, faster) == Ratio(median=3, lowest=2, highest=6, pairs=3)


def test_a_ratio_needs_blocks_in_pairs():
    with pytest.raises(ValueError, match="shorter"):
        pairwise_ratio([np.ones(1), np.ones(1)], [np.ones(1)])


def test_the_spread_of_equal_block_medians_is_0():
    assert spread([np.asarray([1.0, 2.0, 50.0]), np.asarray([2.0])]) == 0


def test_the_spread_is_the_range_of_the_block_medians_by_their_median():
    assert spread([np.asarray([1.0]), np.asarray([2.0]), np.asarray([4.0])]) == 1.5


def watched(monkeypatch, before, after, own=(0, 0)):
    """The environment of a watch that read these accounts of the CPU, and of our own processes, at both ends."""
    accounts, own = iter((before, after)), iter(own)
    monkeypatch.setattr(machine, "_cpu_ticks", lambda: next(accounts))
    monkeypatch.setattr(machine, "_own_cpu_ticks", lambda workers: next(own))
    return MachineWatch().environment()


# user nice system idle iowait irq softirq steal; 100 ticks pass: 60 of work, 15 + 5 of none, 20 of steal.
BEFORE = [1000, 0, 0, 5000, 0, 0, 0, 7000]
AFTER = [1040, 10, 10, 5015, 5, 0, 0, 7020]


def test_the_steal_share_is_of_what_passed_since_the_watch_began(monkeypatch):
    assert watched(monkeypatch, BEFORE, AFTER).steal_share == 0.2


def test_the_other_load_is_the_work_that_was_not_our_own(monkeypatch):
    assert watched(monkeypatch, BEFORE, AFTER, own=(300, 350)).other_load_share == 0.1


def test_the_other_load_is_never_below_0(monkeypatch):
    assert watched(monkeypatch, BEFORE, AFTER, own=(300, 370)).other_load_share == 0


@pytest.mark.parametrize("share", ["steal_share", "other_load_share"])
def test_nobody_had_a_share_when_no_tick_passed(monkeypatch, share):
    assert not getattr(watched(monkeypatch, BEFORE, BEFORE), share)


@pytest.mark.parametrize("share", ["steal_share", "other_load_share"])
def test_a_share_is_unknown_where_the_system_keeps_no_accounts(monkeypatch, share):
    assert getattr(watched(monkeypatch, [], []), share) is None


def blocks_of(*counts, latency=10.0):
    """Blocks of `counts` latencies, all of `latency` milliseconds."""
    return [np.full(count, latency) for count in counts]


def warned(blocks, *comparisons, steal=None, other_load=None):
    environment = Environment("a processor", 2, "a system", "3.11", 0.0, steal, other_load)
    return warnings_about(blocks, comparisons, environment)


def compared(*blocks):
    return Comparison(
        "eager", "PyTorch eager cpu float32", 10.0, 0.1, Ratio(1.0, 1.0, 1.0, len(blocks)), None, blocks
    )


def test_44_queries_of_the_whole_duration_fall_short_of_nothing():
    assert shortfalls(blocks_of(40, 4), duration=0.44) == ()


def test_too_few_queries_are_a_reason():
    (reason,) = shortfalls(blocks_of(40, 3), duration=0.4)
    assert reason == "44 queries must be counted, got 43; measure longer with --duration"


def test_too_little_time_is_a_reason():
    assert shortfalls(blocks_of(100), duration=2) == ("2 s of queries must be counted, got 1.00 s",)


def test_a_quiet_and_long_measurement_has_no_warnings():
    assert warned(blocks_of(300, 300), compared(*blocks_of(5, 5)), steal=0.0, other_load=0.0) == ()


def test_a_withheld_percentile_says_how_many_queries_it_lacks():
    (warning,) = warned(blocks_of(200, 200))
    assert warning == "p99 is withheld: it needs 59 more queries; measure longer with --duration"


def test_every_withheld_percentile_is_named():
    warnings = warned(blocks_of(3))
    assert [warning.split()[0] for warning in warnings] == ["p50", "p90", "p99"]


def test_unsteady_blocks_are_warned_about():
    (warning,) = warned([*blocks_of(300, latency=10), *blocks_of(300, latency=12)])
    expected = "onnxruntime's block medians differ by 18%: the machine is not quiet; close what else runs"
    assert warning == expected


def test_unsteady_blocks_of_a_rival_are_warned_about():
    unsteady = compared(*blocks_of(5, latency=10), *blocks_of(5, latency=12))
    (warning,) = warned(blocks_of(300, 300), unsteady)
    assert warning.startswith("eager's block medians differ by 18%")


def test_steal_is_warned_about():
    (warning,) = warned(blocks_of(300, 300), steal=0.06)
    assert warning == "the hypervisor took 6% of the CPU: absolute times are too long, ratios less so"


def test_the_load_of_other_processes_is_warned_about():
    (warning,) = warned(blocks_of(300, 300), other_load=0.11)
    text = (
        "other processes took 11% of the CPU: times and ratios are not the model's own; stop them and measure again"
    )
    assert warning == text


@pytest.mark.parametrize(("steal", "other_load"), [(None, None), (0.0, 0.0), (0.05, 0.1)])
def test_what_took_little_of_the_cpu_is_not_warned_about(steal, other_load):
    assert warned(blocks_of(300, 300), steal=steal, other_load=other_load) == ()


@pytest.mark.parametrize(("other_load", "words"), [(0.05, None), (None, None), (0.48, "other processes took 48%")])
def test_a_ratio_is_withheld_where_other_processes_decided_it(other_load, words):
    reason = why_no_ratio(Environment("cpu", 2, "system", "3.11", 0.0, 0.0, other_load))
    assert reason is None if words is None else words in reason
