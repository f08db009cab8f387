"""A value of a graph → what the passes ask of it."""

from __future__ import annotations

import onnx_ir as ir


def is_float32(value: ir.Value | None) -> bool:
    """Whether it is known to be a tensor in float32."""
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


def is_constant(value: ir.Value | None) -> bool:
    """Whether its numbers are in the file, and nobody can give others."""
    return value is not None and value.const_value is not None and not value.is_graph_input()
