"""bench.json → the older measurement that a regression test compares with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aaexport.errors import DataError, broken_rule, parameter
from aaexport.load.measurement import BenchReport, Load
from aaexport.load.run import UNANSWERED, QueryLog
from aaexport.report.bench.as_json import BENCH_SCHEMA

REMEDY = "measure it anew with `aaexport serve-bench MODEL`"
OF_QUERIES = ("resident", "flush_l2")  # settings that make another thing of a query, not another way to run it
LIKEWISE = "measure a baseline in the same way, or leave --baseline out"


@dataclass(frozen=True, eq=False)
class Baseline:
    """What of an older measurement decides whether a newer one is slower.

    Attributes:
        path: the file it was read from.
        valid: whether it may be quoted.
        medians: of the latencies of each block, in milliseconds.
        blocks: the queries, block by block; empty if the file was written without raw times.
        launches: the median of each process that was launched with `threads`; empty if there was one process.
        gpu: the GPU's name; None without one.
        settings: of its sessions.
        The others are those of BenchReport; `cpu` and `cores` of its environment.
    """

    path: Path
    valid: bool
    model: str
    onnx_sha256: str
    load: Load
    label: str
    provider: str
    threads: int | None
    cpu: str
    cores: int
    gpu: str | None
    medians: tuple[float, ...]
    blocks: tuple[QueryLog, ...]
    launches: tuple[float, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_baseline(path: str | Path) -> Baseline:
    """Reads what `bench_json` wrote.

    Raises:
        DataError: the file cannot be read, is not JSON, is of another schema, lacks something or measured nothing.
    """
    path = Path(path)
    called = f"{parameter('baseline')} {path}"
    value = _parsed(path)
    schema = value.get("schema")
    if schema != BENCH_SCHEMA:
        raise DataError(broken_rule(called, f"have the schema {BENCH_SCHEMA}", schema, REMEDY))
    try:
        baseline = _baseline(path, value)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        got = f"no {error}" if isinstance(error, KeyError) else f"what cannot be read ({error})"
        raise DataError(f"{called} must hold every field of {BENCH_SCHEMA}, got {got}; {REMEDY}") from error
    if not baseline.medians:
        raise DataError(broken_rule(called, "hold answered queries", "none", REMEDY))
    return baseline


def why_not_comparable(baseline: Baseline, report: BenchReport) -> str | None:
    """The first thing in which the two measurements differ beside their speed, with the remedy; None if nothing does.

    Another file under the same name is what such a comparison is for, and another seed makes other arrivals only.
    """
    if not baseline.valid:
        return broken_rule(f"baseline {baseline.path}", "be a valid measurement", "an invalid one", REMEDY)
    old, new = asdict(baseline.load), asdict(report.load)
    gpu = None if report.gpu_before is None else report.gpu_before.name
    circumstances = (
        ("model", baseline.model, report.model),
        *((name.replace("_", " "), old[name], new[name]) for name in old if name != "seed"),
        ("device", baseline.label, report.label),
        ("provider", baseline.provider, report.provider),
        ("threads", baseline.threads, report.threads),
        ("CPU", baseline.cpu, report.environment.cpu),
        ("cores", baseline.cores, report.environment.cores),
        ("GPU", baseline.gpu, gpu),
        *(
            (parameter(name), baseline.settings.get(name, False), report.settings.get(name, False))
            for name in OF_QUERIES
        ),
    )
    for name, before, now in circumstances:
        if before != now:
            return f"the baseline's {name} must be {_said(now)} as in this run, got {_said(before)}; {LIKEWISE}"
    return None


def _said(value: object) -> str:
    return "not set" if value is None else str(value)


def _parsed(path: Path) -> dict[str, Any]:
    called = f"{parameter('baseline')} {path}"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{called} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(broken_rule(called, "be JSON", "something else", REMEDY)) from error
    if not isinstance(value, dict):
        raise DataError(broken_rule(called, "be a JSON object", type(value).__name__, REMEDY))
    return value


def _baseline(path: Path, value: Mapping[str, Any]) -> Baseline:
    blocks = value["blocks"]
    raw = all("completed_ns" in block for block in blocks)
    machine, gpu = value["environment"], value["gpu_before"]
    return Baseline(
        path=path,
        valid=bool(value["valid"]),
        **{name: str(value[name]) for name in ("model", "onnx_sha256", "label", "provider")},
        load=Load(**value["load"]),
        threads=value["threads"],
        cpu=machine["cpu"],
        cores=machine["cores"],
        gpu=None if gpu is None else gpu["name"],
        medians=tuple(float(block["median"]) for block in blocks if block["median"] is not None),
        blocks=tuple(map(_queries, blocks)) if raw else (),
        launches=_launches(value),
        settings=dict(value.get("settings") or {}),
    )


def _launches(value: Mapping[str, Any]) -> tuple[float, ...]:
    """Of the setting that the rest of the report is of; older files have none."""
    settings = (value.get("launches") or {"settings": ()})["settings"]
    ours = (setting["launches"] for setting in settings if setting["threads"] == value["threads"])
    return tuple(float(launch["median"]) for launches in ours for launch in launches)


def _queries(block: Mapping[str, Any]) -> QueryLog:
    completed = [UNANSWERED if time is None else time for time in block["completed_ns"]]
    log = QueryLog(
        np.asarray(block["scheduled_ns"], np.int64),
        np.asarray(block["issued_ns"], np.int64),
        np.asarray(completed, np.int64),
        np.asarray(block["samples"], np.int32),
    )
    if len({log.scheduled.shape, log.issued.shape, log.completed.shape, log.samples.shape}) != 1:
        raise ValueError("a block has more of one time than of another")
    return log
