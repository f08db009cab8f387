"""BatchNormalization(MatMul(A, x)) → MatMul(A, BatchNormalization(x)), and so with A on the right.

A is a constant matrix of interpolation weights along the height or the width, which brings a map to a size that is no
multiple of its own: each number of the product is Σ wᵢ·xᵢ with Σ wᵢ = 1, of one channel, so that
a·(Σ wᵢ·xᵢ) + b = Σ wᵢ·(a·xᵢ + b). It pays where x comes from a convolution, into whose weights it then folds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.rule import (
    Builder,
    GraphRule,
    Refusal,
    constant,
    like,
    normalized_by,
    operands,
    producer,
    require_normalization,
    require_sole_use,
    sole_user,
    takes_normalization,
)

MATRIX = 2
ROUNDING = 1e-6  # of sums of weights that torch computed in float32


class NormalizationThroughMatmul(GraphRule):
    """A normalization of an interpolated map → of the map before."""

    title = "batch normalization through interpolating MatMul"

    def pattern(self, op: Builder, left: ir.Value, right: ir.Value) -> Any:
        """Either side may be the matrix."""
        product = op.MatMul(left, right, _outputs=["product"])
        return op.BatchNormalization(product, _allow_other_inputs=True, _outputs=["normalized"])

    def is_candidate(self, left: ir.Value, right: ir.Value, product: ir.Value, normalized: ir.Value) -> bool:
        """One side is a constant matrix, the other a map."""
        sides = sorted((left, right), key=_is_matrix)
        return [_is_matrix(side) for side in sides] == [False, True] and len(sides[0].shape or ()) > MATRIX + 1

    def require(self, left: ir.Value, right: ir.Value, product: ir.Value, normalized: ir.Value) -> None:
        """The matrix interpolates, and a convolution is there to fold into."""
        matrix_is_left = _is_matrix(left)
        weights = constant(left if matrix_is_left else right, "the matrix")
        if np.abs(weights.sum(axis=1 if matrix_is_left else 0) - 1).max() > ROUNDING:
            raise Refusal("the matrix does not interpolate: its weights do not sum to 1")
        require_normalization(normalized)
        require_sole_use(product)
        if not _comes_from_convolution(right if matrix_is_left else left):
            raise Refusal("what is interpolated is not the output of a convolution that it could fold into")

    def rewrite(self, op: Builder, left: ir.Value, right: ir.Value, product: ir.Value, normalized: ir.Value) -> Any:
        """The same two nodes, the other way round."""
        normalization = producer(normalized)
        x = right if _is_matrix(left) else left
        inner = normalized_by(op, normalization, x, operands(normalization)[1:])
        return like(op.MatMul(left, inner) if _is_matrix(left) else op.MatMul(inner, right), product)


def _is_matrix(value: ir.Value) -> bool:
    return value.const_value is not None and not value.is_graph_input() and len(value.const_value.shape) == MATRIX


def _comes_from_convolution(x: ir.Value) -> bool:
    """A convolution's own output, or that of another such product, to be gone through next."""
    node = x.producer()
    if node is not None and node.op_type == "MatMul" and sole_user(x) is not None:
        left, right = operands(node)
        return _is_matrix(left) != _is_matrix(right) and _comes_from_convolution(right if _is_matrix(left) else left)
    return takes_normalization(x)
