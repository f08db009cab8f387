"""(exp(x − max x)·V) / Σ exp(x − max x) → Softmax(x)·V: the division may wait until the values are summed.

So kernels of attention do it, and code that imitates them. It goes in two steps, each of which leaves the function as
it is: the exponentials become weights, once it is known that each row of the product is divided by its own sum, and
then a division by Σ Softmax(x) = 1 is left out. Which row is divided by which sum is tried out
(`aaexport.graph.rules.movement`), however rows, heads and images lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.fixed_batch import at_batch, has_dynamic_batch, sizes
from aaexport.graph.rules.movement import Arrived, Entries, arrived, is_transposition, numbered, sources, way
from aaexport.graph.rules.products import OPERANDS, Product, is_product, nodes_of, product
from aaexport.graph.rules.rule import (
    Builder,
    GraphRule,
    Refusal,
    attribute,
    like,
    operands,
    producer,
    require_read_by,
)
from aaexport.graph.rules.skewed_attention import SOFTMAX_OVER_THE_LAST, require_few
from aaexport.graph.rules.softmax_written_out import LARGEST, SUM, along, own_axis, shifted

IMAGES = 2  # of a dynamic batch, to try it out with
# What brings a sum to where it divides, without a factor and without zeros.
BRINGING = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Tile", "Identity"})
OTHER_SUMS = "the product of its exponentials and the values is not divided by the sum of each row"


class SoftmaxDividedLate(GraphRule):
    """A softmax whose division comes after the product with the values → the operator before it."""

    title = "softmax that is divided after the product as one operator"

    def begin(self, model: ir.Model) -> None:
        """What was found in the graph before does not hold any more."""
        super().begin(model)
        self._fixed: dict[str, ir.Value] = {}
        self._axes: dict[str | None, tuple[int, int]] = {}  # of exponentials, and how many they have

    def patterns(self) -> tuple[Callable[..., Any], ...]:
        """The exponentials, and a division by what is one."""
        return (self.pattern, self.of_ones)

    def pattern(self, op: Builder, x: ir.Value) -> Any:
        """The exponentials; what becomes of them takes more than a pattern."""
        return op.Exp(x, _outputs=["found"])

    def of_ones(self, op: Builder, x: ir.Value, total: ir.Value) -> Any:
        """A division by the sum of weights."""
        return op.Div(x, total, _outputs=["found"])

    def is_candidate(self, *_: Any, found: ir.Value, **matched: Any) -> bool:
        """Its numbers are summed, and multiplied with values, and the one is divided by the other."""
        node = producer(found)
        if node.op_type == "Div":
            return _is_of_ones(operands(node)[1])
        return _is_shifted(operands(node)[0]) and _late(found) is not None

    def require(self, *_: Any, found: ir.Value, **matched: Any) -> None:
        """Every row is divided by its own sum, and nobody else reads what becomes of the exponentials."""
        node = producer(found)
        if node.op_type == "Div":
            given, result = self._at_fixed_batch(operands(node)[0], found)
            if sizes(given) != sizes(result):
                raise Refusal("what is divided by the sum of its weights is repeated by it")
            return
        late = _late(found)
        assert late is not None
        _require_alone(found, *late)
        self._require_own_sums(found, *late)

    def rewrite(self, op: Builder, *_: Any, found: ir.Value, **matched: Any) -> Any:
        """Weights for exponentials; what was to be divided as it is."""
        node = producer(found)
        if node.op_type == "Div":
            return op.Identity(operands(node)[0])
        logits, (axis, rank) = operands(producer(operands(node)[0]))[0], self._axes[found.name]
        if axis == rank - 1 or self.model.graph.opset_imports.get("", 0) >= SOFTMAX_OVER_THE_LAST:
            return _ranked(op.Softmax(logits, axis=axis), found, rank)
        last = [*(each for each in range(rank) if each != axis), axis]
        weights = _ranked(op.Softmax(_ranked(op.Transpose(logits, perm=last), None, rank), axis=rank - 1), None, rank)
        return _ranked(op.Transpose(weights, perm=[last.index(each) for each in range(rank)]), found, rank)

    def _at_fixed_batch(self, *values: ir.Value) -> list[ir.Value]:
        self._fixed = self._fixed or at_batch(self.model, IMAGES)
        found = [self._fixed[value.name] for value in values if value.name in self._fixed]
        if len(found) < len(values) or any(value.producer() is None for value in found):
            raise Refusal("it is a constant once the batch is fixed")
        return found

    def _require_own_sums(
        self, exponentials: ir.Value, total: ir.Value, multiplied: ir.Value, quotient: ir.Value
    ) -> None:
        """Refusal unless each number of the quotient is divided by the sum of the exponentials that are in it."""
        found, summed, value, result = self._at_fixed_batch(exponentials, total, multiplied, quotient)
        require_few(found, IMAGES if has_dynamic_batch(self.model) else 1)
        rows, keys = _rows_and_keys(found, summed)
        read = _multiplied(value, found)
        numerator, denominator = operands(producer(result))
        of_product = _each(arrived(numerator, value, read.numbering, sums=False)).which
        of_sum = _each(
            arrived(denominator, summed, numbered(_count(summed)).reshape(sizes(summed)), sums=False)
        ).which
        in_product = _rows_of(read, found, rows, keys)[of_product // read.shape[2]]
        self._axes[exponentials.name] = _axis_of_largest(found), len(sizes(found))
        shape = sizes(result)
        if (np.broadcast_to(in_product, shape) != np.broadcast_to(of_sum, shape)).any():
            raise Refusal(OTHER_SUMS)


def _require_alone(exponentials: ir.Value, total: ir.Value, multiplied: ir.Value, quotient: ir.Value) -> None:
    """Refusal if what lies between the exponentials and the quotient, which changes, is read anywhere else.

    Nor may the values be made of any of it: then they change too.
    """
    factors = _factors(producer(multiplied))
    own = next(each for each in factors if _comes_from(each, exponentials))
    numerator, denominator = operands(producer(quotient))
    between = {
        *way(own, exponentials), *nodes_of(producer(multiplied)), *way(numerator, multiplied),
        *way(operands(producer(total))[0], exponentials), producer(total), *way(denominator, total),
    }  # fmt: skip
    changed = [exponentials, *(value for node in between for value in node.outputs)]
    if sum(factor in changed for factor in factors) > 1:
        raise Refusal("its exponentials, or their sum, are multiplied with themselves")
    for value in changed:
        shapes = {use.node for use in value.uses() if use.node.op_type == "Shape"}  # which stay as they are
        require_read_by(value, {*between, producer(quotient), *shapes})


def _factors(node: ir.Node) -> list[ir.Value]:
    """The two that are multiplied; either may be the same value."""
    return operands(nodes_of(node)[0])[:OPERANDS]


def _is_shifted(difference: ir.Value) -> bool:
    """Whether it is x − max x, along whichever axis."""
    node = difference.producer()
    largest = operands(node)[1].producer() if node is not None and node.op_type == "Sub" else None
    return (
        largest is not None
        and largest.op_type == LARGEST
        and operands(largest)[0] is operands(producer(difference))[0]
    )


def _axis_of_largest(exponentials: ir.Value) -> int:
    found = shifted(operands(producer(exponentials))[0])
    if found is None:
        raise Refusal("what is subtracted from its exponents is not the largest along one axis")
    return found[1]


def _ranked(value: ir.Value, model: ir.Value | None, rank: int) -> ir.Value:
    """As `like`; how many axes it has is known in any case."""
    made = value if model is None else like(value, model)
    made.shape = made.shape or ir.Shape([None] * rank)
    return made


def _late(exponentials: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """The sum, the product with the values, and the quotient, of exponentials that are divided late; None if not."""
    for total in _sums_of(exponentials):
        for quotient in _divided_by(total):
            multiplied = sources(operands(producer(quotient))[0], sums=False)
            node = multiplied[0].producer() if len(multiplied) == 1 else None
            if node is None or not is_product(node) or multiplied[0] is total:
                continue
            if any(_comes_from(each, exponentials) for each in _factors(node)):
                return total, multiplied[0], quotient
    return None


def _sums_of(exponentials: ir.Value) -> Iterator[ir.Value]:
    for value in _brought(exponentials):
        for use in value.uses():
            if use.node.op_type == SUM and use.node.domain == "" and use.idx == 0:
                yield use.node.outputs[0]


def _divided_by(total: ir.Value) -> Iterator[ir.Value]:
    for value in _brought(total):
        for use in value.uses():
            if use.node.op_type == "Div" and use.node.domain == "" and use.idx == 1:
                yield use.node.outputs[0]


def _brought(value: ir.Value) -> Iterator[ir.Value]:
    """It, and what it is wherever it is brought."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        yield current
        waiting += [
            use.node.outputs[0]
            for use in current.uses()
            if use.node.domain == "" and use.idx == 0 and _brings(use.node)
        ]


def _brings(node: ir.Node) -> bool:
    return node.op_type in BRINGING or is_transposition(node)


def _comes_from(value: ir.Value, source: ir.Value) -> bool:
    found = sources(value, sums=False)
    return len(found) == 1 and found[0] is source


def _is_of_ones(divisor: ir.Value) -> bool:
    """Whether it is the sum of a Softmax along its own axis, brought here."""
    node = divisor.producer()
    while node is not None and node.domain == "" and _brings(node):
        node = operands(node)[0].producer()
    if node is None or node.op_type != SUM or node.domain != "":
        return False
    axis = along(node, SUM, kept=False)
    return axis is not None and axis == _axis_of_weights(operands(node)[0])


def _axis_of_weights(value: ir.Value) -> int | None:
    """That of the Softmax whose output it is, transposed at the most."""
    node = value.producer()
    if node is None or node.domain != "" or value.shape is None:
        return None
    if node.op_type == "Transpose":
        axis = _axis_of_weights(operands(node)[0])
        permutation = attribute(node, "perm", range(len(value.shape))[::-1])
        return None if axis is None else list(permutation).index(axis)
    return own_axis(node) if node.op_type == "Softmax" else None


def _count(value: ir.Value) -> int:
    return int(np.prod(sizes(value)))


def _each(found: Arrived | None) -> Arrived:
    if found is None:
        raise Refusal(OTHER_SUMS)
    return found


def _multiplied(value: ir.Value, exponentials: ir.Value) -> Product:
    """The product, exponentials on the left."""
    read = product(producer(value))
    if read is None:
        raise Refusal("its exponentials and the values are not one matrix each a head and image")
    return read if _comes_from(read.left, exponentials) else read.turned()


def _rows_and_keys(exponentials: ir.Value, total: ir.Value) -> tuple[Entries, Entries]:
    """Of each exponential, which sum it is in, and its place in it."""
    node = producer(total)
    given = operands(node)[0]
    axis, lengths = along(node, SUM, kept=False), sizes(given)
    if axis is None:
        raise Refusal(OTHER_SUMS)
    of_largest = _axis_of_largest(exponentials)
    places = np.moveaxis(numbered(int(np.prod(lengths))).reshape(lengths), axis, -1).reshape(-1, lengths[axis])
    own = sizes(exponentials)
    numbering = numbered(_count(exponentials)).reshape(own)
    which = _each(arrived(given, exponentials, numbering, sums=False)).which.reshape(-1)[places]
    rows, keys = (np.full(numbering.size, -1, numbering.dtype) for _ in "rk")
    rows[which] = np.arange(len(places))[:, None]
    keys[which] = np.arange(lengths[axis])
    along_own = np.moveaxis(rows.reshape(own), of_largest, -1)
    # The largest that is subtracted is of the same numbers as the sum.
    is_each_once = which.size == numbering.size and (rows >= 0).all()
    if not is_each_once or own[of_largest] != lengths[axis] or (along_own != along_own[..., :1]).any():
        raise Refusal("what is subtracted from its exponents is not the largest of those that are summed")
    return rows, keys


def _rows_of(read: Product, exponentials: ir.Value, rows: Entries, keys: Entries) -> Entries:
    """(G · M,): the sum of which the exponentials in each row of the product are all."""
    numbering = numbered(_count(exponentials)).reshape(sizes(exponentials))
    entries = _each(arrived(read.left, exponentials, numbering, sums=False)).which.reshape(-1)[read.rows]
    row, key = rows[entries], keys[entries]
    is_whole = key.shape[-1] == keys.max() + 1 and (np.sort(key, axis=-1) == np.arange(key.shape[-1])).all()
    if not is_whole or (row != row[..., :1]).any():
        raise Refusal(OTHER_SUMS)
    return row[..., 0].reshape(-1)
