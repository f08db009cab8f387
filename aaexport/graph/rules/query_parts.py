"""A result of attention and its axis of queries → which of the operators behind it can be run for some queries alone.

What is large has an axis of queries and one of keys. From the result back, each operator is asked which axes of its
operands hold what the wanted part of its own output is made of: a product takes those rows of one operand, an
addition the same part of both, a softmax over the keys the same rows, a reshaping another axis, with more or fewer
entries a query. That goes on until the operands are small enough to be cut by a Slice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import onnx_ir as ir

from aaexport.graph.rules.einsum_of_tables import axes_of
from aaexport.graph.rules.movement import constant_numbers, is_idle
from aaexport.graph.rules.rule import Refusal, attribute, operands
from aaexport.memory import MEBIBYTE

RESHAPING = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Flatten"})
# Number by number, of operands that broadcast to the size of the output.
POINTWISE = frozenset({
    "Abs", "Add", "And", "Cast", "Clip", "Div", "Dropout", "Equal", "Erf", "Exp", "Greater", "GreaterOrEqual",
    "Identity", "IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow",
    "Reciprocal", "Relu", "Sigmoid", "Sqrt", "Sub", "Sum", "Tanh", "Where",
})  # fmt: skip
MOST_ON_THE_WAY = 32  # nodes between a softmax and the product with the values
SOFTMAX_OVER_ONE = 13  # the first opset in which a softmax is over one axis, whichever it is
MATRIX = 2
WITH_MASK = 4  # the inputs of an Attention that are of this call: queries, keys, values, mask
Along = Callable[[ir.Node, int], list[int | None]]


@dataclass(frozen=True)
class Sizes:
    """The shapes that values have at some batches, by name, and what they take up of one image."""

    at_batches: tuple[dict[str, ir.Value], ...]
    batches: tuple[int, ...]  # empty where the batch is fixed

    def of(self, value: ir.Value) -> list[tuple[int, ...]]:
        """At each batch. Refusal if they do not follow from it."""
        return [self._shape(value, at) for at in self.at_batches]

    def bytes(self, value: ir.Value) -> int:
        """Of one image, where the batch is dynamic."""
        return self._of_an_image([math.prod(shape) for shape in self.of(value)], value)

    def weights_inside(self, attention: ir.Node) -> int:
        """Bytes of the weights that an operator Attention has inside, of one image where the batch is dynamic."""
        queries, keys = operands(attention)[:2]
        numbers = [
            of_queries[0]
            * (attribute(attention, "q_num_heads", None) or of_queries[1])
            * of_queries[-2]
            * of_keys[-2]
            for of_queries, of_keys in zip(self.of(queries), self.of(keys), strict=True)
        ]
        return self._of_an_image(numbers, queries)

    def _of_an_image(self, numbers: list[int], value: ir.Value) -> int:
        """Bytes of what has so many numbers, of the type of `value`, at each batch."""
        count = numbers[0]
        if self.batches and count != numbers[-1]:
            count = (numbers[-1] - count) // (self.batches[-1] - self.batches[0])
        held = self.at_batches[0].get(value.name or "", value).dtype or value.dtype or ir.DataType.FLOAT
        return int(count * held.itemsize)

    @staticmethod
    def _shape(value: ir.Value, at: dict[str, ir.Value]) -> tuple[int, ...]:
        shape = at.get(value.name or "", value).shape
        found = () if shape is None else tuple(size for size in shape if isinstance(size, int))
        if shape is None or len(found) < len(shape):
            raise Refusal(f"the size of {value.name} does not follow from the batch")
        return found


@dataclass(frozen=True)
class Part:
    """Where queries lie: along `axis` of a value, so many of its `entries` each (below 1 where several share one)."""

    axis: int
    entries: Fraction

    def range(self, first: int, last: int) -> tuple[int, int]:
        """Of the entries of so many queries."""
        return int(first * self.entries), int(last * self.entries)


@dataclass
class QueryParts:
    """What of a graph can be run for some of the queries.

    Attributes:
        sizes: of its values.
        limit: bytes; what has no more is cut instead of being computed in parts.
        computed: the nodes that are run for each block, each with the part that its output has.
        parts: of the operands of each such node, None for those that every block needs whole.
    """

    sizes: Sizes
    limit: float
    computed: dict[ir.Node, Part] = field(default_factory=dict)
    parts: dict[ir.Node, list[Part | None]] = field(default_factory=dict)

    def follow(self, node: ir.Node, part: Part) -> None:
        """Goes back from the result of `node`, which is computed in parts whatever its size.

        Raises:
            Refusal: something large would have to be there as a whole.
        """
        self._go_through(node, part)
        for each in self.computed:
            self._require_no_other_use(each, node)

    def largest(self) -> int:
        """Bytes of the largest tensor that is computed in parts, all parts together."""
        return max(self._bytes(node) for node in self.computed)

    def step(self) -> int:
        """How many queries, at the least, lie together in everything that is cut."""
        parts = [*self.computed.values(), *itertools.chain(*self.parts.values())]
        return math.lcm(*(part.entries.denominator for part in parts if part is not None))

    def _bytes(self, node: ir.Node) -> int:
        """Bytes of the output, or of the weights inside an Attention."""
        found = self.sizes.bytes(node.outputs[0])
        return max(found, self.sizes.weights_inside(node)) if node.op_type == "Attention" else found

    def _go_through(self, node: ir.Node, part: Part) -> None:
        if node in self.computed:
            if self.computed[node] != part:
                raise Refusal(f"the queries lie along different axes of {_name(node.outputs[0])}")
            return
        self.computed[node] = part
        self.parts[node] = self._of_operands(node, part)
        for value, wanted in zip(operands(node), self.parts[node], strict=True):
            self._require_small_or_go_on(value, wanted)

    def _require_small_or_go_on(self, value: ir.Value, part: Part | None) -> None:
        if is_fixed(value) or self.sizes.bytes(value) <= self.limit:
            return
        node = value.producer()
        if part is None or node is None:
            raise Refusal(f"{_name(value)} alone takes {mebibytes(self.sizes.bytes(value))} MiB")
        self._go_through(node, part)

    def _require_no_other_use(self, node: ir.Node, last: ir.Node) -> None:
        value = node.outputs[0]
        if node is last:
            return
        if value.is_graph_output() or any(use.node not in self.computed for use in value.uses()):
            raise Refusal(f"{_name(value)} is read elsewhere too, and would still be there as a whole")

    # Which axes of the operands

    def _of_operands(self, node: ir.Node, part: Part) -> list[Part | None]:
        if node.domain != "":
            raise Refusal(f"{node.domain}.{node.op_type} is not known")
        if node.op_type in RESHAPING:
            return [self._before_reshaping(node, part), *[None] * (len(operands(node)) - 1)]
        axes = self._along(node)(node, part.axis)
        return [None if axis is None else Part(axis, part.entries) for axis in axes]

    def _along(self, node: ir.Node) -> Along:
        if node.op_type == "Dropout" and not is_idle(node):
            raise Refusal("its weights are dropped at random")
        if node.op_type in POINTWISE:
            return self._same_axis
        found = {
            "MatMul": self._of_matrices,
            "Einsum": self._of_equation,
            "Softmax": self._beside_the_keys,
            "Transpose": self._before_transposing,
            "Attention": self._of_attention,
            "Expand": self._before_expanding,
        }.get(node.op_type)
        if found is None:
            raise Refusal(f"{_name(node.outputs[0])} cannot be run for some of the queries alone")
        return found

    def _same_axis(self, node: ir.Node, axis: int) -> list[int | None]:
        return [self._broadcast(value, node.outputs[0], axis) for value in operands(node)]

    def _broadcast(self, value: ir.Value, result: ir.Value, axis: int) -> int | None:
        """The axis of an operand that becomes `axis` of the result; None if it has none, or repeats one entry."""
        shape, whole = self.sizes.of(value)[0], self.sizes.of(result)[0]
        own = axis - (len(whole) - len(shape))
        return own if own >= 0 and shape[own] == whole[axis] else None

    def _beside_the_keys(self, node: ir.Node, axis: int) -> list[int | None]:
        assert node.graph is not None
        rank = len(self.sizes.of(node.outputs[0])[0])
        is_over_one = node.graph.opset_imports.get("", 0) >= SOFTMAX_OVER_ONE
        first = attribute(node, "axis", -1 if is_over_one else 1) % rank
        if axis == first or (not is_over_one and axis > first):
            raise Refusal("its softmax is over the queries too")
        return [axis]

    def _of_matrices(self, node: ir.Node, axis: int) -> list[int | None]:
        ranks = [len(self.sizes.of(value)[0]) for value in operands(node)]
        rank = len(self.sizes.of(node.outputs[0])[0])
        if min(ranks) < MATRIX:
            raise Refusal("it is a product with a vector")
        if axis == rank - 2:
            return [ranks[0] - 2, None]
        if axis == rank - 1:
            return [None, ranks[1] - 1]
        return self._same_axis(node, axis)

    def _of_equation(self, node: ir.Node, axis: int) -> list[int | None]:
        left, right, result = axes_of(node)
        if not all(each.isalpha() and len(set(each)) == len(each) for each in (left, right, result)):
            raise Refusal(f"{attribute(node, 'equation', '')} is not a product of two tensors")
        letter = result[axis]
        return [each.index(letter) if letter in each else None for each in (left, right)]

    def _of_attention(self, node: ir.Node, axis: int) -> list[int | None]:
        """Of ONNX's own operator: the queries, and the mask, which has them too or is the same for all."""
        given = operands(node)
        if attribute(node, "is_causal", 0):
            raise Refusal("its mask is made from where the queries are (is_causal)")
        if any(value is not None for value in node.inputs[WITH_MASK:]):
            raise Refusal("it has keys and values of the past")
        if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            raise Refusal("its weights are read elsewhere too, and would still be there as a whole")
        mask = [self._of_mask(value, given[0], axis) for value in given[WITH_MASK - 1 :]]
        return [axis, None, None, *mask]

    def _of_mask(self, mask: ir.Value, queries: ir.Value, axis: int) -> int | None:
        shape, count = self.sizes.of(mask)[0], self.sizes.of(queries)[0][axis]
        return len(shape) - 2 if len(shape) >= MATRIX and shape[-2] == count and count > 1 else None

    def _before_transposing(self, node: ir.Node, axis: int) -> list[int | None]:
        rank = len(self.sizes.of(node.outputs[0])[0])
        permutation: Sequence[int] = attribute(node, "perm", range(rank)[::-1])
        return [permutation[axis]]

    def _before_expanding(self, node: ir.Node, axis: int) -> list[int | None]:
        own = self._broadcast(operands(node)[0], node.outputs[0], axis)
        if own is None:
            raise Refusal(f"{_name(node.outputs[0])} repeats the same for all queries")
        self.repeated_to(node)
        return [own, None]

    def repeated_to(self, expand: ir.Node) -> list[int]:
        """The sizes for an Expand of any part: 1 where it leaves its operand's. Refusal if the batch is in them."""
        target = []
        for before, after in zip(*(map(self.sizes.of, (operands(expand)[0], expand.outputs[0]))), strict=True):
            wide = (1,) * (len(after) - len(before)) + before
            target.append([1 if one == other else other for one, other in zip(wide, after, strict=True)])
        if target[0] != target[-1]:
            raise Refusal(f"{_name(expand.outputs[0])} repeats as often as there are images")
        return target[0]

    def reshaped_to(self, node: ir.Node, count: int) -> list[int]:
        """The sizes for a Reshape of `count` queries, −1 for the one that depends on the batch."""
        target = [sizes[0] if len(set(sizes)) == 1 else -1
                  for sizes in zip(*self.sizes.of(node.outputs[0]), strict=True)]  # fmt: skip
        part = self.computed[node]
        target[part.axis] = int(count * part.entries)
        if target.count(-1) > 1:
            raise Refusal(f"more than one size of {_name(node.outputs[0])} depends on the batch")
        return target

    def _before_reshaping(self, node: ir.Node, part: Part) -> Part:
        """The axis before which as many numbers lie, and how many of its entries hold those of a query."""
        self.reshaped_to(node, 0)
        found = []
        for before, after in zip(
            *(self.sizes.of(value) for value in (operands(node)[0], node.outputs[0])), strict=True
        ):
            outside, inside = math.prod(after[: part.axis]), math.prod(after[part.axis + 1 :])
            axes = [axis for axis, size in enumerate(before) if size > 1 and math.prod(before[:axis]) == outside]
            if not axes:
                raise Refusal(f"{_name(node.outputs[0])} has queries that lie apart before it is reshaped")
            found.append(Part(axes[0], part.entries * Fraction(inside, math.prod(before[axes[0] + 1 :]))))
        if any(each != found[0] for each in found):
            raise Refusal(f"{_name(node.outputs[0])} has its queries elsewhere for another batch")
        return found[0]


def softmax_above(value: ir.Value) -> ir.Value | None:
    """The output of a Softmax that `value` is made of, number by number."""
    waiting, seen = [value], set[ir.Node]()
    while waiting and len(seen) < MOST_ON_THE_WAY:
        node = waiting.pop().producer()
        if node is None or node in seen or node.domain != "":
            continue
        seen.add(node)
        if node.op_type == "Softmax":
            return node.outputs[0]
        if node.op_type in POINTWISE | RESHAPING | {"Transpose"}:
            waiting += operands(node)
    return None


def is_fixed(value: ir.Value) -> bool:
    """Whether it is a constant, or made of constants alone, so that runtimes compute it when they load the file."""
    waiting, seen = [value], {value}
    while waiting and len(seen) < MOST_ON_THE_WAY:
        current = waiting.pop()
        if constant_numbers(current) is not None:
            continue
        node = current.producer()
        if node is None or not node.inputs or (node.op_type == "Dropout" and not is_idle(node)):
            return False
        new = [each for each in operands(node) if each not in seen]
        seen.update(new)
        waiting += new
    return not waiting


def mebibytes(count: float) -> str:
    """Of so many bytes, rounded up, so that what is said to be enough is."""
    return f"{math.ceil(count / MEBIBYTE * 1000) / 1000:g}"


def _name(value: ir.Value) -> str:
    node = value.producer()
    return f"{node.op_type} {node.name or value.name}" if node is not None else f"{value.name}"
