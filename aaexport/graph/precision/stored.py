"""Reduced ONNX file × the float32 file that it was made of → every tensor that it rounds, and how.

This reads what a file holds and trusts none of what the pass meant to write: a scale that is twice too large is found
by whoever compares the numbers themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from aaexport.errors import GraphError
from aaexport.graph.check import STANDARD_DOMAINS
from aaexport.graph.optimize import editable
from aaexport.graph.precision.int8 import convolutions, quantizable
from aaexport.graph.precision.reduced import Layer, layers_of
from aaexport.graph.precision.scales import finest_scales
from aaexport.graph.precision.stages import CONSTANTS
from aaexport.graph.precision.weight_types import LARGEST

Array = npt.NDArray[Any]
PARTS = {1: "weight", 2: "bias"}  # of a convolution, by their places among its inputs


@dataclass(frozen=True, eq=False)
class Constant:
    """A weight or bias as the file has it, and as float32 has it.

    Attributes:
        layer: whose.
        what: `weight` or `bias`; in a float16 file the initializer's name.
        expected, held: the numbers, (channels, …).
        unit: of the finest grid that would have held each channel, (channels,) in float64; 0 where none does, because
            the channel is nothing or runtimes have no unit as small. None in a float16 file.
    """

    layer: Layer
    what: str
    expected: Array
    held: Array
    unit: Array | None


@dataclass(frozen=True, eq=False)
class Activation:
    """A tensor that is computed and then rounded to 8 bits.

    Attributes:
        name: in the float32 file.
        layer: that writes it, or reads it where nobody writes it.
        low, high: what is stored is between both.
        scale, zero_point: by which it is quantized.
        read_scale, read_zero_point: by which it is read again.
        is_of_convolution: whether a convolution in 8 bits reads or writes it.
    """

    name: str
    layer: Layer
    low: int
    high: int
    scale: float
    zero_point: int
    read_scale: float
    read_zero_point: int
    is_of_convolution: bool

    @property
    def is_signed(self) -> bool:
        """Whether it is stored in int8."""
        return self.low < 0

    @property
    def grid(self) -> tuple[float, int, int]:
        """What tells tensors that share one from others."""
        return self.scale, self.zero_point, self.low

    def rounded(self, numbers: Array) -> Array:
        """What readers get for these numbers, in float64."""
        with np.errstate(divide="ignore", invalid="ignore"):  # a scale that is 0 or NaN makes NaN of all
            units = np.rint(numbers.astype(np.float64) / self.scale)
        stored = np.clip(units + self.zero_point, self.low, self.high)
        return np.asarray((stored - self.read_zero_point) * self.read_scale)


def stored_convolutions(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """The convolutions whose weights the file holds in 8 bits."""
    whole = _readable(model)
    layers = layers_of(whole.graph)
    return tuple(layers[node] for node in convolutions(whole.graph) if _dequantized(node.inputs[1]) is not None)


def constants_in_8_bits(model: onnx.ModelProto, source: onnx.ModelProto) -> Iterator[Constant]:
    """Weights and biases of the convolutions that both files have by the same names.

    Raises:
        GraphError: `source` is not in float32, or holds no convolution.
    """
    whole = _readable(model)
    layers, largest = layers_of(whole.graph), _largest_stored(whole.graph)
    wanted = {node.name: node for node in convolutions(quantizable(source).graph)}
    for node in convolutions(whole.graph):
        other = wanted.get(node.name)
        if other is None or _dequantized(node.inputs[1]) is None:
            continue
        weight = _numbers(other.inputs[1])
        if weight is None:
            continue
        parts = {place: _part(node, other, place) for place in PARTS}
        bias, scale = parts[2], _input_scale(node)
        unit = finest_scales(weight, largest, None if bias is None or scale is None else bias[1], scale or 1.0)
        for place, part in parts.items():
            if part is not None:
                own = unit if place == 1 else None if scale is None else unit * scale
                yield Constant(layers[node], PARTS[place], part[1], part[0], own)


def _part(node: ir.Node, other: ir.Node, place: int) -> tuple[Array, Array] | None:
    """(what a convolution in 8 bits holds there, what the float32 file does); None where there are not both."""
    held = _dequantized(node.inputs[place]) if len(node.inputs) > place else None
    expected = _numbers(other.inputs[place]) if len(other.inputs) > place else None
    return None if held is None or expected is None or held.shape != expected.shape else (held, expected)


def constants_in_float16(model: onnx.ModelProto, source: onnx.ModelProto) -> Iterator[Constant]:
    """Initializers that the file holds in float16, and that the other has by the same name in float32."""
    whole, other = _readable(model).graph, editable(source)
    CONSTANTS(other)
    layers = layers_of(whole)
    for name, value in whole.initializers.items():
        expected = other.graph.initializers.get(name)
        if value.dtype != ir.DataType.FLOAT16 or expected is None or expected.dtype != ir.DataType.FLOAT:
            continue
        held, wide = _numbers(value), _numbers(expected)
        reader = next((use.node for use in value.uses() if use.node in layers), None)
        if held is not None and wide is not None and held.shape == wide.shape and reader is not None:
            yield Constant(layers[reader], name, wide, held.astype(np.float64), None)


def holds_float16(model: onnx.ModelProto) -> bool:
    """Whether a constant of it is in float16."""
    return any(one.data_type == onnx.TensorProto.FLOAT16 for one in model.graph.initializer)


def activations(model: onnx.ModelProto) -> Iterator[Activation]:
    """Every tensor that a QuantizeLinear rounds by one scale, once for each that reads it again."""
    whole = _readable(model).graph
    layers = layers_of(whole)
    for node in whole:
        if not _is(node, "QuantizeLinear") or node.inputs[0] is None or _numbers(node.inputs[0]) is not None:
            continue
        for reader in (use.node for use in node.outputs[0].uses()):
            found = _activation(node, reader, layers) if _is(reader, "DequantizeLinear") else None
            if found is not None:
                yield found


def is_symmetric(model: onnx.ModelProto) -> bool:
    """Whether every activation in 8 bits is signed, with 0 in the middle, as TensorRT wants it; False without any."""
    found = list(activations(model))
    return bool(found) and all(one.is_signed and one.zero_point == 0 for one in found)


def _activation(node: ir.Node, reader: ir.Node, layers: dict[ir.Node, Layer]) -> Activation | None:
    """None where one has a scale for each channel, or one that is computed."""
    value, read = node.inputs[0], reader.outputs[0]
    assert value is not None
    scales = [_scalar(each) for each in (node.inputs[1], reader.inputs[1])]
    zeros = [_zero(each) for each in (node, reader)]
    if None in scales or None in zeros:
        return None
    stored = np.iinfo(np.int8 if node.outputs[0].dtype == ir.DataType.INT8 or _is_signed(node) else np.uint8)
    writer, users = value.producer(), [use.node for use in read.uses()]
    around = [*users, *([] if writer is None else _before_clamps(writer))]
    near = writer or next(iter(users), node)
    return Activation(
        (value.name if writer is None else read.name) or "",
        layers.get(near, Layer("", near.name or "", near.op_type)),
        int(stored.min),
        int(stored.max),
        float(scales[0] or 0.0),
        int(zeros[0] or 0),
        float(scales[1] or 0.0),
        int(zeros[1] or 0),
        any(each.op_type == "Conv" and _dequantized(each.inputs[1]) is not None for each in around),
    )


def _before_clamps(node: ir.Node) -> list[ir.Node]:
    """The node, and those before it as far as they are clamps."""
    found = [node]
    while found[-1].op_type in ("Relu", "Clip") and found[-1].inputs[0] is not None:
        before = found[-1].inputs[0].producer()
        if before is None:
            break
        found.append(before)
    return found


def _readable(model: onnx.ModelProto) -> ir.Model:
    whole = editable(model)
    CONSTANTS(whole)
    return whole


def _largest_stored(graph: ir.Graph) -> int:
    """The largest weight of the type that the file's are stored in: signed ones that all fit are of 7 bits."""
    found = (_stored(node.inputs[1]) for node in convolutions(graph))
    known = [numbers for numbers in found if numbers is not None and numbers.size]
    narrow = all(n.dtype == np.int8 and np.abs(n.astype(int)).max() <= LARGEST["int7"] for n in known)
    return LARGEST["int7" if known and narrow else "int8"]


def _stored(value: ir.Value | None) -> Array | None:
    """What a constant that a DequantizeLinear reads is stored as."""
    node = None if value is None else value.producer()
    return _numbers(node.inputs[0]) if node is not None and _is(node, "DequantizeLinear") else None


def _input_scale(node: ir.Node) -> float | None:
    """By which what a convolution reads was stored; None in float32, and of a scale that is none."""
    image = node.inputs[0]
    producer = None if image is None else image.producer()
    if producer is None or not _is(producer, "DequantizeLinear"):
        return None
    scale = _scalar(producer.inputs[1])
    return scale if scale is not None and math.isfinite(scale) and scale > 0 else None


def _dequantized(value: ir.Value | None) -> Array | None:
    """The numbers of a constant in 8 or 32 bits that a DequantizeLinear reads; None for anything else."""
    node = None if value is None else value.producer()
    if node is None or not _is(node, "DequantizeLinear"):
        return None
    stored, scale = _stored(value), _numbers(node.inputs[1])
    zero = _numbers(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.int64)
    if stored is None or scale is None or zero is None:
        return None
    axis = node.attributes.get_int("axis", 1) if scale.ndim else 0
    shape = [-1 if place == axis % max(stored.ndim, 1) else 1 for place in range(stored.ndim)]
    scale, zero = (each.reshape(shape) if each.ndim and each.size > 1 else each for each in (scale, zero))
    return np.asarray((stored.astype(np.float64) - zero) * scale.astype(np.float64))


def _numbers(value: ir.Value | None) -> Array | None:
    if value is None or value.const_value is None:
        return None
    try:
        return value.const_value.numpy()
    except (OSError, ValueError, TypeError) as error:
        raise GraphError(f"initializer {value.name} cannot be read: {error}") from error


def _scalar(value: ir.Value | None) -> float | None:
    numbers = _numbers(value)
    return float(numbers.reshape(())) if numbers is not None and numbers.size == 1 else None


def _zero(node: ir.Node) -> int | None:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return 0
    found = _scalar(node.inputs[2])
    return None if found is None else int(found)


def _is_signed(node: ir.Node) -> bool:
    zero = _numbers(node.inputs[2]) if len(node.inputs) > 2 else None
    return zero is not None and zero.dtype == np.int8


def _is(node: ir.Node, operator: str) -> bool:
    return node.op_type == operator and node.domain in STANDARD_DOMAINS
