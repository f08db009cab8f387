"""ONNX model → which kind of numbers it computes in, and what a file says of how it came to that kind.

The operators decide what a file is, and not what it claims: who takes the quantization out of a file, or puts one in,
leaves its metadata as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import onnx

from aaexport.errors import GraphError, broken_rule
from aaexport.graph.check import all_nodes
from aaexport.graph.files import coarsest_type, model_inputs
from aaexport.graph.metadata import PREFIX, read_object

Kind = Literal["float32", "float16", "int8"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# `int8` is a file of ours; `quantized` is one of another tool, or one that another tool has quantized since.
FileKind = Literal["float32", "float16", "int8", "bfloat16", "quantized"]

KIND_KEY = PREFIX + "kind"
REDUCTION_KEY = PREFIX + "reduction"
# Operators on integers that stand for real numbers, of ai.onnx and of onnxruntime's own.
QUANTIZED = re.compile(r"Q(?:Linear|Gemm|Attention|MoE|Embed|Ordered)|.*(?:[Qq]uantize|Integer|NBits|Bnb4)")
ARE = {
    "float16": "one in float16",
    "bfloat16": "one in bfloat16",
    "int8": "one that aaexport has quantized already",
    "quantized": "one that is quantized already, by another tool",
}


@dataclass(frozen=True)
class Origin:
    """What a reduced file says of itself.

    Attributes:
        kind: of its numbers.
        source: SHA-256 of the float32 file that it was made of (`file_digest`); "" where that is not told.
        calibration: what the ranges were taken from: whose images, how many, the seed.
        kept: what stayed in float32: (module path, node, operator, reason) each.
    """

    kind: Kind
    source: str = ""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    kept: tuple[tuple[str, str, str, str], ...] = ()


def kind_of(model: onnx.ModelProto) -> FileKind:
    """What the model is by its operators and types; its metadata tell `int8` from what others quantized."""
    if is_quantized(model):
        return "int8" if _property(model, KIND_KEY) == "int8" else "quantized"
    return coarsest_type(model)


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether it holds an operator on integers that stand for real numbers, in subgraphs and functions too."""
    nodes = [*all_nodes(model.graph), *(node for function in model.functions for node in function.node)]
    return any(QUANTIZED.match(node.op_type) for node in nodes)


def require_float32(model: onnx.ModelProto, wanted: Kind) -> None:
    """GraphError unless it is a model in float32, which is what `wanted` is made of."""
    kind = kind_of(model)
    if kind != "float32":
        rule = f"be a float32 file to become {wanted}"
        raise GraphError(f"the model must {rule}, got {ARE[kind]}; start from the float32 file")
    for tensor in model_inputs(model):
        if tensor.dtype in ("double", "float16", "bfloat16"):
            raise GraphError(broken_rule(f"input {tensor.name}", f"be float32 to become {wanted}", tensor.dtype))


def record_kind(model: onnx.ModelProto, kind: Kind, kept: Sequence[tuple[str, str, str, str]]) -> None:
    """Says in the metadata what the model is now, and what of it stayed in float32."""
    _put(model, KIND_KEY, kind)
    _put(model, REDUCTION_KEY, json.dumps({"kept": kept}, ensure_ascii=False))


def record_origin(model: onnx.ModelProto, source: str, calibration: Mapping[str, Any]) -> None:
    """Adds what a pass cannot know: the digest of the file that the model was made of, and whose images were seen."""
    known = read_object(_property(model, REDUCTION_KEY))
    entries = {**known, "source": source, "calibration": dict(calibration)}
    _put(model, REDUCTION_KEY, json.dumps(entries, ensure_ascii=False))


def read_origin(model: onnx.ModelProto) -> Origin | None:
    """What the file says of itself; None where it says nothing, or what it is not."""
    kind = _property(model, KIND_KEY)
    if kind not in KINDS or kind != kind_of(model):
        return None
    told = read_object(_property(model, REDUCTION_KEY))
    source, calibration, kept = (told.get(key) for key in ("source", "calibration", "kept"))
    rows = [row for row in kept if _is_row(row)] if isinstance(kept, list) else []
    return Origin(
        kind,
        source if isinstance(source, str) else "",
        calibration if isinstance(calibration, dict) else {},
        tuple((row[0], row[1], row[2], row[3]) for row in rows),
    )


def _is_row(row: object) -> bool:
    return isinstance(row, list) and len(row) == 4 and all(isinstance(text, str) for text in row)


def _property(model: onnx.ModelProto, key: str) -> str:
    return next((entry.value for entry in model.metadata_props if entry.key == key), "")


def _put(model: onnx.ModelProto, key: str, value: str) -> None:
    for entry in [entry for entry in model.metadata_props if entry.key == key]:
        model.metadata_props.remove(entry)
    model.metadata_props.add(key=key, value=value)
