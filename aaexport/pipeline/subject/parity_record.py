"""parity.json of a folder → what it says of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aaexport.load.measurement import ParityRecord


def parity_record(path: Path, onnx_sha256: str) -> ParityRecord | None:
    """What parity.json says, and whether of the file with that digest; None without a verdict that can be read."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        error, date = value["max_abs_error"], value.get("date")
        return ParityRecord(
            passed=value["passed"] is True,
            max_abs_error=None if error is None else float(error),
            date=None if date is None else str(date),
            same_file=value.get("onnx_sha256") == onnx_sha256,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
