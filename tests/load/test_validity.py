"""Which measurements are invalid, and in what words: one fault at a time, beside the measurement that just passes."""

import numpy as np
import pytest
from query_logs import closed, opened

from aaexport.load import arrivals
from aaexport.load.lengths import RULES
from aaexport.load.machine import Environment
from aaexport.load.measurement import AnswerCheck, Comparison, Load
from aaexport.load.run import QueryLog, Trouble
from aaexport.load.statistics import Ratio
from aaexport.load.validity import (
    note_on_mlperf,
    warnings_about_the_machine,
    why_invalid,
    why_no_ratio,
    why_starved,
)
from aaexport.parity.report import Placement

SINGLE = Load("single-stream")


def server(rate=100.0, bound=None, arrivals="poisson"):
    return Load("server", arrivals=arrivals, rate=rate, latency_bound=bound)


def reasons(latencies=None, load=SINGLE, duration=0.44, **rest):
    """Of a closed loop, by default of 44 queries of 10 ms."""
    return why_invalid([closed(np.full(44, 10.0) if latencies is None else latencies)], load, duration, **rest)


def reasons_of_server(latencies, rate=100.0, bound=None, duration=None, delays=0, unanswered=0, **rest):
    return why_invalid([opened(latencies, rate, delays, unanswered)], server(rate, bound), duration, **rest)


def test_44_queries_of_the_whole_duration_are_valid():
    assert reasons() == ()


def test_too_few_queries_are_a_reason():
    expected = "44 queries must be counted, got 43; measure longer with --duration"
    assert reasons(np.full(43, 10.0), duration=0.4) == (expected,)


def test_queries_count_over_all_blocks():
    assert why_invalid([closed(np.full(22, 10.0))] * 2, SINGLE, 0.44) == ()


def test_too_little_time_is_a_reason():
    (reason,) = reasons(np.full(100, 10.0), duration=2)
    assert reason == "2 s of queries must be counted, got 1.00 s; measure longer with --duration"


def test_no_query_at_all_is_a_reason_and_no_crash():
    assert len(why_invalid([], SINGLE, 1)) == len(why_invalid([closed([])], server(), 1)) == 2


def test_an_offline_run_is_one_query():
    assert reasons([1000.0], Load("offline", samples_per_query=64), duration=1) == ()


def test_a_schedule_may_end_a_few_gaps_after_its_last_arrival_however_late_its_answer():
    latencies = np.ones(50)
    latencies[-1] = 9000
    assert reasons_of_server(latencies, rate=10, duration=6) == ()
    (reason,) = reasons_of_server(latencies, rate=10, duration=7)
    assert reason.startswith("7 s of queries must be counted, got 4.90 s")


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (Trouble(errors={"out of memory": 3}), "3 queries failed: out of memory"),
        (Trouble(lost=2), "every query must be answered, got no answer to 2"),
        (Trouble(doubled=1), "every query must be answered once, got several answers to 1"),
        (Trouble(unknown=1), "every answer must be to a query, got others: 1"),
        (Trouble(hung=True), "every query must return, got one that had not when the run was given up"),
    ],
)
def test_what_no_system_may_do_is_a_reason(trouble, reason):
    assert reasons(trouble=trouble) == (reason,)


def test_a_few_errors_are_quoted_and_the_others_counted():
    found = reasons(trouble=Trouble(errors={f"error {number}": 1 for number in range(5)}))
    assert found[-1] == "queries failed with 2 other errors"
    assert len(found) == 4


def test_a_measurement_that_was_broken_off_says_so_and_not_that_it_is_short():
    (reason,) = reasons(np.full(9, 10.0), duration=60, aborted="interrupted")
    assert reason == "the measurement ended before its plan, after 9 answers: interrupted"


def test_wrong_answers_are_a_reason():
    assert reasons(check=AnswerCheck("PyTorch", 64, 0, 1e-6)) == ()
    (reason,) = reasons(check=AnswerCheck("PyTorch", 64, 3, 0.25))
    assert reason.startswith("answers must equal those of PyTorch, got 3 of 64 that differ, the worst by 0.25")


@pytest.mark.parametrize(("same", "count"), [(True, 0), (None, 0), (False, 1)])
def test_a_rival_with_the_same_weights_must_answer_alike(same, count):
    rival = Comparison("eager", "PyTorch eager", 10.0, 0.1, Ratio(1.0, 1.0, 1.0, 1), None, (np.ones(3),), same)
    found = reasons(comparisons=[rival])
    assert len(found) == count
    assert all(reason.startswith("the measured file and eager must answer alike") for reason in found)


def test_nodes_on_the_cpu_are_a_reason_unless_they_are_allowed():
    placement = Placement("CUDA", {"CUDA": 9, "CPU": 4}, ("Resize_1", "TopK_2", "NonZero_3", "Loop_4"))
    (reason,) = reasons(placement=placement)
    assert reason == (
        "every node must run on CUDA, got 4 on the CPU (Resize_1, TopK_2, NonZero_3 and 1 more); "
        "write the file by --target cuda of convert or optimize, or accept it with --allow-fallback"
    )
    assert reasons(placement=placement, allow_fallback=True) == ()
    assert reasons(placement=Placement("CUDA", {"CUDA": 13})) == ()


def test_a_rate_that_was_not_held_is_a_reason():
    growing = np.linspace(10, 1200, 1000)  # 1,000 queries, due within 10 s, are answered within 11.2 s
    (reason,) = reasons_of_server(growing)
    assert reason == "100.0 queries a second must be answered, got 89.4; lower --rate"


def fifo(rng, queries, load, rate=10.0):
    """Poisson arrivals at one server whose answers all take the same time (M/D/1), from an empty queue on."""
    due = np.cumsum(rng.exponential(1 / rate, queries))
    before = np.arange(queries) * load / rate
    done = np.maximum.accumulate(due - before) + before + load / rate
    nanoseconds = (due * 1e9).astype(np.int64)
    return QueryLog(nanoseconds, nanoseconds, (done * 1e9).astype(np.int64), np.ones(queries, np.int32))


@pytest.mark.parametrize(("blocks", "queries"), [(10, 6), (1, 62), (1, 600), (10, 600)])
def test_a_rate_that_is_held_is_no_reason_however_the_arrivals_fall(rng, blocks, queries):
    invalid = [
        found
        for _ in range(200)
        if (found := why_invalid([fifo(rng, queries, 0.9) for _ in range(blocks)], server(10.0), None))
    ]
    assert len(invalid) <= 2, invalid


@pytest.mark.parametrize(("blocks", "queries"), [(1, 600), (10, 60)])
def test_a_rate_that_is_half_as_high_again_as_can_be_held_is_always_found(rng, blocks, queries):
    for _ in range(100):
        (reason,) = why_invalid([fifo(rng, queries, 1.5) for _ in range(blocks)], server(10.0), None)
        assert "queries a second must be answered" in reason


def test_poisson_blocks_that_end_before_their_time_are_as_long_as_was_asked_for():
    """Ten schedules of 0.6 s and about 6 queries each, which nearly all end before that and begin after 0."""
    for seed in range(0, 1000, 10):
        logs = []
        for block in range(10):
            due = arrivals.poisson(10, 0.6, 5, seed + block)
            logs.append(QueryLog(due, due, due + 9_000_000, np.ones(len(due), np.int32)))
        assert why_invalid(logs, server(10.0), 6) == ()


@pytest.mark.parametrize("at", [100, 999])
def test_a_stall_is_not_a_rate_that_was_not_held(at):
    latencies = np.full(1000, 10.0)
    latencies[at] = 2000
    assert reasons_of_server(latencies) == ()


@pytest.mark.parametrize(("delay", "count"), [(4, 0), (6, 1)])
def test_queries_that_were_sent_late_rather_than_answered_late_are_a_reason(delay, count):
    found = reasons_of_server(np.full(100, 10.0), delays=delay)
    assert len(found) == count
    assert all(reason.startswith("queries must be sent when they are due, got a delay of 60%") for reason in found)


def over(count, queries):
    """So many of these queries take 30 ms, all others 10 ms; not in a row."""
    latencies = np.full(queries, 10.0)
    latencies[5 : 5 + 20 * count : 20] = 30
    return latencies


@pytest.mark.parametrize(("count", "queries"), [(0, 459), (1, 662), (4, 2000)])
def test_a_latency_bound_is_kept_if_early_stopping_has_it(count, queries):
    assert reasons_of_server(over(count, queries), bound=20) == ()


@pytest.mark.parametrize(
    ("count", "queries", "required"), [(0, 458, 459), (1, 661, 662), (9, 1000, 1874)], ids=["none", "one", "nine"]
)
def test_a_bound_that_too_few_queries_show_to_be_kept_is_a_reason(count, queries, required):
    assert reasons_of_server(over(count, queries), bound=20) == (
        f"p99 must keep 20 ms with 99% confidence, which takes {required:,} queries if {count} are over it, "
        f"got {queries:,}; measure longer with --duration",
    )


def test_a_broken_bound_is_a_reason():
    expected = "p99 must keep 20 ms with 99% confidence, got 11 of 1,000 queries over it; lower --rate"
    assert reasons_of_server(over(11, 1000), bound=20) == (expected,)


def test_a_query_without_an_answer_is_over_the_bound():
    (reason,) = reasons_of_server(over(0, 662), bound=20, unanswered=2)
    assert "if 2 are over it" in reason
    assert reasons_of_server(over(0, 662), bound=20, unanswered=1) == ()


def test_mlperfs_rules_ask_for_600_seconds_and_their_own_counts():
    assert reasons(np.full(63, 10.0), rules="mlperf") == (
        "64 queries must be counted by MLPerf's rules, got 63; measure longer with --duration",
        "600 s of queries must be counted by MLPerf's rules, got 0.63 s; measure longer with --duration",
    )
    assert reasons(np.full(64, 10_000.0), rules="mlperf") == ()


def test_mlperfs_rules_ask_for_samples_of_an_offline_run():
    def found(samples):
        return why_invalid([closed([600_000.0], samples)], Load("offline", samples), 600, rules="mlperf")

    assert found(RULES["offline"].min_samples) == ()
    assert [reason.split(" must")[0] for reason in found(24_575)] == ["24,576 images"]


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (Load("multi-stream", 1), "a query must have 8 images"),
        (server(bound=20, arrivals="constant"), "arrivals must be poisson"),
        (server(), "the server scenario must have a latency bound"),
    ],
)
def test_mlperfs_rules_say_what_the_load_must_be(load, words):
    log = closed(np.full(700, 1000.0)) if load.arrivals is None else opened(np.full(70_000, 1.0), 100)
    (reason,) = why_invalid([log], load, 600, rules="mlperf")
    assert reason.startswith(words)
    assert why_invalid([log], load, 600) == ()


@pytest.mark.parametrize(
    ("seconds", "rules", "is_noted"), [(6, "quick", 0), (90, "quick", 1), (700, "quick", 0), (90, "mlperf", 0)]
)
def test_mlperf_is_mentioned_to_those_only_who_nearly_kept_its_rules(seconds, rules, is_noted):
    note = note_on_mlperf([closed(np.full(seconds, 1000.0))], SINGLE, rules)
    assert (note is not None) == is_noted


def warned(steal=None, other_load=None):
    return warnings_about_the_machine(Environment("a processor", 2, "a system", "3.11", 0.0, steal, other_load))


def test_steal_is_warned_about():
    (warning,) = warned(steal=0.06)
    assert warning == "the hypervisor took 6% of the CPU: absolute times are too long, ratios less so"


def test_the_load_of_other_processes_is_warned_about():
    (warning,) = warned(other_load=0.11)
    text = (
        "other processes took 11% of the CPU: times and ratios are not the model's own; stop them and measure again"
    )
    assert warning == text


@pytest.mark.parametrize(("steal", "other_load"), [(None, None), (0.0, 0.0), (0.05, 0.1)])
def test_what_took_little_of_the_cpu_is_not_warned_about(steal, other_load):
    assert warned(steal, other_load) == ()


@pytest.mark.parametrize(("other_load", "words"), [(0.05, None), (None, None), (0.48, "other processes took 48%")])
def test_a_ratio_is_withheld_where_other_processes_decided_it(other_load, words):
    reason = why_no_ratio(Environment("cpu", 2, "system", "3.11", 0.0, 0.0, other_load))
    assert reason is None if words is None else words in reason


def starved(other_load, steal=0.0, idle=0.0):
    return why_starved(Environment("cpu", 2, "system", "3.11", 0.0, steal, other_load, idle))


@pytest.mark.parametrize(
    ("other_load", "steal", "idle"),
    [(0.9, 0.0, 0.02), (0.26, 0.0, 0.0), (0.5, 0.0, 0.24), (0.13, 0.13, 0.0), (0.0, 0.5, 0.0), (0.5, None, None)],
)
def test_a_measurement_that_others_left_too_little_of_the_cpu_is_invalid(other_load, steal, idle):
    environment = Environment("cpu", 2, "system", "3.11", 0.0, steal, other_load, idle)
    (reason,) = reasons(environment=environment)
    assert reason.startswith(
        "at least 75% of the CPU must be left to the measurement, or some of it idle, but other "
    )
    assert reason.endswith("the times are not the model's own; stop them and measure again")


@pytest.mark.parametrize(
    ("other_load", "steal", "idle"),
    [(0.25, 0.0, 0.0), (0.13, 0.12, 0.0), (0.6, 0.0, 0.25), (0.0, 0.0, 1.0), (None, None, None)],
    ids=["a quarter", "a quarter together", "with room beside them", "quiet", "nothing known"],
)
def test_what_left_enough_of_the_cpu_is_no_reason(other_load, steal, idle):
    assert reasons(environment=Environment("cpu", 2, "system", "3.11", 0.0, steal, other_load, idle)) == ()


def test_the_reason_names_who_took_it():
    assert "but other processes took 90%: the times" in starved(0.9)[0]
    assert "but other processes took 20% and the hypervisor 40%: the times" in starved(0.2, steal=0.4)[0]
