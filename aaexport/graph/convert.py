"""ExportedProgram → ONNX model of plain `ai.onnx` operators."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from onnxscript import rewriter
from torch.export import ExportedProgram

from aaexport.capture.input_name import INPUT_NAME
from aaexport.capture.unwritten import why_not_written
from aaexport.errors import ExportError
from aaexport.graph.check import check_model
from aaexport.graph.files import OnnxModel
from aaexport.graph.hurried import hurried
from aaexport.graph.outside import Room, move_out
from aaexport.graph.shortcuts import shortcuts
from aaexport.graph.translations import translations
from aaexport.recipe import check_opset

BATCH_DIMENSION = "batch"


@dataclass(frozen=True)
class Converted:
    """What torch's exporter wrote, and the program that it wrote it from: tensors of both go by the same names."""

    model: OnnxModel
    program: ExportedProgram


def to_onnx(
    program: ExportedProgram, *, opset: int, output_names: Sequence[str], room: Room | None = None
) -> Converted:
    """Converts with torch's dynamo exporter and checks the result (`check_model`).

    Inputs and outputs are named, and a dynamic first dimension is called `batch`. `room` as of `optimize_model`.

    Raises:
        ArgumentError: an opset outside 18–25.
        ExportError: torch's exporter failed; the text has the line of the user's source, and the remedy if known.
        GraphError: what it wrote is not a plain, valid ONNX model, or is above 2 GiB and there is no room.
        FolderError: there is too little of it.
    """
    check_opset(opset)
    try:
        with quiet_exporter(), _chosen_rules(), shortcuts():
            converted = torch.onnx.export(
                program,
                (),
                input_names=[INPUT_NAME],
                output_names=list(output_names),
                opset_version=opset,
                dynamo=True,
                custom_translation_table=translations(),
                optimize=True,
                verbose=False,
            )
    # The exporter raises its own errors and whatever its passes raise: there is no common base.
    except Exception as error:
        why = why_not_written(error, program)
        raise ExportError(f"torch's ONNX exporter failed at opset {opset}: {why}") from error
    if converted is None or converted.exported_program is None:
        raise ExportError(f"torch's ONNX exporter returned nothing at opset {opset}")
    move_out(converted.model, room)
    model = converted.model_proto
    _name_batch(model)
    check_model(model, opset=opset)
    return Converted(model, converted.exported_program)


def _name_batch(model: OnnxModel) -> None:
    """Calls torch's symbol for the dynamic batch `batch`, in products such as `4*s77` (heads · batch) too.

    Two dimensions of one name must be of one size: runtimes reuse buffers by it.
    """
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    if not dimensions or not dimensions[0].dim_param:
        return
    symbol = re.compile(rf"\b{re.escape(dimensions[0].dim_param)}\b")
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = symbol.sub(BATCH_DIMENSION, dimension.dim_param)


@contextlib.contextmanager
def _chosen_rules() -> Iterator[None]:
    """Leaves out those of the exporter's own rewritings that look at every pair of nodes, and lets others be exact.

    There is one, which makes a Split of two Slices: attention in blocks has hundreds of Slices, and for a Wide-ResNet
    of 28 layers it takes minutes to find that none of them are two halves of one tensor. And x + 1e-8 is no x + 0 for
    those who take the logarithm of it, nor is x · 1.000001 x.
    """
    name = "_DEFAULT_REWRITE_RULES"  # of no public name; a version that has it no more is only slower
    rules = getattr(rewriter, name, None)
    try:
        chosen = tuple(rule for rule in rules or () if _looks_at_one_node(rule))
        tolerant = [constant for rule in rules or () for constant in _tolerant_constants(rule)]
    except (AttributeError, TypeError):  # nor has a rule any public parts
        rules = None
    if rules is None:
        yield
        return
    before = [(constant._rel_tol, constant._abs_tol) for constant in tolerant]
    try:
        setattr(rewriter, name, chosen)
        for constant in tolerant:
            constant._rel_tol = constant._abs_tol = 0.0
        for rule in chosen:
            hurried(rule)
        yield
    finally:
        setattr(rewriter, name, rules)
        for rule in chosen:
            vars(rule).pop("try_rewrite", None)  # the class has it too
        for constant, (rel_tol, abs_tol) in zip(tolerant, before, strict=True):
            constant._rel_tol, constant._abs_tol = rel_tol, abs_tol


def _tolerant_constants(rule: Any) -> list[Any]:
    """Constants in the pattern of a rule that others match which are near enough."""
    nodes = getattr(rule, "_target_pattern", None) or ()
    inputs = [value for node in nodes for value in node.inputs]
    return [value for value in inputs if hasattr(value, "_abs_tol") and hasattr(value, "_rel_tol")]


def _looks_at_one_node(rule: Any) -> bool:
    pattern = getattr(rule, "_target_pattern", None)
    return bool(getattr(pattern, "has_single_output_node", True))


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keeps the exporter's progress, its note on an absent torchvision and its deprecations from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
