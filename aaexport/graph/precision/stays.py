"""Graph in float32 → the nodes that cannot be in float16, or must not, and why.

The range rule: a node stays in float32 if an input, an output or a constant of it comes within a factor of eight of
float16's largest number on calibration inputs; other images may reach further. To leave the softmax alone in float32
would save nothing: the product before it overflows first. An `Attention` operator has the product inside, so that its
bound is made of what goes in; so have the few operators that square what they are given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir
from onnx import defs

from aaexport.graph.check import STANDARD_DOMAINS
from aaexport.graph.precision.values import is_constant, is_float32
from aaexport.graph.rules.rule import attribute

LARGEST = float(np.finfo(np.float16).max)
MARGIN = 8  # how much further than on calibration inputs a tensor may reach
LIMIT = LARGEST / MARGIN
OF_LIMIT = f"above {LIMIT:.0f}, an eighth of float16's largest number"
NARROW = "tensor(float16)"
# They sum squares of what they are given, in the type that they are given.
SQUARING = frozenset({
    "GlobalLpPool", "InstanceNormalization", "GroupNormalization", "LpNormalization", "LpPool", "LRN",
    "MeanVarianceNormalization", "ReduceL2",
})  # fmt: skip
# Of what makes numbers in a type that an attribute tells, and reads none, runtimes have these in float16.
MAKING = frozenset({"Cast", "ConstantOfShape"})
# Inputs by their place that the schema would allow, and no runtime has.
NEVER = {"Resize": (1,)}
Magnitudes = Mapping[ir.Value, float]


def narrow_inputs(node: ir.Node) -> tuple[int, ...]:
    """Places of the inputs in float32 that may be float16, of a node of ai.onnx."""
    formal, never = _schema(node).inputs, NEVER.get(node.op_type, ())
    places = (place for place, value in enumerate(node.inputs) if is_float32(value) and place not in never)
    return tuple(place for place in places if NARROW in formal[min(place, len(formal) - 1)].types)


def narrow_outputs(node: ir.Node) -> tuple[int, ...]:
    """Places of its outputs, as `narrow_inputs`."""
    formal = _schema(node).outputs
    places = (place for place, value in enumerate(node.outputs) if is_float32(value))
    return tuple(place for place in places if NARROW in formal[min(place, len(formal) - 1)].types)


def touches_float32(node: ir.Node) -> bool:
    """Whether it reads or writes a tensor in float32, by its subgraphs too."""
    inner = (value for graph in _subgraphs(node) for each in graph.all_nodes() for value in each.inputs)
    return any(is_float32(value) for value in (*node.inputs, *node.outputs, *inner))


def reasons_to_stay(graph: ir.Graph, found: Magnitudes) -> dict[ir.Node, str]:
    """Node → why it stays in float32, of those that touch such a tensor."""
    sizes: set[ir.Value] = set()
    stays: dict[ir.Node, str] = {}
    for node in graph:
        if _is_of_sizes(node, sizes):
            sizes.update(node.outputs)
        reason = _unable(node) or _unwise(node, sizes, found)
        if reason is not None and touches_float32(node):
            stays[node] = reason
    return stays


def _unable(node: ir.Node) -> str | None:
    """Why it cannot be in float16."""
    if node.domain not in STANDARD_DOMAINS:
        return f"{node.domain}.{node.op_type} is no operator of ai.onnx"
    if next(_subgraphs(node), None) is not None:
        return "what is in its subgraphs is not seen on calibration inputs"
    for value in (*node.inputs, *node.outputs):
        if value is None or not value.name:
            continue
        if value.type is None or value.dtype is None:
            return f"the type of {value.name} is not known"
        if not isinstance(value.type, ir.TensorType):
            return f"{value.name} is no tensor, but a sequence or optional"
    if not _has_schema(node):
        return f"the installed onnx does not know {node.op_type} of this opset"
    if not narrow_inputs(node) and not narrow_outputs(node):
        return f"ONNX has no {node.op_type} in float16"
    if not narrow_inputs(node) and node.op_type not in MAKING:
        return f"runtimes have no {node.op_type} that makes float16"
    return None


def _unwise(node: ir.Node, sizes: set[ir.Value], found: Magnitudes) -> str | None:
    """Why it must not be in float16, although it could."""
    if any(value in sizes for value in node.inputs) and all(value in sizes for value in node.outputs):
        return "it computes with sizes, which float16 rounds above 2048"
    return next(_out_of_range(node, found), None)


def _is_of_sizes(node: ir.Node, sizes: set[ir.Value]) -> bool:
    """Whether it makes sizes, or numbers of sizes and constants alone."""
    if node.op_type in ("Shape", "Size") and node.domain in STANDARD_DOMAINS:
        return True
    variable = [value for value in node.inputs if value is not None and not is_constant(value)]
    return bool(variable) and all(value in sizes for value in variable)


def _out_of_range(node: ir.Node, found: Magnitudes) -> Iterator[str]:
    outer = [node.inputs[place] for place in narrow_inputs(node)] + [node.outputs[p] for p in narrow_outputs(node)]
    for value in outer:
        assert value is not None
        size = found.get(value)
        if size is None:
            yield f"{value.name} was not seen on calibration inputs"
        elif not size <= LIMIT:  # NaN too
            what = f"constant {value.name} holds" if is_constant(value) else f"{value.name} reaches"
            yield f"{what} {size:.3g}, {OF_LIMIT}"
    if node.op_type == "Attention":
        bound = _scores(node, found)
        if bound > LARGEST:
            yield f"its scores may reach {bound:.3g}, above {LARGEST:.0f}, float16's largest number"
    if node.op_type in SQUARING:
        square = max((found.get(value, 0.0) for value in node.inputs[:1] if value is not None), default=0.0) ** 2
        if square > LIMIT:
            yield f"the squares inside it reach {square:.3g}, {OF_LIMIT}"


def _scores(node: ir.Node, found: Magnitudes) -> float:
    """What scale · q · k cannot exceed; of heads narrower than 8 the eightfold of a single product instead."""
    q, k = node.inputs[:2]
    depth = _head_size(node)
    if q is None or k is None or depth is None or q not in found or k not in found:
        return math.inf
    scale = attribute(node, "scale", depth**-0.5)
    return float(scale * max(depth, MARGIN) * found[q] * found[k])


def _head_size(node: ir.Node) -> int | None:
    """The depth of a head: the last axis of four, or a part of the last of three."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    last = shape[-1] if shape is not None and len(shape) else None
    if not isinstance(last, int) or shape is None:
        return None
    return last if len(shape) == 4 else last // max(1, attribute(node, "q_num_heads", 1))


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for each in node.attributes.values():
        if each.type == ir.AttributeType.GRAPH:
            yield each.as_graph()
        elif each.type == ir.AttributeType.GRAPHS:
            yield from each.as_graphs()


def _has_schema(node: ir.Node) -> bool:
    try:
        _schema(node)
    except defs.SchemaError:
        return False
    return True


def _schema(node: ir.Node) -> defs.OpSchema:
    assert node.graph is not None
    return defs.get_schema(node.op_type, node.graph.opset_imports.get("", node.version or 0), "")
