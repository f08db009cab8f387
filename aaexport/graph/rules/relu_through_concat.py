"""Relu(Concat(x₁, …, xₙ)) → Concat(Relu(x₁), …, Relu(xₙ)).

Relu looks at one number at a time. It pays where a part is a convolution's output: runtimes compute the Relu of a
convolution while they write its result, which the Concat between them prevents.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from aaexport.graph.rules.rule import (
    Builder,
    GraphRule,
    Refusal,
    attribute,
    is_convolution,
    like,
    operands,
    producer,
    require_sole_use,
)


class ReluThroughConcat(GraphRule):
    """One Relu of joined channels → one of each part."""

    title = "Relu through Concat"

    def pattern(self, op: Builder) -> Any:
        """Any number of parts."""
        return op.Relu(op.Concat(_allow_other_inputs=True, _outputs=["joined"]))

    def require(self, joined: ir.Value) -> None:
        """At least one convolution to fuse with."""
        require_sole_use(joined)
        if not any(is_convolution(part) for part in operands(producer(joined))):
            raise Refusal("no joined part is a convolution's own output, so that nothing would fuse")

    def rewrite(self, op: Builder, joined: ir.Value) -> Any:
        """The Concat keeps its axis."""
        concat = producer(joined)
        outputs = [like(op.Relu(part), part) for part in operands(concat)]
        return like(op.Concat(*outputs, axis=attribute(concat, "axis", None)), joined)
