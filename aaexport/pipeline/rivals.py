"""A converted folder → what its model.onnx is compared with: the same network, as one runs it without aaexport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aaexport.errors import ArgumentError, broken_rule, did_you_mean
from aaexport.folder import ModelFolder
from aaexport.graph.files import GraphSummary
from aaexport.graph.metadata import read_metadata
from aaexport.graph.plain import export_plainly
from aaexport.nn.augmented import set_decomposition
from aaexport.pipeline.bench_worker import WorkerSpec
from aaexport.pipeline.subject import Subject, as_subject
from aaexport.program import Batch, fast_tracing

RIVALS = ("eager", "compile", "skew")


def check_rivals(names: Sequence[str]) -> None:
    """ArgumentError unless it is a sequence of different names of `RIVALS`."""
    rule = "be different names in a sequence"
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ArgumentError(broken_rule("compare", rule, names, "as ('eager',), or () for none"))
    for name in names:
        if name not in RIVALS:
            raise ArgumentError(broken_rule("compare", "be known names", name, did_you_mean(str(name), RIVALS)))
    if len(set(names)) < len(names):
        raise ArgumentError(broken_rule("compare", rule, ",".join(names)))


def rival_spec(name: str, folder: ModelFolder, ours: WorkerSpec, summary: GraphSummary, room: Path) -> WorkerSpec:
    """What the worker of that rival loads, for images, device and threads as `ours` has them.

    `skew` is every augmented layer in the paper's own formulas, exported as users do who export without aaexport. The
    others compute what the module computes. `room` is a folder for files that the worker needs as long as it lives.

    Raises:
        WeightsError: the folder's weights do not fit.
        ExportError: torch cannot export the network.
    """
    origin = read_metadata(summary.metadata)
    size, observed = (None, False) if origin is None else (origin.size, origin.with_attention)
    if name == "skew":
        subject = as_subject(folder, size=size)
        path = room / "skew.onnx"
        _export_skew(subject.observed() if observed else subject, summary, path)
        return replace(ours, model=str(path))
    runtime = {"eager": "torch", "compile": "torch.compile"}[name]
    return replace(
        ours,
        runtime=runtime,
        model=str(folder.path),
        size=size,
        with_attention=observed,
        scratch=str(room / "compiled"),
    )


def rival_label(name: str, label: str) -> str:
    """What a report calls that rival, whose runner calls itself `label`."""
    return f"plain skew, {label}" if name == "skew" else label


def _export_skew(subject: Subject, summary: GraphSummary, path: Path) -> None:
    set_decomposition(subject.module, "skew")
    found = summary.inputs[0].shape[0]
    batch: Batch = found if isinstance(found, int) else "dynamic"
    with fast_tracing():
        module = subject.runnable(subject.module)
        export_plainly(module, path, input_shape=subject.input_shape, batch=batch)
