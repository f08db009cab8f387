"""(model, options) → model.onnx: captured, converted, checked, verified, and only then put in its place."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from torch import nn

from aaexport.errors import ArgumentError, ParityError, broken_rule, did_you_mean
from aaexport.folder import ModelFolder, atomic_path, check_writable, write_json
from aaexport.graph.check import check_model, check_operators
from aaexport.graph.convert import to_onnx
from aaexport.graph.files import write_onnx
from aaexport.graph.metadata import Provenance, record_rules, write_metadata
from aaexport.graph.optimize import optimize_model
from aaexport.graph.rules import TARGETS, Target
from aaexport.nn.attention_maps import attention_outputs
from aaexport.parity import ParityReport
from aaexport.pipeline.plan import check_max_attention_memory, plan_attention
from aaexport.pipeline.subject import (
    ImageShape,
    Subject,
    as_subject,
    decompositions_of,
    with_decomposition,
)
from aaexport.pipeline.tuning import tuned_choices
from aaexport.pipeline.verify import tolerance_for, verify_subject
from aaexport.program import Batch, export_program, fast_tracing
from aaexport.recipe import DECOMPOSITION_NAMES, DEFAULT_OPSET, DecompositionName, check_opset
from aaexport.report.machine import parity_json
from aaexport.results import ConvertResult
from aaexport.weights import weights_digest

Say = Callable[[str], None]


def convert(
    model: nn.Module | str | Path | ModelFolder,
    path: str | Path | None = None,
    *,
    input_shape: ImageShape | None = None,
    size: tuple[int, int] | None = None,
    opset: int | None = None,
    decomposition: DecompositionName | None = None,
    batch: Batch | None = None,
    max_attention_memory: float | None = None,
    target: Target = "cpu",
    with_attention: bool = False,
    verify: bool = True,
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
    say: Say = lambda step: None,
) -> ConvertResult:
    """Writes `model` as one ONNX file of plain `ai.onnx` operators that was verified before it got its name.

    Args:
        model: a zoo name, a model folder with weights, or a module in float32, which is left as it is.
        path: the file to write; the folder's model.onnx by default.
        input_shape: (C, H, W) of one image; needed for a module, the recipe's for a folder.
        size: (H, W) of the images instead of the recipe's: trained relative tables are brought to it, exactly for a
            smaller size, by interpolation for a larger one, and the result's notes say so.
        opset: 18–25; the recipe's, or 20.
        decomposition: for every augmented layer; the recipe's, or each layer's own. `auto` is one `Attention`
            operator a layer from opset 23 on, and below it what `aaexport.nn.choice` takes for the layer's sizes;
            in a folder that `aaexport.tune` has worked on, what was fastest there, and the result's notes say so.
        batch: "dynamic" or a number; the recipe's, or "dynamic".
        max_attention_memory: MiB that no tensor of attention logits may exceed, of one image if the batch is dynamic.
        target: `cpu` or `cuda`, where the file is to run: decompositions and graph rules are chosen for it.
        with_attention: whether the attention weights are outputs too, after the usual ones, which stay as they are:
            `attention.<path of the layer>.head<number>` of shape (batch, H, W, H, W), where [b, h, w, i, j] is how
            much query position (h, w) takes from key position (i, j) of the layer's map.
        verify: whether parity must hold before the file gets its name.
        atol, rtol, seed: as for `aaexport.verify`.
        say: is told each step as it begins.

    Raises:
        ArgumentError: an argument breaks its rule.
        NoWeightsError: the folder has not been trained yet.
        ExportError, GraphError: PyTorch cannot capture or convert the module, or not into plain ONNX.
        ParityError: the file computes something else; an older file at `path` is untouched.
        FolderError: `path` cannot be written, or the folder's tuning.json is not whole.
    """
    began = time.perf_counter()
    if opset is not None:
        check_opset(opset)
    if decomposition is not None and decomposition not in DECOMPOSITION_NAMES:
        remedy = did_you_mean(str(decomposition), DECOMPOSITION_NAMES)
        raise ArgumentError(broken_rule("decomposition", "be a known one", decomposition, remedy))
    if target not in TARGETS:
        raise ArgumentError(broken_rule("target", f"be one of {', '.join(TARGETS)}", target))
    check_max_attention_memory(max_attention_memory, with_attention=with_attention)
    tolerance_for("cpu", atol, rtol)  # a wrong one is refused before the work, not after it
    subject = as_subject(model, input_shape, size)
    if with_attention:
        subject = subject.observed()
    destination = _destination(subject, path)
    check_writable(destination)
    recipe = subject.recipe
    if recipe is not None:
        opset = recipe.export.opset if opset is None else opset
        decomposition = recipe.export.decomposition if decomposition is None else decomposition
        batch = recipe.export.batch if batch is None else batch
    opset = DEFAULT_OPSET if opset is None else opset
    batch = "dynamic" if batch is None else batch

    tuned, remarks = tuned_choices(subject, decomposition, opset, batch)
    for remark in remarks:
        say(remark)
    # Parameters that want no gradient are traced with fewer steps; the copy is thrown away afterwards.
    module = with_decomposition(subject.module, None).requires_grad_(False)
    planned = plan_attention(
        module,
        opset=opset,
        batch=batch,
        decomposition=decomposition,
        max_attention_memory=max_attention_memory,
        with_attention=with_attention,
        tuned=tuned,
    )
    with fast_tracing():
        say("capturing the module with torch.export")
        program = export_program(subject.runnable(module), subject.input_shape, batch)
        say(f"converting to ONNX opset {opset}")
        onnx_model = to_onnx(program, opset=opset, output_names=subject.output_names)
    say("applying the graph rules")
    onnx_model, rules = optimize_model(onnx_model, target=target)
    check_model(onnx_model, opset=opset)
    check_operators(onnx_model)
    provenance = Provenance(
        weights_digest(module),
        None if subject.folder is None else subject.folder.recipe.digest(),
        decompositions_of(module),
        opset,
        subject.own_size,
        subject.notes,
        with_attention,
    )
    write_metadata(onnx_model, provenance, None if recipe is None else recipe.input)
    applied = {rule.title: rule.applied for rule in rules if rule.applied}
    record_rules(onnx_model, applied)

    parity = None
    with atomic_path(destination) as temporary:
        write_onnx(onnx_model, temporary)
        written = temporary.stat().st_size
        if verify:
            say("verifying against PyTorch")
            parity = verify_subject(subject, temporary, atol=atol, rtol=rtol, seed=seed, named=destination)
            if not parity.passed:
                failure = next(iter(parity.failures), "nothing was compared")
                raise ParityError(f"parity failed and {destination} was not written: {failure}", parity)
    if subject.folder is not None and destination == subject.folder.onnx_path:
        _record(subject.folder, parity)
    return ConvertResult(
        path=destination,
        opset=opset,
        decomposition=decompositions_of(module),
        batch=batch,
        operators=dict(Counter(node.op_type for node in onnx_model.graph.node).most_common()),
        bytes=written,
        seconds=time.perf_counter() - began,
        parity=parity,
        notes=(*subject.notes, *remarks, *planned),
        attention_outputs=attention_outputs(module) if with_attention else (),
        rules=applied,
    )


def _destination(subject: Subject, path: str | Path | None) -> Path:
    if path is not None:
        return Path(path)
    if subject.folder is None or subject.folder.is_zoo:
        raise ArgumentError("path must be given for a module or a zoo model, got None; name the file to write")
    return subject.folder.onnx_path


def _record(folder: ModelFolder, parity: ParityReport | None) -> None:
    """A new model.onnx outdates the old verification, which is replaced or removed, and the old measurement."""
    folder.bench_path.unlink(missing_ok=True)
    if parity is None:
        folder.parity_path.unlink(missing_ok=True)
    else:
        write_json(folder.parity_path, parity_json(parity))
    folder.write_manifest()
