"""ONNX file → everything that is wrong or strange about it, as far as can be told without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, defs

from aaexport.errors import GraphError, broken_rule, first_few
from aaexport.graph.check import STANDARD_DOMAINS, all_nodes, declared_opset, infer_strictly, operator_faults
from aaexport.graph.digests import digests_of, read_digests
from aaexport.graph.files import (
    TensorInfo,
    data_files,
    external_data_faults,
    load_external_data,
    model_inputs,
    parse_onnx,
    tensor_info,
)
from aaexport.graph.metadata import Provenance, provenance_of
from aaexport.graph.tensors import Content, contents, named_tensors

NAMED = 3  # tensors that a line names; the others are counted
COARSE = (TensorProto.FLOAT16, TensorProto.BFLOAT16)  # what a tool may have made of a tensor, and kept its name
CONVERT_AGAIN = "convert again"


@dataclass(frozen=True)
class Audit:
    """What was found, a line each.

    Attributes:
        failures: what makes the file wrong.
        warnings: what does not, and should be looked at.
        model: the parsed file with its external data (`load_external_data`), for whoever needs it next; None if some
            of that lies outside the folder: then nothing may run the file.
        data_files: those of its numbers that lie beside it.
        changed_since_conversion: whether it is another graph or holds other numbers than what aaexport wrote; None if
            the file does not remember.
        changed_initializers: those of the tensors that hold other numbers.
    """

    failures: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    model: onnx.ModelProto | None = None
    changed_since_conversion: bool | None = None
    changed_initializers: tuple[str, ...] = ()
    data_files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Finding:
    text: str
    fails: bool = True


def audit(path: Path, before: Callable[[tuple[Path, ...]], object] = lambda beside: None) -> Audit:
    """Holds a file to the operators and the opset it declares, to its types and shapes, its metadata and its digests.

    `before` is told the files of its numbers beside it before these are read.

    Raises:
        GraphError: no ONNX file, or not whole: nothing can be said of it.
    """
    model = parse_onnx(path)
    provenance = provenance_of(model)
    findings = [*_declared(model, provenance), *_operators(model), *_names(model)]
    outside = tuple(external_data_faults(model, path))
    if outside:
        return Audit((*outside, *(finding.text for finding in findings)))
    beside = data_files(model, path)
    before(beside)
    load_external_data(model, path)
    held = tuple(contents(model))
    findings += _unreadable(held)
    inferred = None
    if not findings:  # the checker stops at its first complaint, which would be one of those
        try:
            inferred = infer_strictly(model)
        except GraphError as error:
            findings.append(_Finding(str(error)))
    rewritten, other = _changes(model, held)
    changed = None if rewritten is None else rewritten or bool(other)
    findings += [
        *_batches(model, inferred, provenance),
        *_unused_inputs(model),
        *_not_finite(held, ours=_is_ours(provenance), as_converted=changed is False),
        *_integrity(rewritten, other, ours=provenance is not None),
    ]
    failures = tuple(finding.text for finding in findings if finding.fails)
    warnings = tuple(finding.text for finding in findings if not finding.fails)
    return Audit(failures, warnings, model, changed, other, beside)


def _declared(model: onnx.ModelProto, provenance: Provenance | None) -> Iterator[_Finding]:
    if not model.ir_version:
        yield _Finding("the file must declare its ir_version, got none")
    entries = [entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS]
    if len(entries) != 1:
        yield _Finding(broken_rule("the file", "declare the opset of ai.onnx once", entries))
    newest = defs.onnx_opset_version()
    if declared_opset(model) > newest:
        rule = f"be at most {newest}, the newest that the installed onnx knows"
        yield _Finding(broken_rule("the declared opset", rule, declared_opset(model), "install a newer onnx"))
    if provenance is not None and provenance.opset not in entries:
        rule = f"be {provenance.opset}, that of the file's own metadata"
        yield _Finding(broken_rule("the declared opset", rule, declared_opset(model), CONVERT_AGAIN))


def _operators(model: onnx.ModelProto) -> Iterator[_Finding]:
    """What is not of ai.onnx, and what the declared opset of ai.onnx does not have."""
    yield from map(_Finding, operator_faults(model))
    opset = declared_opset(model)
    for operator in sorted({node.op_type for node in all_nodes(model.graph) if node.domain in STANDARD_DOMAINS}):
        lacking = _lacking(operator, opset) if opset else None
        if lacking:
            yield _Finding(f"operator {operator} must be one of opset {opset}, got {lacking}")


def _lacking(operator: str, opset: int) -> str | None:
    """Why the opset does not have the operator; None if it has."""
    if not defs.has(operator):
        return "a name that no opset has"
    try:
        schema = defs.get_schema(operator, opset, "")
    except defs.SchemaError:
        history = (schema for schema in defs.get_all_schemas_with_history() if schema.domain == "")
        return f"one of opset {min(each.since_version for each in history if each.name == operator)} and later"
    return f"one that ended with opset {schema.since_version}" if schema.deprecated else None


def _names(model: onnx.ModelProto) -> Iterator[_Finding]:
    """Every name that stands for two things. Of the outermost graph; the checker looks into the others."""
    graph = model.graph
    made = [name for node in graph.node for name in node.output if name]
    given = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for what, names in {
        "input": [value.name for value in graph.input],
        "output": [value.name for value in graph.output],
        "initializer": [tensor.name for tensor in graph.initializer],
        "value": [*made, *(name for name in given if name in set(made))],
    }.items():
        for name, times in Counter(names).items():
            if times > 1:
                yield _Finding(f"{what} {name} must be there once, got {times} of that name")


def _unreadable(held: Iterable[Content]) -> list[_Finding]:
    names = [content.name for content in held if content.digest is None]
    return [_Finding(f"initializer {name} must hold the numbers of its type and shape, got others") for name in names]


def _batches(
    model: onnx.ModelProto, inferred: onnx.ModelProto | None, provenance: Provenance | None
) -> Iterator[_Finding]:
    """Whether inputs and outputs have the batch, their first dimension, that the metadata say, or all a dynamic one.

    An output's is what shape inference finds, where that knows better than the declaration.
    """
    inputs = model_inputs(model)
    outputs = [tensor_info(value) for value in (model if inferred is None else inferred).graph.output]
    wanted = None if provenance is None else provenance.batch
    for tensor in inputs:
        if wanted is not None and not _has_batch(tensor, wanted):
            yield _Finding(_batch_rule(f"input {tensor.name}", wanted, tensor))
    is_dynamic = any(_has_batch(tensor, "dynamic") for tensor in inputs)
    for tensor in outputs:
        # An output of somebody's own module may well have another first dimension, or not depend on the input.
        if _is_ours(provenance) and wanted is not None and not _has_batch(tensor, wanted):
            yield _Finding(_batch_rule(f"output {tensor.name}", wanted, tensor))
        elif provenance is None and is_dynamic and tensor.shape and isinstance(tensor.shape[0], int):
            rule = "have a dynamic batch like the input"
            yield _Finding(broken_rule(f"output {tensor.name}", rule, tensor.shape), fails=False)


def _has_batch(tensor: TensorInfo, wanted: int | str) -> bool:
    batch = tensor.shape[0] if tensor.shape else None
    return bool(tensor.shape) and (batch == wanted if isinstance(wanted, int) else not isinstance(batch, int))


def _batch_rule(name: str, wanted: int | str, tensor: TensorInfo) -> str:
    batch = "dynamic batch" if wanted == "dynamic" else f"batch of {wanted}"
    return broken_rule(name, f"have a {batch}, as its metadata say", tensor.shape, CONVERT_AGAIN)


def _unused_inputs(model: onnx.ModelProto) -> Iterator[_Finding]:
    used = {name for node in all_nodes(model.graph) for name in node.input}
    used |= {value.name for value in model.graph.output} | {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in used:
            yield _Finding(f"input {value.name} must be used by a node, got none that does", fails=False)


def _not_finite(held: Iterable[Content], *, ours: bool, as_converted: bool) -> Iterator[_Finding]:
    """Infinity may be meant, as a mask in somebody's own module, but not in our networks; NaN never is."""
    for content in held:
        counts = {"NaN": content.nan, "infinite": content.infinite}
        if content.nan or (content.infinite and (ours or not as_converted)):
            got = " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)
            text = f"initializer {content.name} must hold finite numbers, got {got} of {content.size}"
            yield _Finding(text, fails=bool(content.nan) or ours)


def _changes(model: onnx.ModelProto, held: Iterable[Content]) -> tuple[bool | None, tuple[str, ...]]:
    """Whether the graph is another one than aaexport wrote (None if it is not known), and which tensors are."""
    recorded = read_digests(model)
    if recorded is None:
        return None, ()
    now = digests_of(model, held)
    rewritten = recorded.graph != now.graph
    coarser = {name for name, tensor in named_tensors(model) if tensor.data_type in COARSE} if rewritten else set()
    return rewritten, tuple(name for name in now.changed_since(recorded) if name not in coarser)


def _integrity(rewritten: bool | None, tensors: tuple[str, ...], *, ours: bool) -> Iterator[_Finding]:
    """Whether the file is as it was written. A graph that some tool rewrote may be right: what it computes decides.

    But no tool that keeps a function keeps the name and type of a tensor and changes its numbers.
    """
    if rewritten is None and ours:
        text = "the file must remember the digests of its numbers, got none: too small a change may go unseen"
        yield _Finding(f"{text}; {CONVERT_AGAIN}", fails=False)
    if rewritten:
        text = "the file must be as aaexport wrote it, got another graph: some tool has rewritten it"
        yield _Finding(text, fails=False)
    if tensors:
        rule = "hold the numbers that were converted"
        noun = "initializer" if len(tensors) == 1 else "initializers"
        yield _Finding(f"{noun} {first_few(tensors, NAMED)} must {rule}, got others; {CONVERT_AGAIN}")


def _is_ours(provenance: Provenance | None) -> bool:
    """Whether the file was converted from a model folder, so that every part of it is known."""
    return provenance is not None and provenance.recipe_digest is not None
