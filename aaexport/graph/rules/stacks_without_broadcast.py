"""x (M, H, W, d) · tables (H, d, n), repeated over M → (H, M·W, d) · (H, d, n), turned there and back.

MatMul repeats the tables over the images. onnxruntime's CUDA provider does that by arrays of pointers, three of which
it copies from the host at each query (`aaexport.graph.cuda_kernels`); stacks of one height it hands to cuBLAS by a
stride. The relative logits along the height are such a product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.rule import Builder, GraphRule, Refusal, from_module_of, like, producer

MATRIX_AXES = 2


class StacksWithoutBroadcast(GraphRule):
    """A product whose tables are repeated over the first axis → one without repetition."""

    title = "products of repeated tables as strided ones"

    def pattern(self, op: Builder, x: ir.Value, tables: ir.Value) -> Any:
        """The tables stand on the right."""
        return op.MatMul(x, tables, _outputs=["product"])

    def is_candidate(self, x: ir.Value, tables: ir.Value, product: ir.Value) -> bool:
        """A stack of matrices for each of several."""
        left, right = _sizes(x), _sizes(tables)
        return left is not None and right is not None and len(left) == len(right) + 1 > MATRIX_AXES + 1

    def require(self, x: ir.Value, tables: ir.Value, product: ir.Value) -> None:
        """All but the first size are known, and only that one is repeated."""
        left, right = _sizes(x), _sizes(tables)
        assert left is not None
        assert right is not None
        if not all(isinstance(size, int) for size in (*left[1:], *right)):
            raise Refusal("sizes beside the batch are not known")
        if left[1:-MATRIX_AXES] != right[:-MATRIX_AXES]:
            raise Refusal("more than the first axis is repeated")

    def rewrite(self, op: Builder, x: ir.Value, tables: ir.Value, product: ir.Value) -> Any:
        """The first axis goes beside the rows of the matrices, and comes back."""
        node, left, right = producer(product), _sizes(x), _sizes(tables)
        assert left is not None
        assert right is not None
        stacks, (rows, depth), columns = left[1:-MATRIX_AXES], left[-MATRIX_AXES:], right[-1]
        inner = range(len(stacks))

        def reshaped(value: ir.Value, sizes: list[Any], name: str) -> ir.Value:
            told = self.new_constant(op, np.array(sizes, np.int64), f"{product.name}_{name}")
            return op.Reshape(value, told)  # type: ignore[no-any-return]

        first = len(stacks)
        there = [each + 1 for each in inner] + [0, first + 1, first + 2]
        back = [first, *inner, first + 1, first + 2]
        turned = reshaped(_transposed(op, x, there), [*stacks, -1, depth], "turned")
        apart = reshaped(op.MatMul(turned, tables), [*stacks, -1, rows, columns], "apart")
        result = op.Transpose(apart, perm=back)
        return like(from_module_of(node, result), product)


def _transposed(op: Builder, value: ir.Value, perm: list[int]) -> ir.Value:
    """By one Transpose with the one that `value` comes out of."""
    node = value.producer()
    if node is not None and node.op_type == "Transpose" and "perm" in node.attributes:
        before = node.attributes["perm"].value
        turned: ir.Value = op.Transpose(node.inputs[0], perm=[before[axis] for axis in perm])
        return turned
    turned = op.Transpose(value, perm=perm)
    return turned


def _sizes(value: ir.Value) -> list[Any] | None:
    return None if value.shape is None else list(value.shape)
