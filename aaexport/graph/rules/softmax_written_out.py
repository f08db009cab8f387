"""exp(x − max x) / Σ exp(x − max x), exp(LogSoftmax(x)) and Softmax(x − max x) → Softmax(x), along the same axis.

Some write the softmax of an attention by hand, most of them "for stability", which the operator has by itself: it
subtracts the largest too. It is one kernel for five, and what recognises attention looks for it. Without the largest
subtracted it stays as it is: where exp(x) is infinite, PyTorch answers NaN, and Softmax does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from aaexport.graph.rules.rule import (
    Builder,
    GraphRule,
    Refusal,
    attribute,
    operands,
    producer,
    require_read_by,
    require_sole_use,
)
from aaexport.graph.rules.skewed_attention import SOFTMAX_OVER_THE_LAST

LARGEST, SUM = "ReduceMax", "ReduceSum"


class SoftmaxWrittenOut(GraphRule):
    """A softmax in other operators → the operator."""

    title = "softmax that is written out as one operator"

    def patterns(self) -> tuple[Callable[..., Any], ...]:
        """From the last operator on."""
        return (self.pattern, self.of_logarithm, self.of_difference)

    def pattern(self, op: Builder, exponential: ir.Value, total: ir.Value) -> Any:
        """The numbers over their sum."""
        return op.Div(exponential, total, _outputs=["weights"])

    def of_logarithm(self, op: Builder, logarithm: ir.Value) -> Any:
        """The exponential of a logarithm."""
        return op.Exp(logarithm, _outputs=["weights"])

    def of_difference(self, op: Builder, difference: ir.Value) -> Any:
        """A softmax of what it makes itself."""
        return op.Softmax(difference, _allow_other_attributes=True, _outputs=["weights"])

    def is_candidate(self, *_: Any, weights: ir.Value, **matched: Any) -> bool:
        """The whole of one of the three is there."""
        return _found(producer(weights)) is not None

    def require(self, *_: Any, weights: ir.Value, **matched: Any) -> None:
        """Nobody reads what will not be there any more, and the operator goes along that axis alone."""
        node = producer(weights)
        found = _found(node)
        assert found is not None
        logits, axis = found
        if node.op_type == "Div":
            exponential, total = operands(node)
            require_read_by(exponential, {node, producer(total)})
        if node.op_type == "Exp":
            require_sole_use(operands(node)[0])
        if logits.shape is None or not (self._any_axis() or axis == len(logits.shape) - 1):
            raise Refusal(f"Softmax goes along the last axis only below opset {SOFTMAX_OVER_THE_LAST}")

    def rewrite(self, op: Builder, *_: Any, weights: ir.Value, **matched: Any) -> Any:
        """Of the numbers from which the largest was subtracted."""
        found = _found(producer(weights))
        assert found is not None
        return op.Softmax(found[0], axis=found[1])

    def _any_axis(self) -> bool:
        return self.model.graph.opset_imports.get("", 0) >= SOFTMAX_OVER_THE_LAST


def _found(last: ir.Node) -> tuple[ir.Value, int] | None:
    """The logits and the axis, counted from the first, of a softmax that ends with this node; None if it is none."""
    if last.op_type == "Div":
        exponential, total = operands(last)
        node, sum_of = exponential.producer(), total.producer()
        if node is None or node.op_type != "Exp" or sum_of is None or operands(sum_of)[0] is not exponential:
            return None
        found = shifted(operands(node)[0])
        return found if found is not None and found[1] == along(sum_of, SUM) else None
    before = operands(last)[0].producer()
    if last.op_type == "Exp":
        is_one = before is not None and before.op_type == "LogSoftmax" and before.domain == ""
        axis = own_axis(before) if is_one and before is not None else None
        return None if before is None or axis is None else (operands(before)[0], axis)
    found = shifted(operands(last)[0])
    return found if found is not None and found[1] == own_axis(last) else None


def shifted(difference: ir.Value) -> tuple[ir.Value, int] | None:
    """x and the axis of x − max x."""
    node = difference.producer()
    if node is None or node.op_type != "Sub" or node.domain != "":
        return None
    logits, largest = operands(node)
    found = largest.producer()
    if found is None or operands(found)[0] is not logits:
        return None
    axis = along(found, LARGEST)
    return None if axis is None else (logits, axis)


def along(node: ir.Node, operator: str, *, kept: bool = True) -> int | None:
    """The one axis along which a node of that kind reduces; with `kept`, and that it keeps, with size 1."""
    if node.op_type != operator or node.domain != "" or (kept and not attribute(node, "keepdims", 1)):
        return None
    given, axes = operands(node), attribute(node, "axes", None)
    if axes is None and len(given) > 1 and given[1].const_value is not None and not given[1].is_graph_input():
        axes = given[1].const_value.numpy().tolist()
    shape = given[0].shape
    return axes[0] % len(shape) if axes is not None and len(axes) == 1 and shape else None


def own_axis(node: ir.Node) -> int | None:
    """Of a Softmax or LogSoftmax that goes along one axis alone."""
    shape, graph = operands(node)[0].shape or node.outputs[0].shape, node.graph
    if not shape or graph is None:
        return None
    merges = graph.opset_imports.get("", 0) < SOFTMAX_OVER_THE_LAST
    axis: int = attribute(node, "axis", 1 if merges else -1) % len(shape)
    return axis if not merges or axis == len(shape) - 1 else None
