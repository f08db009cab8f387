"""Einsum("bhwc,hkc->bhwk", x, tables) → MatMul(x, tablesᵀ), the stack of tables repeated over the images.

Decomposed relative positions, as SAM, ViTDet and MViTv2 have them, take one table a row of the map, and one a column:
`bhwc,hkc->bhwk` and `bhwc,wkc->bhwk`. Of the axes of x that the tables have not, the last becomes the rows of the
product and the others come first, so that the tables broadcast over them:

    "bhwc,hkc->bhwk"   (b, h, w, c) · (h, c, k)
    "bhwc,wkc->bhwk"   (w, b·h, c) · (w, c, k), and back

Where x must be moved anyhow, as in the second, all axes that the tables have not become rows of one matrix a table:
runtimes multiply matrix by matrix, and windows of 14 × 14 have few rows in each. With a limit on the memory of
attention they stay apart, (b, w, h, c) · (w, c, k): what is cut into blocks of queries must have an axis of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from aaexport.device import Target
from aaexport.graph.rules.fixed_batch import BATCHES, at_batch
from aaexport.graph.rules.rule import Builder, GraphRule, Refusal, attribute, like, producer

MATRIX_AXES = 2


@dataclass(frozen=True)
class _Product:
    """Axes that both operands and the result have, that only x and the result, both operands, and only the tables and
    the result have; `swapped` if the tables are the first operand.
    """

    swapped: bool
    stacked: str
    rows: str
    summed: str
    columns: str

    @property
    def left(self) -> str:
        """The axes of x in the MatMul; the last of the rows alone are rows of a matrix."""
        return f"{self.rows[:-1]}{self.stacked}{self.rows[-1]}{self.summed}"

    @property
    def right(self) -> str:
        """Of the tables."""
        return self.stacked + self.summed + self.columns

    @property
    def result(self) -> str:
        """Of the product."""
        return f"{self.rows[:-1]}{self.stacked}{self.rows[-1]}{self.columns}"


class EinsumOfTables(GraphRule):
    """A product with a matrix for each entry of some axes, the same for all of the others → a broadcast MatMul."""

    title = "Einsum with a table a row as MatMul"

    def __init__(self, target: Target, *, merges: bool = True) -> None:
        super().__init__(target)
        self.merges = merges  # whether several axes may become the rows of a matrix

    def begin(self, model: ir.Model) -> None:
        """Sizes are computed once for a whole pass, and only if they are asked for."""
        super().begin(model)
        self._at_batches: list[dict[str, ir.Value]] = []

    def pattern(self, op: Builder, x: ir.Value, y: ir.Value) -> Any:
        """Of two operands."""
        return op.Einsum(x, y, _allow_other_attributes=True, _outputs=["summed"])

    def is_candidate(self, x: ir.Value, y: ir.Value, summed: ir.Value) -> bool:
        """Both are stacks, and one has axes more: those of the same axes are another rule's."""
        left, right, _ = axes_of(producer(summed))
        return min(len(left), len(right)) > MATRIX_AXES and len(left) != len(right)

    def require(self, x: ir.Value, y: ir.Value, summed: ir.Value) -> None:
        """The equation is a product of matrices, and no axis that both have is repeated to fit."""
        found = _product(*axes_of(producer(summed)))
        if found is None:
            raise Refusal(f"{attribute(producer(summed), 'equation', '')} is not a product with stacked tables")
        left, right, _ = axes_of(producer(summed))
        for axis in sorted(set(left) & set(right)):
            if not self._is_of_one_size((x, left.index(axis)), (y, right.index(axis))):
                raise Refusal(f"the sizes of axis {axis} are not known to be the same")

    def rewrite(self, op: Builder, x: ir.Value, y: ir.Value, summed: ir.Value) -> Any:
        """Constant tables are transposed once, by the runtime's constant folding."""
        left, right, result = axes_of(producer(summed))
        found = _product(left, right, result)
        assert found is not None
        if found.swapped:
            left, right, x, y = right, left, y, x
        sizes = _sizes((x, left), (y, right))
        is_merged = self.merges and found.left != left and _can_be_merged(found, sizes)
        if is_merged:
            order = found.stacked + found.rows + found.columns
            product = self._merged(op, _arranged(op, x, left, found.stacked + found.rows + found.summed),
                                   _arranged(op, y, right, found.right), found, sizes)  # fmt: skip
        else:
            order = found.result
            product = op.MatMul(_arranged(op, x, left, found.left), _arranged(op, y, right, found.right))
        if order == result:
            return like(product, summed)
        product.type = summed.type
        if summed.shape is not None:
            product.shape = ir.Shape([summed.shape[result.index(axis)] for axis in order])
        return like(op.Transpose(product, perm=_permutation(order, result)), summed)

    def _merged(
        self, op: Builder, x: ir.Value, tables: ir.Value, found: _Product, sizes: Mapping[str, int]
    ) -> ir.Value:
        """The product of matrices that have all rows there are of a table."""
        stacked = [sizes[axis] for axis in found.stacked]

        def reshaped(value: ir.Value, *to: int) -> ir.Value:
            name = f"{x.name or 'x'}_rows"
            result: ir.Value = op.Reshape(value, self.new_constant(op, np.array([*stacked, *to], np.int64), name))
            return result

        product = op.MatMul(reshaped(x, -1, sizes[found.summed]), tables)
        return reshaped(product, *(sizes.get(axis, -1) for axis in found.rows), sizes[found.columns])

    def _is_of_one_size(self, *operands: tuple[ir.Value, int]) -> bool:
        """Of an axis of each; what is computed from the batch, or from constants, is tried out."""
        shapes = [(value.shape, axis) for value, axis in operands]
        sizes = [None if shape is None else shape[axis] for shape, axis in shapes]
        if all(isinstance(size, int) for size in sizes):
            return sizes[0] == sizes[1]
        self._at_batches = self._at_batches or [at_batch(self.model, batch) for batch in BATCHES]
        for at in self._at_batches:
            found = [at.get(value.name or "", value).shape for value, _ in operands]
            sizes = [None if shape is None else shape[axis] for shape, (_, axis) in zip(found, operands, strict=True)]
            if not isinstance(sizes[0], int) or sizes[0] != sizes[1]:
                return False
        return True


def axes_of(node: ir.Node) -> tuple[str, str, str]:
    """Of both operands of an Einsum and of its result, which are empty where the equation does not name them."""
    given, _, result = attribute(node, "equation", "").replace(" ", "").partition("->")
    left, _, right = given.partition(",")
    return left, right, result


def _product(left: str, right: str, result: str) -> _Product | None:
    """How a MatMul does it; None for other sums."""
    if any(not each.isalpha() or len(set(each)) < len(each) for each in (left, right, result)):
        return None
    swapped = len(right) > len(left)
    if swapped:
        left, right = right, left
    stacked = [axis for axis in right if axis in left and axis in result]
    summed = [axis for axis in right if axis in left and axis not in result]
    columns = [axis for axis in right if axis not in left]
    rows = [axis for axis in left if axis not in right]
    if len(summed) != 1 or len(columns) != 1 or not rows or set(result) != {*rows, *stacked, *columns}:
        return None
    return _Product(swapped, "".join(stacked), "".join(rows), *summed, *columns)


def _sizes(*operands: tuple[ir.Value, str]) -> dict[str, int]:
    """Of the axes whose sizes are known."""
    shapes = ((value.shape or [None] * len(axes), axes) for value, axes in operands)
    pairs = (pair for shape, axes in shapes for pair in zip(axes, shape, strict=True))
    return {axis: size for axis, size in pairs if isinstance(size, int)}


def _can_be_merged(found: _Product, sizes: Mapping[str, int]) -> bool:
    """Whether there are several axes of rows, no more than one of them of unknown size."""
    others = found.stacked + found.summed + found.columns
    unknown = [axis for axis in found.rows if axis not in sizes]
    return len(found.rows) > 1 and len(unknown) <= 1 and all(axis in sizes for axis in others)


def _permutation(given: Sequence[str], wanted: Sequence[str]) -> list[int]:
    return [given.index(axis) for axis in wanted]


def _arranged(op: Builder, value: ir.Value, given: str, wanted: str) -> ir.Value:
    """`value` with its axes in the wanted order."""
    if given == wanted:
        return value
    permutation = _permutation(given, wanted)
    turned: ir.Value = op.Transpose(value, perm=permutation)
    turned.type = value.type
    if value.shape is not None:
        turned.shape = ir.Shape([value.shape[axis] for axis in permutation])
    return turned
