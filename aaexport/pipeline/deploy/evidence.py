"""Peak searches of a model → how its deployment shares runs and cores: only as was measured of that very file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aaexport.deployment.settings import DeploySettings
from aaexport.device import parse_device
from aaexport.errors import DataError, broken_rule, parameter
from aaexport.report.bench.as_json import BENCH_SCHEMA

PROVIDERS = {"cpu": ("CPUExecutionProvider",), "cuda": ("CUDAExecutionProvider", "TensorrtExecutionProvider")}
ALIKE = ("latency_bound", "samples_per_query", "arrivals", "workers")  # of a load; then two peaks can be compared


@dataclass(frozen=True)
class PeakRecord:
    """What a peak search found: `rate` queries a second at the most, under that load of that file."""

    onnx_sha256: str
    provider: str
    threads: int | None
    rate: float | None
    load: dict[str, Any]
    valid: bool = True

    @property
    def max_batch(self) -> int:
        """Images of one run."""
        return int(self.load["max_batch"])

    def why_not_of(self, onnx_sha256: str, device: str) -> str | None:
        """Why it says nothing of that file there; None if it does."""
        if self.onnx_sha256 != onnx_sha256:
            return "is of another file"
        if self.provider not in PROVIDERS[parse_device(device)[0]]:
            return f"was measured by {self.provider}"
        if not self.valid:
            return "is not valid"
        return "found no rate that keeps its bound" if self.rate is None else None


def read_peak(path: Path, option: str = "") -> PeakRecord | None:
    """What a JSON of serve-bench says of a peak; None if it measured something else.

    DataError, of the `option` that named it, if it is no such file, or of another schema.
    """
    called = f"{parameter(option)} {path}" if option else str(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["schema"] != BENCH_SCHEMA:
            raise DataError(
                broken_rule(called, f"have the schema {BENCH_SCHEMA}", value["schema"], "measure it anew")
            )
        if value["peak"] is None:
            return None
        rate, load = value["peak"]["rate"], dict(value["load"])
        record = PeakRecord(value["onnx_sha256"], value["provider"], value["threads"], rate, load, value["valid"])
        if not all(name in load for name in (*ALIKE, "max_batch", "max_delay")):
            raise LookupError("a part of its load is missing")
        return record
    except OSError as error:
        raise DataError(f"{called} cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{called} must be what serve-bench --json prints, but: {error}") from error


def as_measured(
    onnx_sha256: str, bench: Path, unbatched: Path | None, device: str
) -> tuple[DeploySettings, tuple[str, ...]]:
    """The settings that the peak search in bench.json speaks for, and what is to be said of them.

    Batching is on where its peak is higher than that of `unbatched`, alike in all else; a gain that nobody measured
    is none.

    Raises:
        DataError: `unbatched`, or bench.json, is not a measurement, or `unbatched` not one to compare with.
    """
    plain = DeploySettings(device=device)
    alone = None if unbatched is None else _required(unbatched, onnx_sha256, device)
    last = read_peak(bench) if bench.is_file() else None
    why_not = None if last is None else last.why_not_of(onnx_sha256, device)
    if last is None or last.rate is None or why_not is not None:
        if unbatched is not None:
            remedy = "run `aaexport serve-bench MODEL --scenario server --find-peak` on this file"
            got = "none" if last is None else f"one that {why_not}"
            raise DataError(broken_rule("bench.json", "hold a peak search to compare with", got, remedy))
        return plain, (_unmeasured(why_not),)
    own = {"instances": last.load["workers"], "threads": last.threads, "max_batch": max(last.max_batch, 1)}
    measured = DeploySettings(device=device, max_delay=float(last.load["max_delay"]), **own)
    if last.max_batch == 1:
        return measured, (f"no batching, as in the last peak search: {last.rate:,.4g} queries/s with max batch 1",)
    if alone is None:
        note = (
            f"no batching: the last peak, {last.rate:,.4g} queries/s, is with max batch {last.max_batch}, and nobody "
            "measured whether that is higher than without; search one with --max-batch 1 --json, and give it as "
            "--unbatched"
        )
        return replace(measured, batching=False, max_delay=0.0), (note,)
    _require_alike(last, alone, unbatched)
    wins = last.rate > (alone.rate or 0.0)
    compared = f"{last.rate:,.4g} queries/s against {alone.rate or 0.0:,.4g} without"
    if wins:
        return replace(measured, batching=True), (f"batching wins: {compared}",)
    return replace(measured, max_delay=0.0), (f"no batching, as it does not win: {compared}",)


def _unmeasured(why_not: str | None) -> str:
    reason = "bench.json holds no peak search" if why_not is None else f"the peak search in bench.json {why_not}"
    return f"no batching: {reason}; `aaexport serve-bench MODEL --scenario server --find-peak --p99 …` makes one"


def _required(path: Path, onnx_sha256: str, device: str) -> PeakRecord:
    found = read_peak(path, "unbatched")
    why_not = "holds none" if found is None else found.why_not_of(onnx_sha256, device)
    if found is None or why_not is not None:
        raise DataError(
            broken_rule("unbatched", "be a valid peak search of the same file", f"{path}, which {why_not}")
        )
    if found.max_batch != 1:
        raise DataError(broken_rule("unbatched", "be measured with --max-batch 1", found.max_batch))
    return found


def _require_alike(last: PeakRecord, alone: PeakRecord, path: Path | None) -> None:
    for name in ALIKE:
        if last.load[name] != alone.load[name]:
            rule = f"be measured as bench.json was, with {name} {last.load[name]}"
            raise DataError(broken_rule(f"{parameter('unbatched')} {path}", rule, alone.load[name]))
    if last.threads != alone.threads:
        rule = f"be measured as bench.json was, with threads {last.threads}"
        raise DataError(broken_rule(f"{parameter('unbatched')} {path}", rule, alone.threads))
