"""ONNX model → multiply-accumulates, from its inferred shapes; works on files that aaexport did not make."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
from onnx import shape_inference

from aaexport.graph.check import STANDARD_DOMAINS
from aaexport.graph.light import light_at_batch

Shape = tuple[int, ...]


def count_macs(model: onnx.ModelProto) -> int | None:
    """MACs of convolutions and matrix products at batch 1; None where a shape they need is not known."""
    shapes = shapes_at_batch_1(model)
    counted = [macs_of(node, shapes) for node in model.graph.node]
    return None if None in counted else round(sum(macs for macs in counted if macs is not None))


def macs_of(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> float | None:
    """Those of one node; 0 for what multiplies no matrices, None where a shape is not known."""
    if node.op_type not in _FORMULAS or node.domain not in STANDARD_DOMAINS:
        return 0.0
    inputs, output = [shapes.get(name) for name in node.input[:2]], shapes.get(node.output[0])
    if output is None or None in inputs:
        return None
    first, second = inputs
    assert first is not None
    assert second is not None
    return math.prod(output) * float(_FORMULAS[node.op_type](node, first, second, output))


def _products_of_gemm(node: onnx.NodeProto, a: Shape, b: Shape, output: Shape) -> float:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return a[0] if transposed else a[-1]


def _products_of_attention(node: onnx.NodeProto, q: Shape, k: Shape, output: Shape) -> float:
    """Keys · (query depth + value depth) for each query, shared by the numbers of its output."""
    return k[-2] * (q[-1] + output[-1]) / output[-1]


# Products that each number of the output is the sum of.
_FORMULAS = {
    "Conv": lambda node, x, weight, output: math.prod(weight[1:]),  # Cin / groups · kernel
    "MatMul": lambda node, a, b, output: a[-1],
    "Gemm": _products_of_gemm,
    "Attention": _products_of_attention,
}


def shapes_at_batch_1(model: onnx.ModelProto) -> dict[str, Shape]:
    """Every shape that is known once the dynamic first dimension of the inputs is 1."""
    try:
        fixed = shape_inference.infer_shapes(light_at_batch(model, 1), data_prop=True)
    except shape_inference.InferenceError:
        return {}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in fixed.graph.initializer}
    for value in [*fixed.graph.input, *fixed.graph.value_info, *fixed.graph.output]:
        dimensions = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dimensions):
            shapes[value.name] = tuple(d.dim_value for d in dimensions)
    return shapes
