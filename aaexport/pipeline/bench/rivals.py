"""A converted folder → what its model.onnx is compared with.

That is the same network, as one runs it without aaexport, or another file that takes the same inputs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aaexport.capture.program import fast_tracing
from aaexport.capture.source import require_source
from aaexport.folder import ModelFolder
from aaexport.graph.files import GraphSummary
from aaexport.graph.metadata import read_metadata
from aaexport.graph.plain import export_plainly
from aaexport.nn.augmented import set_decomposition
from aaexport.pipeline.bench.rival_names import is_dtype, is_other_model, other_file, torch_ways
from aaexport.pipeline.bench.worker_models import WorkerSpec
from aaexport.pipeline.subject.subject import Subject, as_subject
from aaexport.recipe import Batch


def other_spec(name: str, ours: WorkerSpec) -> WorkerSpec:
    """What the worker of `onnx:FILE` or `folder:PATH` loads; as `other_file` raises."""
    return replace(ours, model=str(other_file(name)))


def rival_spec(
    name: str,
    folder: ModelFolder,
    ours: WorkerSpec,
    summary: GraphSummary,
    room: Path,
    module: str | None = None,
) -> WorkerSpec:
    """What the worker of that rival of `RIVALS` loads, for images, device and threads as `ours` has them.

    `skew` is every augmented layer in the paper's own formulas, exported as users do who export without aaexport; of
    a module that was brought along, which is then imported from `module`, it is the module's own code. The others
    compute what the module computes. `room` is a folder for files that the worker needs as long as it lives.

    Raises:
        WeightsError: the folder's weights do not fit.
        ExportError: torch cannot export the network.
    """
    origin = read_metadata(summary.metadata)
    size, observed = (None, False) if origin is None else (origin.size, origin.with_attention)
    if name == "skew":
        subject = as_subject(folder, size=size, source=None if module is None else require_source(module))
        path = room / "skew.onnx"
        _export_skew(subject.observed() if observed else subject, summary, path)
        return replace(ours, model=str(path))
    found = torch_ways(name)
    assert found is not None
    base, ways = found
    return replace(
        ours,
        runtime={"eager": "torch", "compile": "torch.compile"}[base],
        ways=ways,
        model=str(folder.path),
        size=size,
        with_attention=observed,
        scratch=str(room / "compiled"),
        module=module,
    )


def rival_label(name: str, label: str) -> str:
    """What a report calls that rival, whose runner calls itself `label`."""
    if is_dtype(name):
        return f"{name} file, {label}"
    if is_other_model(name):
        return f"{Path(name.partition(':')[2]).name}, {label}"
    return f"plain skew, {label}" if name == "skew" else label


def _export_skew(subject: Subject, summary: GraphSummary, path: Path) -> None:
    plain = subject.module if subject.original is None else subject.original.requires_grad_(False)
    set_decomposition(plain, "skew")
    found = summary.inputs[0].shape[0]
    batch: Batch = found if isinstance(found, int) else "dynamic"
    with fast_tracing():
        module = subject.runnable(plain)
        export_plainly(module, path, input_shape=subject.input_shape, batch=batch)
