"""A measurement as JSON: every field documented, strict, and read again as the baseline of a regression test."""

import dataclasses
import json
from typing import get_args, get_type_hints

import numpy as np
import pytest
from bench_reports import CPU, FULL, H100, INT8, INVALID, LAUNCHES, NOTHING, REPORTS, SERVICE, lost
from repository import ROOT
from schema_pages import described, leaves

from aaexport.errors import DataError
from aaexport.load.gpu import GpuState
from aaexport.load.gpu_watch import GpuLoad
from aaexport.load.machine import Environment
from aaexport.load.measurement import (
    Comparison,
    GuardRecord,
    Load,
    Loss,
    ModelCard,
    ParityRecord,
    Peak,
    Throughput,
    Trial,
)
from aaexport.load.statistics import Ratio
from aaexport.parity.by_layer import LayerLoss
from aaexport.report.bench.as_json import BENCH_SCHEMA, bench_json, bench_text
from aaexport.report.bench.baseline import read_baseline, why_not_comparable

SCHEMA = ROOT / "docs" / "bench_schema.md"
OPEN = (
    "settings",
    "card.operators",
    "percentiles",
    "placement.nodes",
    "gpu_load.throttled",
    "tools",
)  # objects whose names are free
every_report = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)


def paths(value):
    return leaves(value, OPEN)


def documented():
    return described(SCHEMA)


EVERYTHING = dataclasses.replace(
    FULL, blocks=(lost(CPU.blocks[0], 3),), reasons=("not quiet",), gpu_before=FULL.gpu_after, service=SERVICE,
    loss=INT8.loss, card=INT8.card, comparisons=INT8.comparisons[:3],
)  # fmt: skip


def test_the_documented_fields_are_those_written():
    assert set(documented()) == {path for path, _ in paths(bench_json(EVERYTHING, raw=True))}


@pytest.mark.parametrize("report", [EVERYTHING, dataclasses.replace(INVALID, reasons=())], ids=["full", "invalid"])
def test_what_is_written_has_the_documented_type(report):
    names = {str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    types = documented()
    for path, value in paths(bench_json(report, raw=True)):
        if path in types and types[path] != "any":  # a part that is null has no path of its own
            assert names[type(value)] in types[path].split(" or "), path


@pytest.mark.parametrize(
    ("kind", "path"),
    [(Load, "load"), (Throughput, "throughput[]"), (Comparison, "comparisons[]"), (Ratio, "comparisons[].ratio"),
     (Ratio, "regression.ratio"), (Peak, "peak"), (Trial, "peak.trials[]"), (ModelCard, "card"),
     (Loss, "loss"), (Loss, "comparisons[].loss"), (GuardRecord, "card.guard"), (LayerLoss, "card.guard.layers[]"),
     (ParityRecord, "card.parity"), (GpuState, "gpu_before"), (GpuState, "gpu_after"), (GpuLoad, "gpu_load"),
     (Environment, "environment")],
)  # fmt: skip
def test_what_may_be_null_is_documented_as_such(kind, path):
    for name, hint in get_type_hints(kind).items():
        if f"{path}.{name}" in documented():
            assert (type(None) in get_args(hint)) == ("null" in documented()[f"{path}.{name}"]), name


def test_the_documented_schema_is_the_one_written():
    title = SCHEMA.read_text(encoding="utf-8").splitlines()[0]
    assert title.endswith(f"`{bench_json(NOTHING, raw=False)['schema']}`")


@every_report
def test_json_is_strict_and_begins_with_the_verdict(report):
    value = json.loads(json.dumps(bench_json(report, raw=True), allow_nan=False))
    assert list(value)[:3] == ["schema", "valid", "complete"]
    assert (value["valid"], value["reasons"]) == (report.valid, list(report.reasons))


def test_without_raw_times_the_size_does_not_follow_the_queries():
    assert len(bench_text(bench_json(FULL, raw=False))) < 10_000


def test_a_baseline_has_the_launches_of_its_own_threads(tmp_path):
    path = tmp_path / "old.json"
    for threads, count in ((1, 3), (2, 3), (None, 0)):
        report = dataclasses.replace(CPU, threads=threads, launches=LAUNCHES)
        path.write_text(bench_text(bench_json(report, raw=True)))
        assert len(read_baseline(path).launches) == count
    assert read_baseline(path).medians
    before = bench_json(CPU, raw=True)
    del before["launches"]  # as it was written before there were any
    path.write_text(bench_text(before))
    assert read_baseline(path).launches == ()


def test_an_answer_that_never_came_has_no_time():
    completed = bench_json(EVERYTHING, raw=True)["blocks"][0]["completed_ns"]
    assert [place for place, time in enumerate(completed) if time is None] == [3]


def test_the_text_is_the_value_with_a_line_for_each_list_of_numbers():
    report = dataclasses.replace(FULL, notes=("[\n 1,\n 2\n]",))
    value = bench_json(report, raw=True)
    text = bench_text(value)
    assert json.loads(text) == value
    alone = bench_text(bench_json(dataclasses.replace(report, launches=None), raw=True))
    assert alone.count("\n") < 400
    assert text.count("\n") < 460  # six launches more


# The baseline


def written(tmp_path, value):
    path = tmp_path / "old.json"
    path.write_text(value if isinstance(value, str) else bench_text(value), encoding="utf-8")
    return path


def changed(**changes):
    return bench_json(CPU, raw=True) | changes


def test_a_baseline_has_the_times_of_every_query(tmp_path):
    report = dataclasses.replace(FULL, blocks=(lost(CPU.blocks[0], 3), CPU.blocks[1]))
    baseline = read_baseline(written(tmp_path, bench_json(report, raw=True)))
    for old, new in zip(baseline.blocks, report.blocks, strict=True):
        for name in ("scheduled", "issued", "completed", "samples"):
            found, expected = getattr(old, name), getattr(new, name)
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)
    assert (baseline.load, baseline.gpu, baseline.valid) == (FULL.load, H100.name, True)


def test_a_baseline_without_raw_times_has_the_medians(tmp_path):
    baseline = read_baseline(written(tmp_path, bench_json(CPU, raw=False)))
    assert baseline.blocks == ()
    assert baseline.medians == tuple(float(np.median(block.latencies)) for block in CPU.blocks)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "must be JSON, got 'something else'"),
        ("[1]", "must be a JSON object, got 'list'"),
        (changed(schema="aaexport.bench/2"), f"must have the schema {BENCH_SCHEMA}, got 'aaexport.bench/2'"),
        ({}, f"must have the schema {BENCH_SCHEMA}, got None"),
        (changed(blocks=[]), "must hold answered queries, got 'none'"),
        (changed(blocks=[{}]), "got no 'median'"),
        (changed(load={"scenery": 1}), "got what cannot be read"),
        (changed(blocks=[bench_json(CPU, raw=True)["blocks"][0] | {"samples": [1]}]), "more of one time than of"),
    ],
)
def test_what_is_no_baseline_is_one_line_with_a_remedy(tmp_path, value, words):
    with pytest.raises(DataError) as caught:
        read_baseline(written(tmp_path, value))
    assert words in str(caught.value)
    assert str(caught.value).endswith("; measure it anew with `aaexport serve-bench MODEL`")
    assert "\n" not in str(caught.value)


def test_a_baseline_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"old\.json cannot be read: No such file"):
        read_baseline(tmp_path / "old.json")


def test_another_file_of_the_same_name_and_another_seed_are_comparable(tmp_path):
    baseline = read_baseline(written(tmp_path, bench_json(CPU, raw=True)))
    load = dataclasses.replace(CPU.load, seed=5)
    assert why_not_comparable(baseline, dataclasses.replace(CPU, onnx_sha256="f" * 64, load=load)) is None


def test_another_way_to_run_the_same_queries_is_comparable(tmp_path):
    baseline = read_baseline(written(tmp_path, bench_json(CPU, raw=True)))
    assert why_not_comparable(baseline, dataclasses.replace(CPU, settings={"cuda_graph": True})) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "conv_cnn3"}, "model must be conv_cnn3 as in this run, got aa_cnn3_digits"),
        ({"load": FULL.load}, "scenario must be server as in this run, got single-stream"),
        ({"load": dataclasses.replace(CPU.load, samples_per_query=8)}, "samples per query must be 8"),
        ({"provider": "CUDAExecutionProvider"}, "provider must be CUDA"),
        ({"threads": 1}, "threads must be 1 as in this run, got not set"),
        ({"environment": dataclasses.replace(CPU.environment, cpu="Xeon")}, "CPU must be Xeon"),
        ({"gpu_before": H100}, "GPU must be NVIDIA H100"),
        ({"settings": {"resident": True}}, "resident must be True as in this run, got False"),
        ({"settings": {"flush_l2": True}}, "flush_l2 must be True as in this run, got False"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_comparable_is_one_line_with_a_remedy(tmp_path, changes, words):
    line = why_not_comparable(
        read_baseline(written(tmp_path, bench_json(CPU, raw=True))), dataclasses.replace(CPU, **changes)
    )
    line = str(DataError(line))  # as it is raised, with the names of options
    assert words in line
    assert line.endswith("; measure a baseline in the same way, or leave --baseline out")


def test_an_invalid_baseline_is_not_comparable(tmp_path):
    baseline = read_baseline(written(tmp_path, bench_json(INVALID, raw=True)))
    assert "must be a valid measurement" in why_not_comparable(baseline, CPU)
