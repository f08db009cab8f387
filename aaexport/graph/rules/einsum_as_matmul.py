"""Einsum("…i,ij->…j" | "…i,ji->…j", x, E) → MatMul(x, E or Eᵀ).

Public implementations take the relative logits as einsums of the queries (…, dkh) with a table of embeddings, such as
`bhxyd,md->bhxym`. Runtimes reach a matrix product from there by way of transpositions, or do not know the operator.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from aaexport.graph.rules.rule import (
    Builder,
    GraphRule,
    Refusal,
    attribute,
    like,
    producer,
)

TABLE_RANK = 2


class EinsumAsMatmul(GraphRule):
    """A sum over the last axis of a tensor and one axis of a table → a matrix product."""

    title = "Einsum as MatMul"

    def pattern(self, op: Builder, x: ir.Value, table: ir.Value) -> Any:
        """Of two operands."""
        return op.Einsum(x, table, _allow_other_attributes=True, _outputs=["summed"])

    def require(self, x: ir.Value, table: ir.Value, summed: ir.Value) -> None:
        """The equation is a matrix product with the table on the right."""
        equation = attribute(producer(summed), "equation", "")
        if _transposed(equation) is None:
            raise Refusal(f"{equation} is not a product of a tensor's last axis with a table")
        summed_axis = 1 if _transposed(equation) else 0
        if x.shape is None or table.shape is None or x.shape[-1] != table.shape[summed_axis]:
            raise Refusal("the sizes of the summed axis are not known to be the same")

    def rewrite(self, op: Builder, x: ir.Value, table: ir.Value, summed: ir.Value) -> Any:
        """A constant table is transposed once, by the runtime's constant folding."""
        if _transposed(attribute(producer(summed), "equation", "")):
            table = op.Transpose(table, perm=[1, 0])
        return like(op.MatMul(x, table), summed)


def _transposed(equation: str) -> bool | None:
    """Whether the table's axes are (result, sum); None if the equation is something else."""
    operands, arrow, result = equation.replace(" ", "").partition("->")
    left, _, right = operands.partition(",")
    plain = arrow and left.isalpha() and right.isalpha() and len(set(left)) == len(left)
    if not plain or len(right) != TABLE_RANK or len(set(right)) != TABLE_RANK:
        return None
    summed, kept = left[-1], (set(right) - {left[-1]}).pop() if left[-1] in right else ""
    if not kept or kept in left or result != left[:-1] + kept:
        return None
    return right == kept + summed
