"""Reshape(x, computed sizes) → Reshape(x, constant sizes), where no more than one of them depends on the batch.

Who traces `x.view(batch, heads, …)` with a dynamic batch gets a Shape, a Gather and a Concat for it, and all that is
not known before the model runs is one number: that one can be left to Reshape, which fits it in itself, as −1.

Sizes are computed for two batches. Those that agree hold for any batch, if all that the batch went through on its way
to them are products: c·Bᵏ is the same for two batches only where k is 0. ⌈B/8⌉ or min(B, 2) may be so by chance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from aaexport.errors import first_line
from aaexport.graph.rules.fixed_batch import BATCHES, at_batch, sizes
from aaexport.graph.rules.rule import Builder, GraphRule, Refusal, attribute, operands

# What makes products of the batch out of products of the batch.
PRODUCTS = frozenset({
    "Cast", "Concat", "Constant", "Flatten", "Gather", "Identity", "Mul", "ReduceProd", "Reshape", "Shape", "Size",
    "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
# Operator → which of its inputs are not data, but say what size the output has.
SIZE_INPUTS = {
    "ConstantOfShape": (0,), "Expand": (1,), "Pad": (1,), "Range": (0, 1, 2), "Reshape": (1,), "Resize": (2, 3),
    "Slice": (1, 2, 3, 4), "Split": (1,), "Tile": (1,),
}  # fmt: skip
Numbers = list[NDArray[Any]]  # of a value, for each batch; empty where they are not known
INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)


class ReshapeToKnownSizes(GraphRule):
    """Sizes that are computed from the batch → constants and −1."""

    title = "sizes known before the model runs"

    def begin(self, model: ir.Model) -> None:
        """Sizes are computed once for a whole pass, and only if they are asked for."""
        super().begin(model)
        self._at_batches: list[dict[str, ir.Value]] = []
        self._hold_for_any: set[tuple[ir.Value, bool]] = set()
        self._numbers: dict[ir.Value, Numbers] = {}

    def pattern(self, op: Builder, x: ir.Value, target: ir.Value) -> Any:
        """Any Reshape."""
        return op.Reshape(x, target, _allow_other_attributes=True, _outputs=["reshaped"])

    def is_candidate(self, x: ir.Value, target: ir.Value, reshaped: ir.Value) -> bool:
        """Its sizes are computed."""
        return target.const_value is None and not target.is_graph_input()

    def require(self, x: ir.Value, target: ir.Value, reshaped: ir.Value) -> None:
        """All but one are known."""
        self._sizes(reshaped)
        self._require_products(target)

    def rewrite(self, op: Builder, x: ir.Value, target: ir.Value, reshaped: ir.Value) -> Any:
        """What computed the sizes is left to be removed."""
        found = self._sizes(reshaped)
        out = op.Reshape(x, self.new_constant(op, np.array(found, np.int64), f"{reshaped.name}_sizes"))
        out.type, out.shape = reshaped.type, ir.Shape([None if size == -1 else size for size in found])
        return out

    def _sizes(self, reshaped: ir.Value) -> list[int]:
        self._at_batches = self._at_batches or [at_batch(self.model, batch) for batch in BATCHES]
        assert reshaped.name is not None
        found = [set(each) for each in zip(*(sizes(at[reshaped.name]) for at in self._at_batches), strict=True)]
        if sum(len(each) > 1 for each in found) > 1:
            raise Refusal("more than one size depends on the batch")
        if any(0 in each for each in found):
            raise Refusal("a size is 0")
        return [each.pop() if len(each) == 1 else -1 for each in found]

    def _require_products(self, target: ir.Value) -> None:
        """Refusal unless `target` is made of products of the batch, and so are the sizes that it reads off values."""
        seen = set(self._hold_for_any)
        waiting = [(target, True)]
        while waiting:
            value, is_size = waiting.pop()
            node = value.producer()
            if node is None or (value, is_size) in seen:
                continue
            seen.add((value, is_size))
            self._require_product(node) if is_size else self._require_whole_batch(node)
            waiting += self._read_by(node, is_size)
        self._hold_for_any = seen

    def _require_product(self, node: ir.Node) -> None:
        """Of numbers that do not depend on the batch, any operator makes some that do not."""
        rest = operands(node)[_factors(node) :]
        if _has_branches(node) or not all(self._is_same(value) for value in rest):
            raise Refusal(f"a size is computed from the batch by {node.op_type}, not by products alone")

    def _require_whole_batch(self, node: ir.Node) -> None:
        """A part of the batch, as x[::8] is, has a size of ⌈B/8⌉."""
        if _has_branches(node):
            raise Refusal(f"a size is read off the output of {node.op_type}")
        if node.op_type != "Slice":
            return
        before, after = (self._sizes_at_batches(value) for value in (operands(node)[0], node.outputs[0]))
        if any(len(set(one)) > 1 == len(set(other)) for one, other in zip(before, after, strict=True)):
            raise Refusal("a size is that of a part of the batch")

    def _is_same(self, value: ir.Value) -> bool:
        """Whether its numbers are known, and the same for both batches."""
        numbers = self._numbers_of(value)
        return bool(numbers) and all(np.array_equal(numbers[0], other) for other in numbers)

    def _numbers_of(self, value: ir.Value) -> Numbers:
        if value not in self._numbers:
            self._numbers[value] = self._computed(value)
        return self._numbers[value]

    def _computed(self, value: ir.Value) -> Numbers:
        node = value.producer()
        if value.const_value is not None and not value.is_graph_input():
            return [value.const_value.numpy()] * len(BATCHES)
        if node is None or _has_branches(node):
            return []
        if node.op_type == "Shape":
            axes = slice(attribute(node, "start", 0), attribute(node, "end", None))
            by_axis = self._sizes_at_batches(operands(node)[0])[axes]
            return [np.array([each[batch] for each in by_axis], np.int64) for batch in range(len(BATCHES))]
        known = [self._numbers_of(each) for each in operands(node)]
        if not all(known):
            return []
        return [self._result(node, value, [each[batch] for each in known]) for batch in range(len(BATCHES))]

    def _result(self, node: ir.Node, value: ir.Value, numbers: Numbers) -> NDArray[Any]:
        """What an operator makes of such numbers."""
        feeds = dict(zip((each.name or "" for each in operands(node)), numbers, strict=True))
        inputs = [helper.make_empty_tensor_value_info(name) for name in feeds]
        outputs = [helper.make_empty_tensor_value_info(value.name or "")]
        graph = helper.make_graph([ir.to_proto(node)], "sizes", inputs, outputs)
        versions = [helper.make_opsetid(domain, version) for domain, version in self.model.opset_imports.items()]
        try:
            (result,) = ReferenceEvaluator(helper.make_model(graph, opset_imports=versions)).run(None, feeds)
        # The library raises whatever its operators raise: there is no common base.
        except Exception as error:
            raise Refusal(f"its sizes cannot be computed: {first_line(error)}") from error
        return np.asarray(result)

    def _sizes_at_batches(self, value: ir.Value) -> list[tuple[int, ...]]:
        """Of each axis, its size for each batch."""
        assert value.name is not None
        return list(zip(*(sizes(at[value.name]) for at in self._at_batches), strict=True))

    def _read_by(self, node: ir.Node, is_size: bool) -> list[tuple[ir.Value, bool]]:
        """The inputs of a node, each with whether its numbers count; of other values the sizes do."""
        if is_size:
            return [(value, node.op_type not in ("Shape", "Size")) for value in operands(node)]
        counting = SIZE_INPUTS.get(node.op_type, ())
        read = [(value, index in counting) for index, value in enumerate(node.inputs) if value is not None]
        if node.op_type == "Expand":
            return [read[0], (self._without_ones(read[1][0]), True)]
        return read

    def _without_ones(self, sizes_: ir.Value) -> ir.Value:
        """The s of Where(s == −1, 1, s), which PyTorch's exporter writes for an Expand whatever s is."""
        where = sizes_.producer()
        if where is None or where.op_type != "Where":
            return sizes_
        condition, _, given = operands(where)
        equal = condition.producer()
        if equal is None or equal.op_type != "Equal" or operands(equal)[0] is not given:
            return sizes_
        minus = self._numbers_of(operands(equal)[1])
        return given if minus and all((each == -1).all() for each in minus) else sizes_


def _factors(node: ir.Node) -> int:
    """How many inputs, the first ones, may be products of the batch for the output to be some too."""
    if node.op_type == "Cast" and node.attributes["to"].value not in INTEGERS:
        return 0  # fractions of the batch are rounded sooner or later
    if node.op_type in ("Concat", "Mul"):
        return len(operands(node))
    return 1 if node.op_type in PRODUCTS else 0


def _has_branches(node: ir.Node) -> bool:
    """What an If or a Loop computes depends on more than its inputs."""
    return any(each.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for each in node.attributes.values())
