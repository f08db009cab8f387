"""ONNX model → the same without its large numbers: onnx's own checks copy all that they are given, several times."""

from __future__ import annotations

import math

import onnx
from onnx import TensorProto, helper

LARGE = 2**16  # numbers of a tensor: nothing that decides a shape has so many


def is_large(tensor: TensorProto) -> bool:
    """Whether `light` leaves its numbers out."""
    return bool(math.prod(tensor.dims) >= LARGE)


def light(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model whose large initializers are inputs of their type and shape."""
    copy = without_initializers(model)
    declared = {value.name for value in copy.graph.input}
    for tensor in model.graph.initializer:
        if not is_large(tensor):
            copy.graph.initializer.append(tensor)
        elif tensor.name not in declared:  # older files list their initializers among the inputs
            copy.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return copy


def without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of all else: no tensor's numbers are copied, not even for a moment."""
    copy = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _put(copy, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _put(copy.graph, field.name, value)
    return copy


def light_at_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The same for so many images where an input leaves that open, and without other claims on shapes."""
    copy = light(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    del copy.graph.value_info[:]
    for value in copy.graph.output:
        value.ClearField("type")
    for value in copy.graph.input:
        dimensions = value.type.tensor_type.shape.dim
        if value.name not in constants and dimensions and not dimensions[0].HasField("dim_value"):
            dimensions[0].dim_value = batch
    return copy


def _put(message: onnx.ModelProto | onnx.GraphProto, name: str, value: object) -> None:
    """Sets a field of any kind: a number or text, a message, or a list of either."""
    if isinstance(value, str | bytes | int | float):
        setattr(message, name, value)
    elif hasattr(value, "CopyFrom"):
        getattr(message, name).CopyFrom(value)
    else:
        getattr(message, name).extend(value)
