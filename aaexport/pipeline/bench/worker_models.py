"""WorkerSpec → loaded runners: what a measuring process loads, and how long that takes.

Nothing heavy is imported before a loader asks for it: onnxruntime is not measured beside torch's threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aaexport.device import parse_device
from aaexport.load.threads import RunnerThread
from aaexport.pipeline.bench.rival_names import AUTOCAST, CHANNELS_LAST, MAX_AUTOTUNE
from aaexport.runners.base import Runner

if TYPE_CHECKING:
    from aaexport.runners.ort import OrtRunner
    from aaexport.runners.torch import TorchRunner


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker loads: one of `LOADERS`, and what it needs.

    `model` is an ONNX file or, for torch, a model folder; `samples` a .npy of images, or a .npz with an array for
    every input; `scratch` a folder that is empty and will be thrown away.
    """

    runtime: str
    model: str
    samples: str
    device: str
    threads: int | None
    size: tuple[int, int] | None = None  # (H, W) that the model is built for; None: its recipe's
    with_attention: bool = False  # whether PyTorch too answers with its attention weights
    scratch: str | None = None
    sessions: int = 1  # that answer at the same time
    batched: bool = True  # whether samples are stacked to a batch, or fed as they are
    session: Mapping[str, Any] = field(default_factory=dict)  # onnxruntime's settings, as of SessionSettings
    engines: str | None = None  # where TensorRT's are, which were built beforehand
    build_s: float | None = None  # that they took; None where they were there already
    ways: Sequence[str] = ()  # PyTorch's, as of `rival_names.WAYS`
    flush: bool = False  # whether the GPU's L2 cache is written over between two queries
    module: str | None = None  # where a folder's module comes from, which is then imported
    service: Mapping[str, Any] = field(default_factory=dict)  # of `served`: urls, model, version, timeout, ca


@dataclass(frozen=True)
class Loaded:
    """One runner for each session, and facts for the parent."""

    runners: tuple[Runner, ...]
    facts: Mapping[str, Any]


def load(spec: WorkerSpec, threads: Sequence[RunnerThread]) -> Loaded:
    """What `spec` names. `facts["load_s"]` is the time of the first session alone, without importing its runtime.

    To be called in the first of `threads`; each further session is opened in its own.
    """
    return LOADERS[spec.runtime](spec, threads)


def _load_onnxruntime(spec: WorkerSpec, threads: Sequence[RunnerThread]) -> Loaded:
    from aaexport.runners.ort import OrtRunner
    from aaexport.runners.ort_serving import CaptureGate
    from aaexport.runners.ort_settings import SessionSettings

    settings = SessionSettings(threads=spec.threads, **_as_set(spec.session))
    # On the CPU there is nothing to fall back from, and a record of it makes loading slower.
    record_placement = parse_device(spec.device)[0] != "cpu"
    kept = settings if spec.engines is None else replace(settings, engine_cache=Path(spec.engines))

    def open_session() -> OrtRunner:
        return OrtRunner(Path(spec.model), kept, device=spec.device, record_placement=record_placement)

    first, seconds = _timed(open_session)
    runners = (first, *(thread.run(open_session) for thread in threads[1:]))
    told = settings.described() | ({"flush_l2": True} if spec.flush else {})
    facts = {"provider": first.provider, "settings": told, "placement": first.placement}
    gate = CaptureGate()
    served = tuple(runner.serving(gate) for runner in runners)
    return Loaded(served, {**facts, "load_s": seconds})


def _load_served(spec: WorkerSpec, _threads: Sequence[RunnerThread]) -> Loaded:
    from aaexport.serving.client import Client
    from aaexport.serving.runner import ServedRunner

    asked = dict(spec.service)
    ca = asked["ca"]

    def connect() -> ServedRunner:
        # A query that is asked again would hide that the first answer did not come.
        client = Client(asked["urls"], timeout=asked["timeout"], retry_for=0, ca=None if ca is None else Path(ca))
        return ServedRunner(client, asked["model"], asked["version"])

    runner, seconds = _timed(connect)
    facts = {"provider": "service", "load_s": seconds, "max_batch": runner.facts.max_batch}
    return Loaded((runner,) * spec.sessions, facts)


def _as_set(session: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON made of the settings, back again."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in session.items()}
    return values | {name: Path(session[name]) for name in ("engine_cache",) if name in session}


def _load_torch(spec: WorkerSpec, _threads: Sequence[RunnerThread]) -> Loaded:
    import torch  # noqa: F401  before the clock starts

    runner, seconds = _timed(lambda: _eager(spec))
    return Loaded((runner,) * spec.sessions, {"provider": "torch", "load_s": seconds})


def _load_compiled(spec: WorkerSpec, _threads: Sequence[RunnerThread]) -> Loaded:
    # Before torch is imported. What another run has compiled must not make this cold start a warm one, and torch's
    # pool of compiling processes would be a load that nobody accounts for.
    os.environ |= {"TORCHINDUCTOR_CACHE_DIR": str(spec.scratch), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    from aaexport.runners.compiled import CompiledRunner

    mode = MAX_AUTOTUNE if MAX_AUTOTUNE in spec.ways else None
    runner, seconds = _timed(lambda: CompiledRunner(_eager(spec), mode))
    return Loaded((runner,) * spec.sessions, {"provider": "torch.compile", "load_s": seconds})


def _load_golden(spec: WorkerSpec, _threads: Sequence[RunnerThread]) -> Loaded:
    from aaexport.folder import ModelFolder
    from aaexport.pipeline.subject.subject import as_subject

    subject = as_subject(ModelFolder(Path(spec.model)))
    assert subject.golden is not None
    _, runner = subject.golden.runners(subject.input_shape)
    return Loaded((runner,), {"provider": "golden", "load_s": 0.0})


def _timed(open_runner: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return open_runner(), time.perf_counter() - began


def _eager(spec: WorkerSpec) -> TorchRunner:
    import torch

    from aaexport.capture.input_name import INPUT_NAME
    from aaexport.capture.source import require_source
    from aaexport.pipeline.subject.subject import as_subject
    from aaexport.runners.torch import TorchRunner

    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    source = None if spec.module is None else require_source(spec.module)
    subject = as_subject(spec.model, size=spec.size, source=source)
    if spec.with_attention:
        subject = subject.observed()
    shape, names = subject.input_shape, subject.output_names
    # The same precision of products as onnxruntime's, whose default differs from torch's.
    tf32 = spec.session.get("tf32", True) if parse_device(spec.device)[0] == "cuda" else None
    module = subject.runnable(subject.module if subject.original is None else subject.original)
    return TorchRunner(
        module,
        (INPUT_NAME,),
        names,
        input_shape=shape,
        device=spec.device,
        tf32=tf32,
        shares=True,
        channels_last=CHANNELS_LAST in spec.ways,
        autocast=AUTOCAST in spec.ways,
    )


LOADERS: dict[str, Callable[[WorkerSpec, Sequence[RunnerThread]], Loaded]] = {
    "onnxruntime": _load_onnxruntime,
    "torch": _load_torch,
    "torch.compile": _load_compiled,
    "golden": _load_golden,
    "served": _load_served,
}
