"""What a worker is to load → the same with TensorRT's engines, built beforehand in a process of their own.

Building takes minutes, and is neither loading nor a cold start: those are told of engines that there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aaexport.graph.files import file_digest, read_data_files
from aaexport.pipeline.bench.contender import Contender
from aaexport.pipeline.bench.worker_models import WorkerSpec

BUILD_TIMEOUT = 1800.0  # seconds
DIGITS = 16  # of the file's digest
Tick = Callable[[str, float], None]


def with_engines(spec: WorkerSpec, tick: Tick) -> WorkerSpec:
    """The spec with the folder of its file's engines, which are there by then; as it is where TensorRT has no part.

    onnxruntime finds engines by the file's name and the shape of its graph. Other weights under the same name would
    be answered from the engines of the former ones, so each file has a folder by its digest.

    Raises:
        GraphError: the file cannot be read.
        AaexportError: what the building process raised, MeasurementError if it took longer than `BUILD_TIMEOUT`.
    """
    if spec.runtime != "onnxruntime" or not spec.session.get("tensorrt"):
        return spec
    path = Path(spec.model)
    digest = file_digest(path, read_data_files(path))
    folder = Path(str(spec.session.get("engine_cache") or spec.scratch)) / digest[:DIGITS]
    folder.mkdir(parents=True, exist_ok=True)
    ready = replace(spec, engines=str(folder))
    tick(f"TensorRT builds its engines of {path.name}", 0.0)
    before, began = _engines(folder), time.perf_counter()
    with Contender(replace(ready, sessions=1), start_timeout=BUILD_TIMEOUT) as builder:
        builder.first_query(builder.fixed_batch or 1)  # without profiles engines are built when shapes come
        seconds = time.perf_counter() - began
    return replace(ready, build_s=seconds if _engines(folder) != before else None)


def _engines(folder: Path) -> set[tuple[str, int]]:
    """Those that are there, and when each was written."""
    return {(file.name, file.stat().st_mtime_ns) for file in folder.glob("*.engine")}
