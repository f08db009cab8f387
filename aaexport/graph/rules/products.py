"""A sum of products of two tensors, however it is written → stacked matrices, Σₛ left[g, m, s] · right[g, p, s].

MatMul, Gemm, Einsum and ReduceSum(Mul) all say which axes the two share, and which of those are summed. So each is
read as an einsum; its letters fall into those that both and the result have (g), that only one and the result have
(m, p), and that both have and the result has not (s).
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.fixed_batch import sizes
from aaexport.graph.rules.movement import Entries, numbered
from aaexport.graph.rules.rule import attribute, operands, producer

OPERANDS = 2


@dataclass(frozen=True)
class Product:
    """One product, as stacked matrices.

    Attributes:
        value: the result.
        left, right: the operands.
        rows: (G, M, S), which number of `left` each factor is.
        columns: (G, P, S), which number of `right`.
        axes: which axes of `value` make up G, M and P, in this order.
        of_columns: of each column that `value` has, which of P it is; −1 for one of another product that is in the
            same. None where these are all.
    """

    value: ir.Value
    left: ir.Value
    right: ir.Value
    rows: Entries
    columns: Entries
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    of_columns: Entries | None = None

    @cached_property
    def numbering(self) -> Entries:
        """In the shape of `value`, (g · M + m) · P + p of each of its numbers: as large as it, and made on demand.

        −1 for those of another product.
        """
        ordered = [axis for part in self.axes for axis in part]
        lengths = [sizes(self.value)[axis] for axis in ordered]
        every = numbered(math.prod(lengths))
        if self.of_columns is not None:
            row, column = np.divmod(every, len(self.of_columns))
            own = self.of_columns[column]
            every = np.where(own < 0, -1, row * self.columns.shape[1] + own).astype(every.dtype)
        return every.reshape(lengths).transpose(np.argsort(ordered).tolist())

    def turned(self) -> Product:
        """The same with its operands exchanged."""
        groups, rows, columns = self.axes
        return Product(self.value, self.right, self.left, self.columns, self.rows, (groups, columns, rows))

    @property
    def operands(self) -> tuple[ir.Value, ir.Value]:
        """Both."""
        return self.left, self.right

    @property
    def shape(self) -> tuple[int, int, int]:
        """G, M, P."""
        return self.rows.shape[0], self.rows.shape[1], self.columns.shape[1]


@dataclass(frozen=True)
class _Equation:
    left: str
    right: str
    result: str


def is_product(node: ir.Node | None) -> bool:
    """Whether it is of a kind that can be a sum of products of two tensors."""
    if node is None or node.domain != "":
        return False
    if node.op_type == "ReduceSum":
        before = operands(node)[0].producer()
        return before is not None and before.op_type == "Mul" and before.domain == ""
    given = operands(node)
    if node.op_type == "Gemm":
        return len(given) == OPERANDS or not attribute(node, "beta", 1.0)
    return node.op_type in ("MatMul", "Einsum") and len(given) == OPERANDS


def nodes_of(node: ir.Node) -> tuple[ir.Node, ...]:
    """Those that a product is made of, `node` last."""
    return (producer(operands(node)[0]), node) if node.op_type == "ReduceSum" else (node,)


def product(node: ir.Node) -> Product | None:
    """The product that a node of such a kind is at a fixed batch; None for what is no product of stacked matrices.

    Raises:
        Refusal: a size is not known.
    """
    left, right = operands(nodes_of(node)[0])[:OPERANDS]
    value = node.outputs[0]
    equation = _READERS[node.op_type](node, left, right)
    if equation is None:
        return None
    return _as_matrices(equation, left, right, value)


def _as_matrices(equation: _Equation, left: ir.Value, right: ir.Value, value: ir.Value) -> Product | None:
    result = dict(zip(equation.result, sizes(value), strict=True))
    read = [
        _without_repeated(axes, sizes(operand), equation, result)
        for axes, operand in ((equation.left, left), (equation.right, right))
    ]
    if any(each is None for each in read):
        return None
    (left_axes, left_sizes), (right_axes, right_sizes) = (each for each in read if each is not None)
    both = [letter for letter in left_axes if letter in right_axes]
    if any(left_sizes[letter] != right_sizes[letter] for letter in both):
        return None
    known = left_sizes | right_sizes
    groups = [letter for letter in equation.result if letter in both]
    summed = [letter for letter in both if letter not in result]
    rows, columns = (
        [letter for letter in equation.result if letter in axes and letter not in both]
        for axes in (left_axes, right_axes)
    )
    if set(left_axes) != {*groups, *rows, *summed} or set(right_axes) != {*groups, *columns, *summed}:
        return None  # an axis of one operand alone is summed
    if set(result) != {*groups, *rows, *columns} or not summed:
        return None

    def stacked(axes: Sequence[str], *wanted: Sequence[str]) -> Entries:
        entries = numbered(math.prod(known[letter] for letter in axes)).reshape([known[letter] for letter in axes])
        turned = entries.transpose([list(axes).index(letter) for part in wanted for letter in part])
        return turned.reshape([math.prod(known[letter] for letter in part) for part in wanted])

    def places(letters: Sequence[str]) -> tuple[int, ...]:
        return tuple(equation.result.index(letter) for letter in letters)

    return Product(
        value,
        left,
        right,
        stacked(left_axes, groups, rows, summed),
        stacked(right_axes, groups, columns, summed),
        (places(groups), places(rows), places(columns)),
    )


def _without_repeated(
    axes: str, given: tuple[int, ...], equation: _Equation, result: dict[str, int]
) -> tuple[str, dict[str, int]] | None:
    """The axes of an operand and their sizes, without those of size 1 that are repeated to fit the others'."""
    if len(axes) != len(given) or len(set(axes)) != len(axes):
        return None
    kept = {letter: size for letter, size in zip(axes, given, strict=True) if size == result.get(letter, size)}
    if any(size != 1 for letter, size in zip(axes, given, strict=True) if letter not in kept):
        return None
    return "".join(kept), kept


def _matmul(node: ir.Node, left: ir.Value, right: ir.Value) -> _Equation | None:
    """…ij,…jk->…ik; vectors are none of ours."""
    ranks = len(sizes(left)), len(sizes(right))
    if min(ranks) < OPERANDS or max(ranks) > len(string.ascii_lowercase):
        return None
    stack = string.ascii_lowercase[: max(ranks) - 2]
    left_stack, right_stack = (stack[len(stack) - (rank - 2) :] for rank in ranks)
    return _Equation(f"{left_stack}XY", f"{right_stack}YZ", f"{stack}XZ")


def _gemm(node: ir.Node, left: ir.Value, right: ir.Value) -> _Equation | None:
    """Of matrices, either of them transposed; its factor must be 1, as whoever asks does not look for one."""
    if attribute(node, "alpha", 1.0) != 1:
        return None
    return _Equation(
        "YX" if attribute(node, "transA", 0) else "XY", "ZY" if attribute(node, "transB", 0) else "YZ", "XZ"
    )


def _einsum(node: ir.Node, left: ir.Value, right: ir.Value) -> _Equation | None:
    """With letters for what an ellipsis stands for, and the result that is meant where none is named."""
    given, arrow, result = attribute(node, "equation", "").replace(" ", "").partition("->")
    named = given.split(",")
    if len(named) != OPERANDS:
        return None
    if not arrow:
        letters = given.replace(",", "").replace(".", "")
        result = "..." * ("..." in given) + "".join(sorted(each for each in letters if letters.count(each) == 1))
    free = [letter for letter in string.printable if letter.isalnum() and letter not in given]
    ranks = [
        len(sizes(operand)) - len(axes.replace(".", "")) for axes, operand in zip(named, (left, right), strict=True)
    ]
    if min(ranks) < 0 or max(ranks) > len(free):
        return None
    stack = "".join(free[: max(ranks)])
    wide = [axes.replace("...", stack[len(stack) - rank :]) for axes, rank in zip(named, ranks, strict=True)]
    equation = _Equation(wide[0], wide[1], result.replace("...", stack))
    return equation if len(set(equation.result)) == len(equation.result) else None


def _sum_of_mul(node: ir.Node, left: ir.Value, right: ir.Value) -> _Equation | None:
    """ReduceSum(left · right): axes in common, by place from the last on."""
    ranks = len(sizes(left)), len(sizes(right))
    letters = string.ascii_letters[: max(ranks)]
    given = operands(node)
    axes = attribute(node, "axes", None)
    if axes is None and len(given) == OPERANDS and given[1].const_value is not None:
        axes = given[1].const_value.numpy().tolist()
    if not axes or attribute(node, "keepdims", 1):
        return None
    gone = {letters[axis] for axis in axes}
    result = "".join(letter for letter in letters if letter not in gone)
    return _Equation(letters[len(letters) - ranks[0] :], letters[len(letters) - ranks[1] :], result)


_READERS: dict[str, Callable[[ir.Node, ir.Value, ir.Value], _Equation | None]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "ReduceSum": _sum_of_mul,
}
