"""Numbers in float32 → the nodes and constants of ONNX by which they are in 8 bits, and again in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from aaexport.errors import GraphError, broken_rule
from aaexport.graph.names import new_name
from aaexport.graph.precision.scales import Grid, stored_bias, stored_weight, weight_scales
from aaexport.graph.precision.weight_types import WeightType
from aaexport.graph.rules.rule import producer

Array = npt.NDArray[Any]


class EightBits:
    """Makes them for a graph: its constants are put into the graph, its nodes are for the caller to place.

    Args:
        graph: the outermost.
        names: of all values, to which those of the new ones are added.
        weights: how weights are stored, unless it is `symmetric`.
        symmetric: whether weights are signed, and biases stay as they are.
    """

    def __init__(self, graph: ir.Graph, names: set[str | None], weights: WeightType, *, symmetric: bool) -> None:
        self._kind: WeightType = "int8" if symmetric else weights
        self._graph, self._names, self._symmetric = graph, names, symmetric
        self._made: dict[tuple[ir.Value, bytes], ir.Value] = {}

    def parameters(self, node: ir.Node, image: Grid) -> dict[int, ir.Value]:
        """Place among a convolution's inputs → its weight, or bias, dequantized, whose node is to be placed once.

        One that several read by the same scales is stored once. GraphError if a number is not finite.
        """
        weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        assert weight is not None
        numbers, added = _finite(weight), None if bias is None or self._symmetric else _finite(bias)
        scales = weight_scales(numbers, self._kind, added, image.scale)
        key = weight, scales.tobytes()
        if key not in self._made:
            self._made[key] = self._per_channel(weight, *stored_weight(numbers, self._kind, scales), scales)
        found = {1: self._made[key]}
        if bias is not None and added is not None:
            scales = (scales * np.float32(image.scale)).astype(np.float32)
            key = bias, scales.tobytes()
            if key not in self._made:
                self._made[key] = self._per_channel(bias, stored_bias(added, scales), None, scales)
            found[2] = self._made[key]
        return found

    def rounded(self, value: ir.Value, source: ir.Value, grid: Grid) -> ir.Value:
        """`source` on the grid, named after `value`; two nodes that may be placed."""
        steps = [
            self._constant(np.array(grid.scale, np.float32), f"{value.name}_scale"),
            self._constant(np.array(grid.zero_point, grid.dtype), f"{value.name}_zero_point"),
        ]
        stored = self._node("QuantizeLinear", [source, *steps], f"{value.name}_quantized", {})
        stored.shape, stored.dtype = value.shape, ir.DataType.INT8 if grid.is_signed else ir.DataType.UINT8
        read = self._node("DequantizeLinear", [stored, *steps], f"{value.name}_dequantized", {})
        read.shape, read.dtype = value.shape, ir.DataType.FLOAT
        return read

    def _per_channel(self, value: ir.Value, stored: Array, zero_points: Array | None, scales: Array) -> ir.Value:
        """A constant as it is stored, dequantized."""
        inputs = [
            self._constant(stored, f"{value.name}_quantized"),
            self._constant(scales, f"{value.name}_scale"),
            *([] if zero_points is None else [self._constant(zero_points, f"{value.name}_zero_point")]),
        ]
        made = self._node("DequantizeLinear", inputs, f"{value.name}_dequantized", {"axis": 0})
        made.shape, made.dtype = value.shape, ir.DataType.FLOAT
        return made

    def _node(self, operator: str, inputs: list[ir.Value], name: str, attributes: dict[str, int]) -> ir.Value:
        made = ir.node(operator, inputs, attributes).outputs[0]
        made.name = new_name(name, self._names)
        return made

    def _constant(self, numbers: Array, name: str) -> ir.Value:
        value = ir.Value(name=new_name(name, self._names), const_value=ir.Tensor(np.asarray(numbers, order="C")))
        value.shape, value.dtype = ir.Shape(numbers.shape), ir.DataType.from_numpy(numbers.dtype)
        self._graph.register_initializer(value)
        return value


def both_nodes(rounded: ir.Value) -> list[ir.Node]:
    """QuantizeLinear and DequantizeLinear of what `EightBits.rounded` made."""
    read = producer(rounded)
    assert read.inputs[0] is not None
    return [producer(read.inputs[0]), read]


def _finite(value: ir.Value) -> Array:
    """The numbers of a constant. GraphError if one is NaN or infinite: no scale is right for it."""
    assert value.const_value is not None
    numbers = value.const_value.numpy()
    if not np.isfinite(numbers).all():
        kind = "NaN" if np.isnan(numbers).any() else "infinity"
        raise GraphError(broken_rule(f"initializer {value.name}", "be finite to become int8", kind))
    return numbers
