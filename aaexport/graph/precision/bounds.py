"""Ranges of some tensors → the greatest magnitude of all: what an operator only moves or bounds need not be seen."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from aaexport.graph.check import STANDARD_DOMAINS
from aaexport.graph.precision.ranges import Ranges
from aaexport.graph.precision.values import is_constant, is_float32

# What comes out of these is among what goes in, or 0, or between two of those.
AMONG_INPUTS = frozenset({
    "Abs", "AveragePool", "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements",
    "GatherND", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Max", "MaxPool", "Min", "Neg", "Pad", "ReduceMax",
    "ReduceMean", "ReduceMin", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose",
    "Trilu", "Unsqueeze", "Where",
})  # fmt: skip
AT_MOST_ONE = frozenset({"Cos", "Erf", "HardSigmoid", "Sigmoid", "Sin", "Softmax", "Softsign", "Tanh"})


def to_be_seen(graph: ir.Graph) -> list[ir.Value]:
    """The tensors in float32 whose ranges do not follow from others, in their order: those to look at on images."""
    computed = (value for node in graph for value in node.outputs if value.name and not _follows(node))
    return [value for value in (*graph.inputs, *computed) if is_float32(value)]


def magnitudes(graph: ir.Graph, ranges: Ranges) -> dict[ir.Value, float]:
    """The greatest magnitude of every tensor in float32 of which it is known; NaN for a constant that holds it."""
    constants = filter(is_constant, graph.initializers.values())
    found = {value: _largest(value) for value in constants if is_float32(value)}
    for value in graph.inputs:
        if is_float32(value) and (seen := ranges.get(value.name or "")) is not None:
            found[value] = seen.largest
    for node in graph:
        for value in filter(is_float32, node.outputs):
            if (seen := ranges.get(value.name or "")) is not None:
                found[value] = seen.largest
            elif _follows(node):
                _follow(node, value, found)
    return found


def _follows(node: ir.Node) -> bool:
    return node.domain in STANDARD_DOMAINS and node.op_type in AMONG_INPUTS | AT_MOST_ONE


def _follow(node: ir.Node, value: ir.Value, found: dict[ir.Value, float]) -> None:
    read = [each for each in node.inputs if each is not None and is_float32(each)]
    if node.op_type in AT_MOST_ONE:
        found[value] = 1.0
    elif read and all(each in found for each in read):
        found[value] = float(np.max([found[each] for each in read]))


def _largest(value: ir.Value) -> float:
    """Of a constant."""
    numbers = value.const_value.numpy() if value.const_value is not None else np.zeros(0)
    return float(np.maximum(-numbers.min(), numbers.max())) if numbers.size else 0.0
