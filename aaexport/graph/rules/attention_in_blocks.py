"""softmax(Q·Kᵀ + terms)·V → [softmax(Q₁·Kᵀ + terms₁)·V, softmax(Q₂·Kᵀ + terms₂)·V, …], no tensor above a limit.

The weights of N tokens are N × N numbers a head, which attention of 4,096 tokens in 12 heads has 805 MB of, several
times over. Rows of a softmax have nothing to do with each other: what is computed for some queries at a time has the
same numbers, and the runtime uses the same memory again for the next of them. It is not faster for that.

The terms may be any: scales, masks, biases, relative or decomposed positions (`aaexport.graph.rules.query_parts`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import onnx_ir as ir

from aaexport.device import Target
from aaexport.graph.rules.attention_forms import even_parts
from aaexport.graph.rules.einsum_of_tables import axes_of
from aaexport.graph.rules.fixed_batch import BATCHES, at_batch, has_dynamic_batch
from aaexport.graph.rules.query_parts import (
    RESHAPING,
    Part,
    QueryParts,
    Sizes,
    mebibytes,
    softmax_above,
)
from aaexport.graph.rules.rule import Builder, GraphRule, Refusal, from_module_of, like, operands, producer
from aaexport.memory import MEBIBYTE


class AttentionInBlocks(GraphRule):
    """Attention whose weights are larger than `limit` MiB → the same in blocks of queries, none of them larger."""

    title = "attention in blocks of queries"

    def __init__(self, target: Target, limit: float) -> None:
        super().__init__(target)
        self.limit = limit * MEBIBYTE

    def begin(self, model: ir.Model) -> None:
        """Sizes are computed once for a whole pass, and only if they are asked for."""
        super().begin(model)
        self._sizes: Sizes | None = None
        self._found: dict[ir.Value, tuple[QueryParts, int]] = {}

    def patterns(self) -> tuple[Callable[..., Any], ...]:
        """The product of weights and values, or all of it as one operator."""
        return (self.pattern, self.as_einsum, self.as_operator)

    def pattern(self, op: Builder, x: ir.Value, y: ir.Value) -> Any:
        """From the last product on; what its operands are made of takes more than a pattern."""
        return op.MatMul(x, y, _outputs=["attended"])

    def as_einsum(self, op: Builder, x: ir.Value, y: ir.Value) -> Any:
        """The same."""
        return op.Einsum(x, y, _allow_other_attributes=True, _outputs=["attended"])

    def as_operator(self, op: Builder, x: ir.Value, y: ir.Value, z: ir.Value) -> Any:
        """Of queries, keys and values, and perhaps more."""
        return op.Attention(x, y, z, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["attended"])

    def is_candidate(self, attended: ir.Value, **_: ir.Value) -> bool:
        """It is attention, and its weights are larger than that, or of unknown size."""
        node = producer(attended)
        try:
            if node.op_type == "Attention":
                return self._known_sizes().weights_inside(node) > self.limit
            weights = [found for found in map(softmax_above, operands(node)) if found is not None]
            return any(self._known_sizes().bytes(found) > self.limit for found in weights)
        except Refusal:
            return True  # `require` tells why

    def require(self, attended: ir.Value, **_: ir.Value) -> None:
        """Nothing large needs to be there as a whole, and a block may be as small as the limit wants."""
        node, sizes = producer(attended), self._known_sizes()
        part = Part(_axis_of_queries(node, len(sizes.of(attended)[0])), Fraction(1))
        counts = {shape[part.axis] for shape in sizes.of(attended)}
        if len(counts) > 1:
            raise Refusal("its number of queries depends on the batch")
        if sizes.bytes(attended) > self.limit:
            raise Refusal(f"its result alone takes {mebibytes(sizes.bytes(attended))} MiB")
        parts = QueryParts(sizes, self.limit)
        parts.follow(node, part)
        steps = counts.pop() // parts.step()
        if parts.largest() / steps > self.limit:
            block = "a query" if parts.step() == 1 else f"{parts.step()} queries, which lie together,"
            raise Refusal(f"{block} alone takes {mebibytes(parts.largest() / steps)} MiB")
        self._found[attended] = parts, steps

    def rewrite(self, op: Builder, attended: ir.Value, **_: ir.Value) -> Any:
        """As few blocks as the limit allows, all alike but for the last."""
        parts, steps = self._found[attended]
        node, known = producer(attended), dict[tuple[int, ...], ir.Value]()

        def integers(*each: int) -> ir.Value:
            if each not in known:
                known[each] = self.new_constant(op, np.array(each, np.int64), "_".join(["sizes", *map(str, each)]))
            return known[each]

        largest = int(self.limit // (parts.largest() / steps))
        blocks = [_Block(op, integers, parts, first * parts.step(), last * parts.step())
                  for first, last in even_parts(steps, largest)]  # fmt: skip
        axis = parts.computed[node].axis
        return like(from_module_of(node, op.Concat(*(each.result(node) for each in blocks), axis=axis)), attended)

    def _known_sizes(self) -> Sizes:
        if self._sizes is None:
            batches = BATCHES if has_dynamic_batch(self.model) else ()
            at_batches = tuple(at_batch(self.model, batch) for batch in batches or (1,))
            self._sizes = Sizes(at_batches, batches)
        return self._sizes


def _axis_of_queries(node: ir.Node, rank: int) -> int:
    """Of the result of a product of weights and values, in either order."""
    if node.op_type == "Attention":
        return rank - 2
    has_weights = [softmax_above(value) is not None for value in operands(node)]
    if all(has_weights):
        raise Refusal("both factors are made of a softmax")
    if node.op_type == "MatMul":
        return rank - 2 if has_weights[0] else rank - 1
    left, right, result = axes_of(node)
    weights, values = (left, right) if has_weights[0] else (right, left)
    axis = next((letter for letter in weights if letter in result and letter not in values), None)
    if axis is None:
        raise Refusal("no axis of its weights is the queries' alone")
    return result.index(axis)


@dataclass
class _Block:
    """Writes what is computed for the queries from `first` to before `last`."""

    op: Builder
    integers: Callable[..., ir.Value]
    parts: QueryParts
    first: int
    last: int
    written: dict[tuple[ir.Value, Part | None], ir.Value] = field(default_factory=dict)

    def result(self, node: ir.Node) -> ir.Value:
        """What `node` computes."""
        wanted = zip(operands(node), self.parts.parts[node], strict=True)
        given = iter([self._part(value, part) for value, part in wanted])
        inputs = [None if value is None else next(given) for value in node.inputs]
        if node.op_type in RESHAPING:
            written = self.op.Reshape(inputs[0], self.integers(*self.parts.reshaped_to(node, self.last - self.first)))
        elif node.op_type == "Expand":
            written = self.op.Expand(inputs[0], self.integers(*self.parts.repeated_to(node)))
        else:
            written = getattr(self.op, node.op_type)(*inputs, **node.attributes)
        return from_module_of(node, written)

    def _part(self, value: ir.Value, part: Part | None) -> ir.Value:
        """What of an operand these queries need: computed for them, or cut."""
        if part is None:
            return value
        if (value, part) not in self.written:
            node = value.producer()
            if node is not None and node in self.parts.computed:
                self.written[value, part] = self.result(node)
            else:
                self.written[value, part] = self._cut(value, part)
        return self.written[value, part]

    def _cut(self, value: ir.Value, part: Part) -> ir.Value:
        first, last = part.range(self.first, self.last)
        cut: ir.Value = self.op.Slice(
            value, self.integers(first), self.integers(last), self.integers(part.axis), self.integers(1)
        )
        return cut
