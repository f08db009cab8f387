"""Single-stream blocks by a clock of our own, and what the machine did meanwhile by accounts of our own."""

import pytest

from aaexport.load import machine, single_stream
from aaexport.load.machine import MachineWatch
from aaexport.load.single_stream import BlockPlan, run_block

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


def watched(monkeypatch, before, after, own=(0, 0)):
    """The environment of a watch that read these accounts of the CPU, and of our own processes, at both ends."""
    accounts, own = iter((before, after)), iter(own)
    monkeypatch.setattr(machine, "_cpu_ticks", lambda: next(accounts))
    monkeypatch.setattr(machine, "_own_cpu_ticks", lambda workers: next(own))
    return MachineWatch().environment()


SHARES = ["steal_share", "other_load_share", "idle_share"]
# user nice system idle iowait irq softirq steal; 100 ticks pass: 60 of work, 15 + 5 of none, 20 of steal.
BEFORE = [1000, 0, 0, 5000, 0, 0, 0, 7000]
AFTER = [1040, 10, 10, 5015, 5, 0, 0, 7020]


def test_the_steal_share_is_of_what_passed_since_the_watch_began(monkeypatch):
    assert watched(monkeypatch, BEFORE, AFTER).steal_share == 0.2


def test_the_idle_share_is_what_nobody_used(monkeypatch):
    assert watched(monkeypatch, BEFORE, AFTER).idle_share == 0.2


STAT = """cpu  110 220 330 440 550 660 770 880 9 9
cpu0 10 20 30 40 50 60 70 80 9 9
cpu1 100 200 300 400 500 600 700 800 9 9
intr 5 6 7
"""


@pytest.mark.parametrize(
    ("usable", "ticks"),
    [({0}, [10, 20, 30, 40, 50, 60, 70, 80]), ({0, 1}, [110, 220, 330, 440, 550, 660, 770, 880]), ({2}, [])],
)
def test_only_processors_that_may_be_used_are_watched(monkeypatch, tmp_path, usable, ticks):
    (tmp_path / "stat").write_text(STAT)
    monkeypatch.setattr(machine, "Path", lambda name: tmp_path / name.removeprefix("/proc/"))
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: usable)
    assert machine._cpu_ticks() == ticks


def test_the_other_load_is_the_work_that_was_not_our_own(monkeypatch):
    assert watched(monkeypatch, BEFORE, AFTER, own=(300, 350)).other_load_share == 0.1


def test_the_other_load_is_never_below_0(monkeypatch):
    assert watched(monkeypatch, BEFORE, AFTER, own=(300, 370)).other_load_share == 0


@pytest.mark.parametrize("share", SHARES)
def test_nobody_had_a_share_when_no_tick_passed(monkeypatch, share):
    assert not getattr(watched(monkeypatch, BEFORE, BEFORE), share)


@pytest.mark.parametrize("share", SHARES)
def test_a_share_is_unknown_where_the_system_keeps_no_accounts(monkeypatch, share):
    assert getattr(watched(monkeypatch, [], []), share) is None
