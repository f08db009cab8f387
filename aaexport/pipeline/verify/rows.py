"""(file, device) → the rows of the parity matrix: who computes, in the order of the way from definition to answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aaexport.device import parse_device
from aaexport.errors import ProviderError, RunnerError, ServiceError
from aaexport.graph.evaluate import REFERENCE_MACS
from aaexport.graph.files import GraphSummary
from aaexport.graph.serialized import Serialized
from aaexport.parity import Array, Case, Computation, OutputParity, Placement, Stage, Tolerances, required
from aaexport.pipeline.subject.subject import Subject
from aaexport.pipeline.verify.drowned import answers_written_out
from aaexport.pipeline.verify.lost_nan import Arrivals
from aaexport.pipeline.verify.memory import Memory
from aaexport.pipeline.verify.options import Judged
from aaexport.pipeline.verify.oracles import torch_runner
from aaexport.runners.base import Runner
from aaexport.runners.openvino import OpenvinoRunner
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import AS_WRITTEN, DEFAULTS, EXACT, OPTIMIZED, UNOPTIMIZED, SessionSettings
from aaexport.runners.reference import ReferenceRunner
from aaexport.runners.web import LABELS, WebRunner

REFERENCE = "onnx reference"  # a row that others ask for by name
WEBGPU_IMAGES = 2  # of a batch, where WebGPU is imitated by the CPU
TENSORRT = SessionSettings(tensorrt=True)
DEVICE_STAGES: tuple[Stage, ...] = ("device", "TF32")


@dataclass
class Row:
    """A computation that is being judged.

    Attributes:
        name, stage, tolerances: as of the Computation that it becomes.
        open: gives what computes.
        takes: which cases it is given.
        arrivals: where in its file NaN arrives; None where there is no file.
        written_out: what its file answers to images without the kernels that are excused, for which it is loaded
            beside itself; None where there is none.
        placement: of the nodes, once it has been loaded; None where that is not known.
        sizes: batches of images that are tried one after the other beside the cases.
        open_model: loads any ONNX model into the same runtime; None where it takes files only, or is no runtime.
    """

    name: str
    stage: Stage
    tolerances: Tolerances
    open: Callable[[], Runner]
    takes: Callable[[Case], bool] = lambda case: True
    open_model: Callable[[Serialized], Runner] | None = None
    placement: Placement | None = None
    outputs: list[OutputParity] = field(default_factory=list)
    failure: str | None = None
    arrivals: Arrivals | None = None
    written_out: Callable[[Array], Mapping[str, Array] | None] | None = None
    sizes: Sequence[int] = ()

    def result(self) -> Computation:
        """What has been found so far."""
        return Computation(self.name, self.stage, self.tolerances.common, required(self.outputs), self.failure)


def file_rows(
    path: Path,
    summary: GraphSummary,
    runtimes: Iterable[str],
    device: str,
    judged: Judged,
    memory: Memory,
    stage: Stage = "file",
    webgpu: bool = False,
) -> tuple[Row, ...]:
    """The rows of one ONNX file.

    Args:
        path: the file.
        summary: what is in it.
        runtimes: keys of `RUNTIMES` (`options` in this wing).
        device: for those that run elsewhere than on the CPU.
        judged: what is allowed.
        memory: what they may take.
        stage: what is to blame if the file is wrong by whatever computes it.
        webgpu: whether that works in the browser here.
    """
    kind, _ = parse_device(device)
    cpu, cuda, tf32 = judged.on("cpu"), judged.on("cuda"), judged.on("tf32")
    on_cpu = replace(DEFAULTS, arena=not memory.is_tight)
    rows: dict[str, list[Row]] = {
        "reference": [Row(REFERENCE, stage, cpu, lambda: ReferenceRunner(path), _for_reference(summary, memory))],
        "unoptimized": [_session(UNOPTIMIZED, stage, cpu, path, replace(AS_WRITTEN, arena=not memory.is_tight))],
        "onnxruntime": [_session(OPTIMIZED, "optimizer", cpu, path, on_cpu, record_placement=True)],
        "tf32": [_session("onnxruntime CUDA, TF32", "TF32", tf32, path, device=device)],
        "tensorrt": [
            _session("onnxruntime TensorRT", "device", judged.on("tensorrt"), path, TENSORRT, device=device)
        ],
        "openvino": [Row("OpenVINO CPU", "device", judged.on("openvino"), lambda: OpenvinoRunner(path))],
        "web": [Row(LABELS["wasm"], "device", cpu, lambda: WebRunner(path))],
    }
    if kind == "cuda":
        rows["onnxruntime"].append(
            _session("onnxruntime CUDA", "device", cuda, path, EXACT, device=device, record_placement=True)
        )
    if webgpu:
        shaders = partial(WebRunner, path, "webgpu")
        # The last row is what is served, and asked for images by the hundred: not this one, which the CPU imitates.
        rows["web"].insert(0, Row(LABELS["webgpu"], "device", judged.on("webgpu"), shaders, for_webgpu))
    if not suits_reference(summary) or not memory.of_evaluator(1):
        rows["reference"] = []
    found = tuple(row for name in runtimes for row in rows[name])
    arrivals = Arrivals(path)
    for row in found:
        row.arrivals = arrivals
        row.written_out = partial(answers_written_out, path, row.open_model or _as_written)
    return found


def _as_written(model: Serialized) -> Runner:
    return OrtRunner(model, AS_WRITTEN)


def for_webgpu(case: Case) -> bool:
    """Whether it is asked a case: every number of images takes shaders of its own, which take seconds to compile."""
    return case.kind == "ordinary" and not case.degenerate and len(case.batch) <= WEBGPU_IMAGES


def suits_reference(summary: GraphSummary) -> bool:
    """Whether the file is small enough for onnx's reference evaluator."""
    return summary.macs is not None and summary.macs <= REFERENCE_MACS


def _for_reference(summary: GraphSummary, memory: Memory) -> Callable[[Case], bool]:
    def takes(case: Case) -> bool:
        if not memory.of_evaluator(len(case.batch)):
            return False
        # Its AveragePool marks the padding with NaN, and so takes a NaN in the map for padding.
        return case.kind != "poisoned" and (summary.macs or 0) * len(case.batch) <= REFERENCE_MACS

    return takes


def _session(
    name: str, stage: Stage, judging: Tolerances, path: Path, settings: SessionSettings = DEFAULTS, **options: Any
) -> Row:
    """A row of onnxruntime; `options` as of OrtRunner."""
    return Row(
        name,
        stage,
        judging,
        lambda: OrtRunner(path, settings, **options),
        open_model=lambda model: OrtRunner(model, settings, **options),
    )


def torch_row(
    subject: Subject, module: nn.Module, how: str, judged: Judged, limited: Callable[[Runner], Runner]
) -> Row:
    """PyTorch in float32 with the layers computed as they are written out; `limited` bounds what it takes.

    `module` is nobody else's.
    """
    return Row(
        f"PyTorch, {how}",
        "decomposition",
        judged.on("cpu"),
        lambda: limited(torch_runner(subject, module, torch.float32, owns=True)),
    )


@contextmanager
def opened(row: Row) -> Iterator[Runner | None]:
    """The row's runner; one that does not open fails the row, but a device that does not work is no verdict."""
    with ExitStack() as stack:
        runner: Runner | None = None
        try:
            if row.failure is None:
                runner = stack.enter_context(row.open())
        except (ProviderError, ServiceError):
            raise
        except RunnerError as error:
            row.failure = str(error)
        if isinstance(runner, OrtRunner):
            row.placement = Placement.of(runner.placement, runner.provider)
        yield runner
