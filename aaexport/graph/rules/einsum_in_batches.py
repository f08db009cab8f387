"""Einsum("…ik,…kj->…ij", x, y), operands and their last two axes in either order → MatMul(x or xᵀ, y or yᵀ).

Some public implementations write q·k and the product with V so: `bhid,bhjd->bhij`, `bhij,bhjd->bhid`, and others name
the second operand first: `bhjd,bhij->bhid`.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from aaexport.graph.rules.einsum_of_tables import axes_of
from aaexport.graph.rules.rule import Builder, GraphRule, Refusal, attribute, like, producer

MATRIX_AXES = 2


class EinsumInBatches(GraphRule):
    """A product of two stacks of matrices, one matrix a head and image → MatMul."""

    title = "Einsum of stacked matrices as MatMul"

    def pattern(self, op: Builder, x: ir.Value, y: ir.Value) -> Any:
        """Of two operands."""
        return op.Einsum(x, y, _allow_other_attributes=True, _outputs=["summed"])

    def is_candidate(self, x: ir.Value, y: ir.Value, summed: ir.Value) -> bool:
        """Both are stacks of as many axes: a product with one matrix, or a stack for several, is another rule's."""
        left, right, _ = axes_of(producer(summed))
        return len(left) == len(right) > MATRIX_AXES

    def require(self, x: ir.Value, y: ir.Value, summed: ir.Value) -> None:
        """The equation is a matrix product, and the summed axis is not repeated to fit."""
        axes = axes_of(producer(summed))
        if _ways(*axes) is None:
            raise Refusal(f"{attribute(producer(summed), 'equation', '')} is not a product of stacked matrices")
        if x.shape is None or y.shape is None:
            raise Refusal("the sizes of its axes are not known")
        left, right, _ = axes
        # The specification wants a common axis to be of one size, but runtimes let 1 be any; so does MatMul, but
        # for the axis that is summed.
        summed_axis = (set(left[-2:]) & set(right[-2:])).pop()
        sizes = x.shape[left.index(summed_axis)], y.shape[right.index(summed_axis)]
        if all(isinstance(size, int) for size in sizes) and sizes[0] != sizes[1]:
            raise Refusal("the summed axis is not of one size")

    def rewrite(self, op: Builder, x: ir.Value, y: ir.Value, summed: ir.Value) -> Any:
        """Operands are transposed where the equation has their axes the other way round."""
        ways = _ways(*axes_of(producer(summed)))
        assert ways is not None
        is_reversed, transposed = ways
        left, right = (
            _with_last_axes_swapped(op, value) if is_transposed else value
            for value, is_transposed in zip((y, x) if is_reversed else (x, y), transposed, strict=True)
        )
        return like(op.MatMul(left, right), summed)


def _ways(left: str, right: str, result: str) -> tuple[bool, tuple[bool, bool]] | None:
    """Whether the second operand is the product's left one, and which of its operands are transposed."""
    for is_reversed, (first, second) in enumerate(((left, right), (right, left))):
        transposed = _transposed(first, second, result)
        if transposed is not None:
            return bool(is_reversed), transposed
    return None


def _transposed(left: str, right: str, result: str) -> tuple[bool, bool] | None:
    """Whether the left and the right matrices have their axes the other way round; None for other equations."""
    axes = (left, right, result)
    if any(
        len(each) < MATRIX_AXES or not each.isalpha() or len(set(each)) < len(each) or each[:-2] != left[:-2]
        for each in axes
    ):
        return None
    row, column = result[-2], result[-1]
    for summed in set(left[-2:]) & set(right[-2:]) - set(result):
        if set(left[-2:]) == {row, summed} and set(right[-2:]) == {summed, column}:
            return left[-1] == row, right[-1] == summed
    return None


def _with_last_axes_swapped(op: Builder, value: ir.Value) -> ir.Value:
    assert value.shape is not None
    *before, last_but_one, last = range(len(value.shape))
    turned: ir.Value = op.Transpose(value, perm=[*before, last, last_but_one])
    turned.type, turned.shape = value.type, ir.Shape([value.shape[axis] for axis in (*before, last, last_but_one)])
    return turned
