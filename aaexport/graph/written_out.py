"""ONNX model → the same function without `Sigmoid`, which runtimes compute to an absolute accuracy only."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from aaexport.graph.outside import serialized
from aaexport.graph.serialized import Serialized

ONE = "aaexport_one"


def without_sigmoid(model: onnx.ModelProto) -> Serialized | None:
    """The serialized model with every `Sigmoid` of its graph as 1 / (1 + exp(−x)); None if there is none.

    A quotient of an exponential is as accurate as the type that it is computed in, however small it is.

    Raises:
        GraphError: it is above protobuf's 2 GiB without what lies outside.
    """
    if not any(_is_sigmoid(node) for node in model.graph.node):
        return None
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.node[:]
    for number, node in enumerate(model.graph.node):
        plain.graph.node.extend(_written_out(node, number) if _is_sigmoid(node) else [node])
    plain.graph.initializer.append(helper.make_tensor(ONE, TensorProto.FLOAT, (), [1.0]))
    return serialized(plain)


def _is_sigmoid(node: onnx.NodeProto) -> bool:
    return node.op_type == "Sigmoid" and node.domain in ("", "ai.onnx")


def _written_out(node: onnx.NodeProto, number: int) -> list[onnx.NodeProto]:
    x, y = node.input[0], node.output[0]
    one, minus, power, total = (f"{ONE}_{number}_{part}" for part in ("one", "minus", "power", "total"))
    return [
        helper.make_node("CastLike", [ONE, x], [one]),
        helper.make_node("Neg", [x], [minus]),
        helper.make_node("Exp", [minus], [power]),
        helper.make_node("Add", [one, power], [total]),
        helper.make_node("Div", [one, total], [y]),
    ]
