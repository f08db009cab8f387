"""MaxPool(x; kernel k, stride s) → for each axis in turn, Max(x[0::s], x[1::s], …, x[k − 1::s]).

onnxruntime's CUDA provider has no MaxPool from opset 22 on (`aaexport.graph.cuda_kernels`): the node would run on the
CPU, with a copy of its maps there and back, and no CUDA graph could be recorded. Slices and Max have kernels. The
largest number of a window is that of its rows' largest, so that each axis is taken by itself: 2·k slices in place
of k². Borders are repeated rather than filled: a window that reaches over one holds the number at the border too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from aaexport.graph.cuda_kernels import has_kernel
from aaexport.graph.rules.rule import Builder, GraphRule, Refusal, attribute, from_module_of, like, producer

LAST = np.iinfo(np.int64).max


class MaxPoolOfSlices(GraphRule):
    """MaxPool that CUDA has no kernel for → operators that it has."""

    title = "MaxPool of slices, for which CUDA has kernels"

    def pattern(self, op: Builder, x: ir.Value) -> Any:
        """Its attributes are read from its node."""
        return op.MaxPool(x, _allow_other_attributes=True, _outputs=["pooled"])

    def is_candidate(self, x: ir.Value, pooled: ir.Value) -> bool:
        """The opset is one without a kernel."""
        return not has_kernel("MaxPool", self.model.opset_imports[""])

    def require(self, x: ir.Value, pooled: ir.Value) -> None:
        """Its windows are whole, and told by numbers."""
        node = producer(pooled)
        if len(node.outputs) > 1 and node.outputs[1].name:
            raise Refusal("where the largest numbers lie is read too")
        if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            raise Refusal("its padding depends on sizes")
        if attribute(node, "ceil_mode", 0):
            raise Refusal("its last windows may be incomplete")
        if any(each != 1 for each in attribute(node, "dilations", ())):
            raise Refusal("its windows have gaps")

    def rewrite(self, op: Builder, x: ir.Value, pooled: ir.Value) -> Any:
        """A Pad, and for each axis the slices and their Max."""
        node = producer(pooled)
        kernel = attribute(node, "kernel_shape", ())
        axes = len(kernel)
        pads, strides = attribute(node, "pads", [0] * 2 * axes), attribute(node, "strides", [1] * axes)

        def integers(*each: int) -> ir.Value:
            return self.new_constant(op, np.array(each, np.int64), f"{pooled.name}_{len(each)}")

        value = x
        if any(pads):
            around = integers(0, 0, *pads[:axes], 0, 0, *pads[axes:])
            value = from_module_of(node, op.Pad(value, around, mode="edge"))
            value.type = x.type
        for axis, (size, stride) in enumerate(zip(kernel, strides, strict=True), 2):
            if size == stride == 1:
                continue
            # All slices have as many numbers as there are windows: each ends where the last window's number lies.
            ends = [integers(first - size + 1 if first < size - 1 else LAST) for first in range(size)]
            place, step = integers(axis), integers(stride)
            parts = [op.Slice(value, integers(first), end, place, step) for first, end in enumerate(ends)]
            for part in parts:
                from_module_of(node, part).type = x.type
            value = from_module_of(node, op.Max(*parts)) if size > 1 else parts[0]
            value.type = x.type
        return like(value if value is not x else op.Identity(x), pooled)
