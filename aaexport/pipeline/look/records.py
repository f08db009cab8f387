"""parity.json and bench.json of a folder → what a page tells of them; what cannot be read is a note, no figure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from aaexport.folder import DTYPES, Dtype, ModelFolder
from aaexport.graph.files import file_digest, read_data_files
from aaexport.parity.kept import least_sqnr
from aaexport.report.bench.as_json import BENCH_SCHEMA
from aaexport.report.machine import PARITY_SCHEMA
from aaexport.report.model.portrait import Measured, Verification
from aaexport.report.parity.wording import scientific

Kept = TypeVar("Kept")


def kept_records(folder: ModelFolder) -> tuple[tuple[Verification, ...], tuple[Measured, ...], tuple[str, ...]]:
    """Of every precision whose file is there, and notes on what could not be read."""
    verified: list[Verification] = []
    measured: list[Measured] = []
    notes: list[str] = []
    for dtype in DTYPES:
        onnx = folder.onnx_of(dtype)
        if not onnx.is_file():
            continue
        digest = file_digest(onnx, read_data_files(onnx))
        parity, bench = folder.parity_of(dtype), folder.bench_of(dtype)
        verified += list(_read(parity, lambda value: _verification(value, dtype, digest), notes))  # noqa: B023
        measured += list(_read(bench, lambda value: _measured(value, dtype, digest), notes))  # noqa: B023
    return tuple(verified), tuple(measured), tuple(notes)


def _read(path: Path, parse: Callable[[dict[str, Any]], Kept], notes: list[str]) -> Iterator[Kept]:
    if not path.is_file():
        return
    try:
        yield parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        notes.append(f"{path.name} is not as it was written, and is left out: {why}")


def _require_schema(value: dict[str, Any], schema: str) -> None:
    if value["schema"] != schema:
        raise ValueError(f"its schema is {value['schema']!r}, and this is {schema}")


def _verification(value: dict[str, Any], dtype: Dtype, digest: str) -> Verification:
    _require_schema(value, PARITY_SCHEMA)
    return Verification(
        dtype,
        passed=value["passed"] is True,
        figure=_figure(value),
        date=_text(value["date"]),
        same_file=value["onnx_sha256"] == digest,
        steps=tuple(_step(computation) for computation in value["computations"]),
        accuracy=_accuracy(value["accuracy"]) if value["guard"] is None else _kept_accuracy(value["guard"], dtype),
    )


def _figure(value: dict[str, Any]) -> str:
    if value["failures"]:
        return str(value["failures"][0])
    if value["guard"] is not None:
        decibels = least_sqnr(value["guard"])
        return "" if decibels is None else f"signal to noise {decibels:.1f} dB beside float32"
    error, ratio = _number(value["max_abs_error"]), _number(value["max_error_ratio"])
    if error is None:
        return ""
    own = "" if ratio is None else f", {ratio:.1f} × {value['baseline']}'s own"
    return f"largest error {scientific(error)} against float64{own}"


def _step(computation: dict[str, Any]) -> tuple[str, float | None, bool]:
    outputs = computation["outputs"]
    errors = [_number(output["max_abs_error"]) for output in outputs if not output["extreme"]]
    known = [error for error in errors if error is not None]
    failed = computation["failure"] is not None or any(output["failure"] is not None for output in outputs)
    return str(computation["name"]), max(known, default=None), not failed


def _accuracy(value: dict[str, Any] | None) -> str:
    if value is None:
        return ""
    torch, runner = float(value["torch"]), float(value["runner"])
    return f"{torch:.2%} of {int(value['images']):,} held-out images in PyTorch, {runner:.2%} in the file"


def _kept_accuracy(guard: dict[str, Any], dtype: Dtype) -> str:
    found = guard["accuracy"]
    if found is None:
        return ""
    images = int(found["images"])
    before, after = int(found["float32"]) / images, int(found["reduced"]) / images
    return f"{before:.2%} of {images:,} held-out images in float32, {after:.2%} in {dtype}"


def _measured(value: dict[str, Any], dtype: Dtype, digest: str) -> Measured:
    _require_schema(value, BENCH_SCHEMA)
    percentiles, machine, load = value["percentiles"], value["environment"], value["load"]
    others = (
        (str(each["label"]), _number(_p50(each)), None if each["ratio"] is None else _number(each["ratio"]["median"]))
        for each in value["comparisons"]
    )
    threads = "default threads" if value["threads"] is None else f"threads {value['threads']}"
    return Measured(
        dtype,
        valid=value["valid"] is True,
        reasons=tuple(map(str, (*value["reasons"], *value["warnings"]))),
        label=str(value["label"]),
        load=f"{load['scenario']}, {load['samples_per_query']} a query, {threads}",
        machine=f"{machine['cpu']}, {machine['cores']} cores",
        p50=_number(percentiles["p50"]["value"]),
        p99=_number(percentiles["p99"]["value"]),
        rate=_number(value["images_per_second"]),
        others=tuple(others),
        date=_text(value["date"]),
        same_file=value["onnx_sha256"] == digest,
    )


def _p50(comparison: dict[str, Any]) -> Any:
    return comparison.get("p50")


def _number(value: Any) -> float | None:
    """JSON has no NaN and no infinity: they are strings there, and no figures to draw."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
