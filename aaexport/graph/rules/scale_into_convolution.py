"""s·part(Conv(x, W, b)) → part(Conv(x, W′, b′)), W′ and b′ being s·W and s·b in the channels of that part.

That is the scale of the queries, s = dkh^−½: queries, keys and values come out of one convolution, Split, and only
the queries are multiplied, after a Reshape or Transpose that moves numbers without changing them. The product then
happens once, in the weights, instead of for every position of every image.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from aaexport.graph.rules.rule import (
    Builder,
    GraphRule,
    Refusal,
    attribute,
    channels,
    constant,
    is_convolution,
    operands,
    producer,
    require_sole_use,
    sole_user,
)

MOVING = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity")


class ScaleIntoConvolution(GraphRule):
    """A scalar factor behind a convolution → inside its weights."""

    title = "scale of the queries into the convolution's weights"
    commutes = True

    def pattern(self, op: Builder, scaled: ir.Value, factor: ir.Value) -> Any:
        """Either side of the product may be the constant."""
        return op.Mul(scaled, factor)

    def is_candidate(self, scaled: ir.Value, factor: ir.Value) -> bool:
        """A scalar constant, and a convolution to be found upstream."""
        is_scalar = factor.const_value is not None and factor.const_value.size == 1
        return is_scalar and not factor.is_graph_input() and _convolution(_path(scaled)[-1]) is not None

    def require(self, scaled: ir.Value, factor: ir.Value) -> None:
        """Nobody else reads what is scaled, on the whole way from the convolution's output."""
        path = _path(scaled)
        for value in path:
            require_sole_use(value)
        _channels(path[-1])
        for value in operands(_found(path))[1:]:
            constant(value, "the convolution's weight or bias")
            if sole_user(value) is None:
                raise Refusal("the convolution shares its weight or bias with another")
        if constant(factor, "the factor").ndim > len(scaled.shape or ()):
            raise Refusal("the factor has more axes than what it scales")

    def rewrite(self, op: Builder, scaled: ir.Value, factor: ir.Value) -> Any:
        """The inputs are exchanged in place: the keys and values of the same Split stay where they are."""
        path = _path(scaled)
        convolution = _found(path)
        for index, value in enumerate(operands(convolution)[1:], 1):
            numbers = constant(value, "a parameter").copy()
            numbers[_channels(path[-1])] *= constant(factor, "the factor").reshape(())
            convolution.replace_input_with(index, self.new_constant(op, numbers, f"{value.name}_scaled"))
        return op.Identity(scaled)


def _path(value: ir.Value) -> list[ir.Value]:
    """The values from `value` back to the first that is not merely another form of the one before."""
    path = [value]
    while (node := path[-1].producer()) is not None and node.op_type in MOVING:
        path.append(operands(node)[0])
    return path


def _convolution(part: ir.Value) -> ir.Node | None:
    """The convolution whose output, or a part of whose channels, `part` is."""
    node = part.producer()
    is_split = node is not None and node.op_type == "Split" and attribute(node, "axis", 0) == 1
    whole = operands(producer(part))[0] if is_split else part
    return whole.producer() if is_convolution(whole) else None


def _found(path: list[ir.Value]) -> ir.Node:
    convolution = _convolution(path[-1])
    assert convolution is not None
    return convolution


def _channels(part: ir.Value) -> slice:
    """Which output channels of the convolution `part` holds; Refusal if a size before it is not known."""
    node = producer(part)
    if node.op_type == "Conv":
        return slice(None)
    number = list(node.outputs).index(part)
    begin = sum(channels(output) for output in node.outputs[:number])
    return slice(begin, begin + channels(part))
