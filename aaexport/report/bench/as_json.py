"""BenchReport → the JSON of a measurement; docs/bench_schema.md tells what each field means."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import numpy as np

from aaexport.load.measurement import BenchReport, Comparison, Regression
from aaexport.load.run import UNANSWERED, QueryLog
from aaexport.load.statistics import Milliseconds
from aaexport.report.bench.figures import images_per_second, issue_delays, unanswered
from aaexport.report.launches import launches_json
from aaexport.report.machine import strict

BENCH_SCHEMA = "aaexport.bench/3"
# A line break never stands inside a JSON string, so what begins with one is a list and not somebody's text.
_LIST_OF_NUMBERS = re.compile(r"\[\n(?: *(?:-?\d[\d.eE+-]*|null),?\n)+ *\]")


def bench_json(report: BenchReport, *, raw: bool) -> dict[str, Any]:
    """The measurement, verdict and percentiles first; with `raw` the times of every query too."""
    value: dict[str, Any] = strict(
        {
            "schema": BENCH_SCHEMA,
            "valid": report.valid,
            "complete": report.complete,
            "reasons": report.reasons,
            "warnings": report.warnings,
            "notes": report.notes,
            "date": report.date,
            "command": report.command,
            "model": report.model,
            "onnx_sha256": report.onnx_sha256,
            "card": _optional(report.card),
            "load": dataclasses.asdict(report.load),
            "label": report.label,
            "provider": report.provider,
            "settings": {name: _plain(setting) for name, setting in report.settings.items()},
            "threads": report.threads,
            "inputs": report.inputs,
            **_figures(report),
            "launches": None if report.launches is None else launches_json(report.launches, raw=raw),
            "throughput": [dataclasses.asdict(entry) for entry in report.throughput],
            "comparisons": [_comparison(other, raw) for other in report.comparisons],
            **{name: _optional(getattr(report, name)) for name in ("check", "loss", "peak", "phases")},
            "regression": _regression(report.regression),
            **{
                name: _optional(getattr(report, name))
                for name in ("placement", "service", "gpu_before", "gpu_after", "gpu_load")
            },
            "environment": dataclasses.asdict(report.environment),
            "tools": dict(report.tools),
            "blocks": [_block(block, raw) for block in report.blocks],
        }
    )
    return value


def bench_text(value: dict[str, Any]) -> str:
    """The file's text: indented for people, with every list of numbers on one line."""
    indented = json.dumps(value, indent=2, allow_nan=False)
    return _LIST_OF_NUMBERS.sub(lambda found: re.sub(r"\s+", "", found[0]), indented) + "\n"


def _figures(report: BenchReport) -> dict[str, Any]:
    """What a reader wants without the raw times."""
    return {
        "queries": sum(map(len, report.blocks)),
        "unanswered": unanswered(report),
        "images_per_second": images_per_second(report),
        "percentiles": {
            f"p{found.p:g}": {"value": found.value, "low": found.low, "high": found.high, "missing": found.missing}
            for found in report.percentiles
        },
        "issue_delay": _issue_delay(report),
        "cold_start": dataclasses.asdict(report.cold_start),
    }


def _issue_delay(report: BenchReport) -> dict[str, float] | None:
    delays = issue_delays(report)
    return {"median": float(np.median(delays)), "largest": float(delays.max())} if delays.size else None


def _comparison(other: Comparison, raw: bool) -> dict[str, Any]:
    value = {field.name: getattr(other, field.name) for field in dataclasses.fields(other)}
    of_answers = {"loss": _optional(other.loss), "ratio": _optional(other.ratio)}
    return value | of_answers | {"blocks": [_latencies(block, raw) for block in other.blocks]}


def _regression(found: Regression | None) -> dict[str, Any] | None:
    return None if found is None else {"verdict": found.verdict, **dataclasses.asdict(found)}


def _latencies(block: Milliseconds, raw: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"queries": len(block), "median": _median(block)}
    # To the nanosecond, which is all that a clock tells.
    return value | ({"latencies": block.round(6).tolist()} if raw else {})


def _block(block: QueryLog, raw: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"queries": len(block), "seconds": block.seconds, "median": _median(block.latencies)}
    if raw:
        value |= {
            "scheduled_ns": block.scheduled.tolist(),
            "issued_ns": block.issued.tolist(),
            "completed_ns": [None if time == UNANSWERED else time for time in block.completed.tolist()],
            "samples": block.samples.tolist(),
        }
    return value


def _median(latencies: Milliseconds) -> float | None:
    return float(np.median(latencies)) if latencies.size else None


def _optional(part: Any) -> dict[str, Any] | None:
    return None if part is None else dataclasses.asdict(part)


def _plain(setting: Any) -> Any:
    """Options of sessions are numbers, words, switches and lists; of anything else JSON gets its text."""
    return setting if isinstance(setting, bool | int | float | str | list | None) else str(setting)
