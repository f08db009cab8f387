"""ONNX model → whether TensorRT takes its numbers in 8 bits: it wants them signed, and 0 stored as 0."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from aaexport.errors import ArgumentError, broken_rule
from aaexport.graph.check import STANDARD_DOMAINS, all_nodes
from aaexport.graph.files import parse_onnx

TAKEN = (TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN)


def require_symmetric(path: Path) -> None:
    """ArgumentError, of the option that asks for TensorRT, if the file's 8 bits are not as TensorRT has them."""
    fault = why_not_tensorrt(parse_onnx(path))
    if fault is not None:
        remedy = f"write it anew with `aaexport convert {path.parent} --dtype int8 --target cuda`"
        rule, got = "be given int8 that is signed and symmetric around 0", f"{path} with {fault}"
        raise ArgumentError(broken_rule("tensorrt", rule, got, remedy))


def why_not_tensorrt(model: onnx.ModelProto) -> str | None:
    """The first tensor that is stored otherwise, in words; None if there is none."""
    nodes = all_nodes(model.graph)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in nodes:
        if node.op_type == "Constant" and node.domain in STANDARD_DOMAINS:
            held.update((node.output[0], each.t) for each in node.attribute if each.name == "value")
    for node in nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.domain in STANDARD_DOMAINS:
            fault = _fault(node, held)
            if fault is not None:
                return fault
    return None


def _fault(node: onnx.NodeProto, held: dict[str, TensorProto]) -> str | None:
    """Of a node that makes 8 bits, or takes them; what it takes from another such node is that one's matter."""
    is_maker = node.op_type == "QuantizeLinear"
    tensor = node.output[0] if is_maker else node.input[0]
    zero = held.get(node.input[2]) if len(node.input) > 2 else None
    stored = zero if is_maker or zero is not None else held.get(tensor)
    if stored is None:
        has_type = any(each.name == "output_dtype" and each.i in TAKEN for each in node.attribute)
        return f"{tensor} in uint8" if is_maker and not has_type else None
    if stored.data_type not in TAKEN:
        return f"{tensor} in {TensorProto.DataType.Name(stored.data_type).lower()}"
    if zero is not None and zero.data_location != TensorProto.EXTERNAL and numpy_helper.to_array(zero).any():
        return f"{tensor} around another number than 0"
    return None
