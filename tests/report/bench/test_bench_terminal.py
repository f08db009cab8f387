"""A measurement in a terminal: whole at 110 columns, what is withheld and why, and the verdict last."""

import dataclasses
import io
import re

import pytest
from bench_reports import (
    CPU,
    FULL,
    INT8,
    INTERRUPTED,
    INVALID,
    LAUNCHES,
    MINIMAL,
    NAMED,
    OFFLINE,
    REPORTS,
    STALL,
    log,
)
from rich.console import Console

from aaexport.load.measurement import Load, Regression, Throughput
from aaexport.load.statistics import Ratio
from aaexport.report.bench import wording
from aaexport.report.bench.html import bench_html
from aaexport.report.bench.terminal import bench_view


def printed(report, width=110):
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(bench_view(report))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def words(report):
    """As a reader sees it who does not mind where lines break."""
    return " ".join(printed(report).split())


@pytest.mark.parametrize("report", [report for name, report in REPORTS.items() if name != "hostile"])
def test_every_report_is_whole_in_110_columns(report):
    lines = printed(report).splitlines()
    assert max(map(len, lines)) <= 110
    assert "…" not in "".join(lines)


@pytest.mark.parametrize(
    ("report", "verdict"),
    [(FULL, "VALID, but mind the warnings"), (CPU, "VALID"), (INVALID, "INVALID"),
     (INTERRUPTED, "INCOMPLETE: interrupted while measuring"),
     (dataclasses.replace(INVALID, complete=False), "INCOMPLETE: interrupted while measuring")],
)  # fmt: skip
def test_the_verdict_is_the_last_line(report, verdict):
    assert printed(report).splitlines()[-1] == verdict


def test_every_percentile_has_its_interval_below_it():
    text = printed(FULL)
    for found in FULL.percentiles:
        assert f"{wording.number(found.value)} " in text
        assert wording.interval(found) in text


def test_the_slowest_query_is_told():
    assert wording.number(STALL) in printed(FULL)


def test_a_withheld_percentile_says_how_many_queries_it_lacks():
    missing = {found.p: found.missing for found in INVALID.percentiles}
    said = ", ".join(f"p{p} needs {missing[p]:,}" for p in (90, 95, 99))
    assert printed(INVALID).count(f"withheld for want of more queries: {said}") == 1
    assert "withheld" not in printed(dataclasses.replace(FULL, throughput=(), peak=None))


def test_an_issue_delay_is_told_where_it_shows_in_the_latencies():
    late = dataclasses.replace(FULL, blocks=(log([4.0] * 500, gap=5.0, delay=0.5),))
    assert "sent late: p99 0.500 ms" in printed(late)
    assert "sent late" not in printed(FULL)


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (Load("multi-stream", 8), "multi-stream: the next query when the last is answered, 8 images each"),
        (Load("server", 1, "constant", 50.0), "50 queries a second at equal distances, 1 image each"),
        (Load("server", 1, "trace", 12.3456789), "the arrivals of a trace, on average 12.3457 queries a second"),
        (FULL.load, "800 queries a second at random times (Poisson, seed 7), 1 image each, 2 sessions, batches of up "
                    "to 8 images, gathered for at most 2 ms, p99 must keep 20 ms"),
        (OFFLINE.load, "offline: 4,096 images at once"),
    ],
)  # fmt: skip
def test_the_load_is_told_in_words(load, text):
    assert text in words(dataclasses.replace(MINIMAL, load=load))


def test_everything_that_was_found_is_told():
    text = words(FULL)
    for said in (
        "40,000 in 50.00 s, 799.9 images/s, 2 without an answer", "4.31 (4.20–4.90)", "95 % interval over 6 pairs",
        "process to first answer 1.910 s, loading the model 0.041 s, first query 0.00123 s",
        "812.5 queries a second with p99 ≤ 20 ms", "the rate was not held", "submit 0.113 ms, compute 0.524 ms",
        "64 compared with PyTorch in float32: none wrong",
        "1.02 (0.99–1.05) × the p50 of old.json, allowed 1.05: no",
        "fell back to the CPU: node_Gather_7", "1875 MHz of 1980, at least 1755", "up to 61 °C",
        "throttled power 31%", "GPU memory, MB", "by the GPU's events 0.431 ms",
        "cudnn_search HEURISTIC", "note: compile was left out", "warning: the GPU was throttled", "torch 2.13.0",
    ):  # fmt: skip
        assert said in text, said


def test_a_gpu_that_was_not_read_at_work_is_told_before_and_after():
    text = words(dataclasses.replace(FULL, gpu_load=None))
    for said in ("1980 → 1755 MHz of 1980", "41 → 61 °C", "throttled power"):
        assert said in text, said


def test_what_is_wrong_is_told():
    text = words(INVALID)
    for said in ("3 WRONG, largest error NaN", ": a real regression", "INVALID: 3 of 64 answers are wrong",
                 "÷ ours is withheld: other processes took 61% of the CPU"):  # fmt: skip
        assert said in text, said
    different = dataclasses.replace(CPU.comparisons[0], same_answers=False)
    assert "DIFFERENT" in printed(dataclasses.replace(CPU, comparisons=(different,)))


def test_loss_is_told_beside_speed_for_everyone():
    text = words(INT8)
    for said in (
        "kind int8", "guard int8, SQNR 36.5 dB, on 359 held-out images of digits; accuracy 99.16 % → 98.89 % of 359",
        "in float32 stages.1.attention: it cost most; node_Gemm_1: it was asked to stay in float32",
        "onnxruntime CPU int8 0.247 1 36.5 dB 100.0 % 98.89 % passes",
        "float32 file, onnxruntime CPU float32 0.510 2.04 (1.95–2.21) 128.4 dB 100.0 % 99.16 % –",
        "other.onnx, onnxruntime CPU quantized 0.510 2.04 (1.95–2.21) 17.4 dB 98.4 % – –",
        "float16 file, onnxruntime CPU float16 0.510 2.04 (1.95–2.21) NaN, inf – – TOO MUCH",
        "of the answers to 64 samples against those of PyTorch eager cpu float32; ties aside",
        "accuracy: on 359 labelled images, as the guard saw it",
    ):  # fmt: skip
        assert said in text, said
    assert "loss beside speed" not in words(CPU)
    assert "kind" not in words(CPU)


@pytest.mark.parametrize(
    ("name", "same", "said"),
    [("float16", True, "as float16 may"), ("int8", None, "not judged"), ("int8", False, "DIFFERENT"),
     ("float32", True, "the same"), ("onnx:x", None, "another model")],
)  # fmt: skip
def test_a_rivals_answers_are_told_by_its_kind(name, same, said):
    other = dataclasses.replace(CPU.comparisons[0], name=name, same_answers=same)
    assert wording.comparison_row(other)[-1] == said


def test_a_file_in_fewer_bits_without_a_verdict_says_so():
    card = dataclasses.replace(INT8.card, guard=None, kept=())
    assert "guard never judged, as far as is known; `aaexport verify` does" in words(
        dataclasses.replace(INT8, card=card)
    )


def test_too_few_pairs_have_a_range_and_no_interval():
    pair = dataclasses.replace(CPU.comparisons[0], ratio=Ratio(4.0, 3.0, 5.0, 3))
    text = printed(dataclasses.replace(CPU, comparisons=(pair,)))
    assert "4.00 (3.00–5.00)" in text
    assert "median and range over 3 pairs" in text


@pytest.mark.parametrize("shown", [printed, bench_html])
def test_without_a_verdict_there_is_no_interval_and_a_reason(shown):
    """A range of a few ratios must not pass for an interval, nor what is unknown for what is well."""
    regression = Regression("old.json", Ratio(1.52, 1.43, 1.74, 2), 0.05, False, "it must have 4 blocks, got 2")
    text = " ".join(shown(dataclasses.replace(CPU, regression=regression)).split())
    assert "1.52 × the p50 of old.json, allowed 1.05; no verdict: it must have 4 blocks, got 2" in text
    assert not re.search(r"1\.43|1\.74|real regression", text)


@pytest.mark.parametrize("shown", [printed, bench_html])
def test_an_interval_that_cannot_tell_is_shown_with_the_reason_and_is_no_good_news(shown):
    ratio = Ratio(1.86, 0.99, 1.9, 100, 1.01, 1.87)
    regression = Regression("old.json", ratio, 0.05, False, "it spans no change and a large one")
    text = " ".join(shown(dataclasses.replace(CPU, regression=regression)).split())
    said = "1.86 (1.01–1.87) × the p50 of old.json, allowed 1.05; no verdict: it spans no change and a large one"
    assert said in text
    assert "real regression" not in text


@pytest.mark.parametrize("shown", [printed, bench_html])
def test_launches_are_shown_with_the_spread_between_them(shown):
    text = shown(dataclasses.replace(CPU, launches=LAUNCHES))
    for said in ("within one", "fast and steady", "unsteady", "of 3 launches in turns"):
        assert said in text, said


def test_of_one_process_it_is_said_that_the_next_may_lie_elsewhere():
    said = "intervals are of this process; --launches 5 shows how far the next may lie"
    assert said in words(CPU)
    assert said not in words(dataclasses.replace(CPU, launches=LAUNCHES))
    assert said not in words(FULL)


def test_an_open_loop_is_not_faster_than_its_schedule():
    """Few queries in each of several blocks: what passes before the first and after the last counts too."""
    load = Load("server", arrivals="poisson", rate=10.0)
    assert "18 in 1.800 s, 3 blocks, 10.00 images/s" in words(
        dataclasses.replace(MINIMAL, load=load, blocks=(log([9.0] * 6, gap=50.0),) * 3)
    )
    one = dataclasses.replace(MINIMAL, load=load, blocks=(log([9.0] * 6, gap=100.0),))
    assert "6 in 0.600 s, 10.00 images/s" in words(one)
    slow = dataclasses.replace(MINIMAL, load=load, blocks=(log([1000.0] * 6, gap=100.0),))
    assert "6 in 1.500 s, 4.000 images/s" in words(slow)


def test_control_characters_of_names_reach_no_terminal():
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", printed(NAMED))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "withheld"), (0.0, "0"), (1.234e-5, "0.0000123"), (0.009, "0.009"), (0.2121, "0.212"), (9.9996, "10.00"),
     (99.996, "100.0"), (12345.6, "12,346")],
)  # fmt: skip
def test_a_number_has_about_three_digits_and_no_exponent(value, text):
    assert wording.number(value) == text


def test_one_of_anything_is_no_plural():
    report = dataclasses.replace(MINIMAL, threads=1, throughput=(Throughput(1, 1, 10.0, None, None),))
    assert "1 thread\n" in printed(report)
    assert "1 image each" in printed(report)
