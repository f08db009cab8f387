"""Split(x) → Slice(x), Slice(x), … where the parts differ in size.

For parts of one size onnxruntime's CUDA provider launches a kernel and is done; for others it first copies four small
arrays of sizes from the host, at each query (`aaexport.graph.cuda_kernels`). A Slice takes its numbers with the
launch. onnxruntime would make a Split again of slices that have one axis and, side by side, all of it; so each is
told of another axis as well, of which it takes the whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.rule import Builder, GraphRule, Refusal, attribute, from_module_of, like, producer

ALL = np.iinfo(np.int64).max


class SlicesForSplit(GraphRule):
    """A Split into parts of several sizes → slices."""

    title = "slices in place of an uneven Split"

    def pattern(self, op: Builder, x: ir.Value) -> Any:
        """Found from its first part; sizes are read from the parts' shapes."""
        return op.Split(x, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["first"])

    def is_candidate(self, x: ir.Value, first: ir.Value) -> bool:
        """The parts are not all of one size."""
        sizes = _sizes(producer(first))
        return None in sizes or len(set(sizes)) > 1

    def require(self, x: ir.Value, first: ir.Value) -> None:
        """The sizes are known, and the parts are for the graph alone."""
        if None in _sizes(producer(first)):
            raise Refusal("the sizes of its parts are not known")
        if len(first.shape or ()) == 1:
            raise Refusal("there is no other axis")
        for part in producer(first).outputs:
            if part.is_graph_output():
                raise Refusal(f"{part.name} is an output of the graph")

    def rewrite(self, op: Builder, x: ir.Value, first: ir.Value) -> Any:
        """One for each part."""
        node = producer(first)
        assert first.shape is not None
        axis, begin, made = attribute(node, "axis", 0) % len(first.shape), 0, []
        other = 0 if axis else 1
        for size, part in zip(_sizes(node), node.outputs, strict=True):
            assert size is not None
            numbers = [
                self.new_constant(op, np.array(each, np.int64), f"{part.name}_{what}")
                for what, each in (("starts", (0, begin)), ("ends", (ALL, begin + size)), ("axes", (other, axis)))
            ]
            made.append(like(from_module_of(node, op.Slice(x, *numbers)), part))
            begin += size
        for old, new in zip(node.outputs[1:], made[1:], strict=True):
            old.replace_all_uses_with(new)
        return made[0]


def _sizes(node: ir.Node) -> list[int | None]:
    """Of the parts, along the axis that is split."""
    axis = attribute(node, "axis", 0)
    shapes = [part.shape for part in node.outputs]
    sizes = [None if shape is None else shape[axis] for shape in shapes]
    return [size if isinstance(size, int) else None for size in sizes]
