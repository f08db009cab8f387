"""(model.onnx, its folder) → what a report says the measured file is, and whether it was verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aaexport.folder import ModelFolder
from aaexport.graph.files import GraphSummary
from aaexport.load.measurement import ModelCard, ParityRecord


def model_card(summary: GraphSummary, onnx_sha256: str, folder: ModelFolder | None) -> ModelCard:
    """Of the file with that summary and digest; parity is what the folder keeps of its last verification."""
    record = None if folder is None else parity_record(folder.parity_path, onnx_sha256)
    return ModelCard(
        operators=summary.operators,
        opset=summary.opset,
        bytes=summary.bytes,
        parameters=summary.parameters,
        macs=summary.macs,
        parity=record,
    )


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
