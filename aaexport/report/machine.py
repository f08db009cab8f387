"""Results → JSON values. Each names its schema; a change that could break a reader raises its number."""

from __future__ import annotations

import dataclasses
from typing import Any

from aaexport.load.measurement import PERCENTILES, BenchReport
from aaexport.parity import ParityReport

PARITY_SCHEMA = "aaexport.parity/1"
BENCH_SCHEMA = "aaexport.bench/1"


def parity_json(report: ParityReport) -> dict[str, Any]:
    """Everything in the report, with the verdict first."""
    return {
        "schema": PARITY_SCHEMA,
        "passed": report.passed,
        "failures": list(report.failures),
        "max_abs_error": report.max_abs_error,
        "max_error_ratio": report.max_error_ratio,
        **dataclasses.asdict(report),
    }


def bench_json(report: BenchReport, *, raw: bool) -> dict[str, Any]:
    """The measurement, verdict and percentiles first; with `raw` every latency too, in milliseconds."""
    value = {
        "schema": BENCH_SCHEMA,
        "valid": report.valid,
        "reasons": list(report.reasons),
        "warnings": list(report.warnings),
        "model": report.model,
        "scenario": report.scenario,
        "device": report.label,
        "provider": report.provider,
        "batch": report.batch,
        "threads": report.threads,
        "unit": "ms",
        **{f"p{p}": report.percentile(p) for p in PERCENTILES},
        "queries": len(report.latencies),
        "throughput": [dataclasses.asdict(entry) for entry in report.throughput],
        "comparison": None,
        "environment": dataclasses.asdict(report.environment),
        "tools": report.tools,
        "onnx_sha256": report.onnx_sha256,
    }
    if report.comparison is not None:
        value["comparison"] = {
            "against": report.comparison.label,
            "p50": report.comparison.p50,
            "ratio": dataclasses.asdict(report.comparison.ratio),
        }
    if raw:
        value["blocks_ms"] = [block.round(6).tolist() for block in report.blocks]
        if report.comparison is not None:
            value["comparison"]["blocks_ms"] = [b.round(6).tolist() for b in report.comparison.blocks]
    return value
