"""Results → JSON values. Each names its schema; a change that could break a reader raises its number."""

from __future__ import annotations

import dataclasses
from typing import Any

from aaexport.parity import ParityReport

PARITY_SCHEMA = "aaexport.parity/1"


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
