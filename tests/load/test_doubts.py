"""What a measurement is warned about: one disturbance at a time, beside the one that is too small to mention."""

from dataclasses import replace

import numpy as np
import pytest
from query_logs import closed, opened

from aaexport.load.doubts import warnings_about
from aaexport.load.gpu import GpuState
from aaexport.load.gpu_watch import GpuLoad
from aaexport.load.machine import Environment
from aaexport.load.measurement import Comparison, Load, Phases
from aaexport.load.statistics import Ratio

QUIET = Environment("a processor", 2, "a system", "3.11", 0.0, 0.0, 0.0)
COOL = GpuState("a GPU", "580", "13.0", 1980, 1980, 2600, 60, 300.0)


def warned(*blocks, load=None, environment=QUIET, **rest):
    return warnings_about([closed(block) for block in blocks], load or Load("single-stream"), environment, **rest)


def warned_of_server(latencies, delays=0):
    return warnings_about([opened(latencies, 100, delays)], Load("server", arrivals="poisson", rate=100.0), QUIET)


def steady(level=10.0, count=300):
    """Latencies that rise and fall by 2 % from query to query."""
    return level * (1 + 0.02 * np.cos(np.arange(count) * 2.4))


def test_a_quiet_measurement_has_no_warnings():
    rival = Comparison("eager", "PyTorch eager", 10.0, 0.1, Ratio(1, 1, 1, 2), None, (steady(), steady()))
    phases = Phases(to_device=0.1, submit=0.2, compute=1.0, to_host=0.1)
    assert warned(steady(), steady(), comparisons=[rival], phases=phases, gpu_before=COOL, gpu_after=COOL) == ()
    assert warned_of_server(steady()) == ()


def test_who_had_the_cpu_is_not_said_again_where_it_makes_the_measurement_invalid():
    assert warned(steady(), environment=replace(QUIET, other_load_share=0.2)) != ()
    assert warned(steady(), environment=replace(QUIET, other_load_share=0.9)) == ()


def test_nothing_is_said_of_no_answers():
    assert warned() == warned([]) == warned_of_server([]) == ()


def test_unsteady_blocks_are_warned_about():
    (warning,) = warned(steady(10), steady(12), steady(10))
    expected = "onnxruntime's block medians differ by 20%: the machine is not quiet; close what else runs"
    assert warning == expected


@pytest.mark.parametrize(("level", "words"), [(109, "990%"), (110, "a factor of 11"), (31_100, "a factor of 3,110")])
def test_what_differs_by_more_than_a_few_times_is_told_as_a_factor(level, words):
    (warning,) = warned(steady(10), steady(10), steady(level))
    assert f"block medians differ by {words}:" in warning


def test_unsteady_blocks_of_a_rival_are_warned_about():
    rival = Comparison("eager", "PyTorch eager", 10.0, 0.1, None, None, (steady(10), steady(12)))
    (warning,) = warned(steady(), steady(), comparisons=[rival])
    assert warning.startswith("eager's block medians differ by 18%")


def test_the_parts_of_one_closed_loop_are_compared_like_blocks():
    (warning, *_) = warned(np.concatenate([steady(10), steady(12)]))
    assert warning.startswith("onnxruntime's block medians differ by")


def test_a_queue_that_grows_is_warned_about_and_one_that_comes_and_goes_is_not():
    (warning, *_) = warned_of_server(np.linspace(10, 70, 600))
    assert warning == (
        "the median latency grows from 20 to 60 ms during the run: the queue seems to fill faster than it is served; "
        "lower --rate, or measure longer with --duration"
    )
    waves = np.concatenate([steady(10), steady(30), steady(10)])
    assert not any("grows" in warning for warning in warned_of_server(waves))


def test_percentiles_of_latencies_that_depend_on_each_other_are_warned_about(rng):
    bursts = np.where(np.arange(2000) % 500 < 12, 30.0, 10.0) + rng.random(2000)  # 2.4 % in four bursts
    (warning,) = warned_of_server(bursts)
    assert "the intervals of p99 are too narrow; measure " in warning
    assert warned_of_server(rng.permutation(bursts)) == ()


@pytest.mark.parametrize(("delays", "words"), [(0.5, None), (2.0, "at p50 by 20% of the latency")])
def test_queries_that_were_sent_late_are_warned_about(delays, words):
    warnings = warned_of_server(steady(), delays)
    assert len(warnings) == (words is not None)
    assert all(words in warning for warning in warnings)


def test_queries_of_which_a_few_were_sent_late_are_warned_about(rng):
    delays = rng.permutation(np.where(np.arange(1000) < 30, 8.0, 0.0))
    (warning,) = warned_of_server(steady(count=1000), delays)
    assert warning.startswith("queries were sent late, at p99 by 78% of the latency")


def test_the_machine_is_looked_at():
    (warning,) = warned(steady(), environment=replace(QUIET, steal_share=0.2))
    assert warning.startswith("the hypervisor took 20% of the CPU")


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        (
            Phases(0.1, 0.8, 1.0, 0.1),
            "enqueue-bound: of the 1 ms until the GPU has computed, the host takes 0.8 ms to submit the work",
        ),
        (Phases(1.0, 0.1, 1.2, 0.5), "transfer-bound: copies take 1.5 ms and computing 1.2 ms"),
    ],
)
def test_what_a_query_on_the_gpu_waits_for_is_warned_about(phases, words):
    (warning,) = warned(steady(), phases=phases)
    assert warning.startswith(words)


def test_copies_that_are_in_no_query_are_not_warned_about_and_what_is_done_is_no_remedy():
    phases = Phases(1.0, 0.1, 1.2, 0.5)
    assert "lock them with --pinned" in warned(steady(), phases=phases)[0]
    assert "--pinned" not in warned(steady(), phases=phases, pinned=True)[0]
    assert warned(steady(), phases=phases, stays=True) == ()
    (warning,) = warned(steady(), load=Load("offline"), phases=phases)
    assert warning.endswith("keep inputs and outputs on the GPU, or make them smaller")


def test_a_graph_is_no_remedy_where_nodes_are_on_the_cpu():
    phases = Phases(0.1, 0.8, 1.0, 0.1)
    assert warned(steady(), phases=phases)[0].endswith("; use --cuda-graph or a larger --batch")
    assert warned(steady(), phases=phases, on_cpu=True)[0].endswith("or a file without nodes on the CPU")


def test_a_host_that_is_a_little_ahead_of_the_gpu_is_not_warned_about():
    assert warned(steady(), phases=Phases(0.1, 0.79, 1.0, 0.1)) == ()


def test_a_gpu_that_is_held_back_is_warned_about():
    (warning,) = warned(steady(), gpu_before=COOL, gpu_after=replace(COOL, throttled=("thermal", "power")))
    assert warning.startswith("the GPU was held back (thermal, power)")


def test_a_gpu_whose_clock_fell_is_warned_about_and_one_whose_clock_rose_is_not():
    slow = replace(COOL, sm_clock=1400)
    (warning,) = warned(steady(), gpu_before=COOL, gpu_after=slow)
    assert warning.startswith("the GPU's clock fell from 1980 to 1400 MHz")
    assert warned(steady(), gpu_before=slow, gpu_after=COOL) == ()
    assert warned(steady(), gpu_before=COOL, gpu_after=None) == ()


AT_WORK = GpuLoad(50, 1980.0, 1970, 1980.0, 1980.0, 70, 500.0, {}, None)


def test_what_a_gpu_did_while_queries_ran_counts_and_not_how_it_rests():
    rests = replace(COOL, sm_clock=345, throttled=("power",))
    assert warned(steady(), gpu_before=COOL, gpu_after=rests, gpu_load=AT_WORK) == ()


def test_a_gpu_that_is_held_back_while_it_works_is_warned_about_with_the_share():
    (warning,) = warned(steady(), gpu_load=replace(AT_WORK, throttled={"power": 0.31, "thermal": 0.01}))
    assert warning.startswith("the GPU was held back (power in 31% of the readings): its times")


def test_a_gpu_whose_clock_falls_while_it_works_is_warned_about():
    (warning,) = warned(steady(), gpu_load=replace(AT_WORK, sm_clock_last=1755.0))
    assert warning.startswith("the GPU's clock fell from 1980 to 1755 MHz while it was measured")
