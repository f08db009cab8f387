"""Options and a file → what each worker loads: the file itself, its rivals, and what answers are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aaexport.folder import ModelFolder
from aaexport.graph.files import GraphSummary
from aaexport.pipeline.bench.options import ONE_SESSION, BenchOptions
from aaexport.pipeline.bench.rival_names import IN_PROCESS, is_other_model
from aaexport.pipeline.bench.rivals import other_spec, rival_spec
from aaexport.pipeline.bench.samples import Samples
from aaexport.pipeline.bench.worker_models import WorkerSpec

Tick = Callable[[str, float], None]


def our_spec(path: Path, room: Path, samples: Samples, options: BenchOptions) -> WorkerSpec:
    """Of the file itself."""
    assert options.device is not None
    return WorkerSpec(
        "onnxruntime",
        str(path),
        str(room / "samples.npz"),
        options.device,
        options.threads_each(),
        sessions=options.workers,
        batched=samples.batched,
        session=_plain(options.session),
    )


def _plain(session: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON can carry it to the worker."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in session.items()}


def rival_specs(
    options: BenchOptions, folder: ModelFolder | None, ours: WorkerSpec, summary: GraphSummary, room: Path, tick: Tick
) -> dict[str, WorkerSpec]:
    """Of those that can be measured beside a file: the network itself needs its weights."""
    specs = {}
    for name in rivals_of(options, folder):
        tick(f"preparing {name}", 0.0)
        if name == IN_PROCESS:
            specs[name] = replace(ours, sessions=1)
        elif is_other_model(name):
            specs[name] = other_spec(name, ours)
        elif runs_in_torch(folder, options):
            assert folder is not None
            specs[name] = rival_spec(name, folder, ours, summary, room, options.module)
    return specs


def rivals_of(options: BenchOptions, folder: ModelFolder | None) -> Sequence[str]:
    """What was asked for, or by default eager PyTorch, where there is such and the load suits it."""
    if options.compare is not None:
        return options.compare
    if options.url:
        return (IN_PROCESS,) if options.scenario in ONE_SESSION else ()
    return () if options.is_server or not runs_in_torch(folder, options) else ("eager",)


def runs_in_torch(folder: ModelFolder | None, options: BenchOptions) -> bool:
    """Whether PyTorch can run the network: it has weights, and its code is ours or may be imported."""
    if folder is None or not folder.weights_path.is_file():
        return False
    return folder.module_recipe is None or options.module is not None


def truth_spec(
    folder: ModelFolder | None, options: BenchOptions, ours: WorkerSpec, summary: GraphSummary, room: Path
) -> WorkerSpec | None:
    """What answers are compared with: PyTorch's, where there is one; on the CPU, in float32 and nothing less."""
    if folder is not None and folder.module_recipe is not None and options.module is None:
        is_whole = folder.golden_path.is_file()
        golden = replace(ours, runtime="golden", model=str(folder.path), device="cpu", sessions=1)
        return golden if is_whole and not options.dims else None
    if folder is None or not runs_in_torch(folder, options):
        # Of a live service the file itself is what it must answer as.
        return replace(ours, device="cpu", sessions=1, session={}) if options.url else None
    return replace(rival_spec("eager", folder, ours, summary, room, options.module), device="cpu", sessions=1)
