"""Conv₁ₓ₁(Concat(x₁, …, xₙ), W) + b → Conv₁ₓ₁(x₁, W₁) + … + Conv₁ₓ₁(xₙ, Wₙ) + b, Wᵢ being the columns of W for xᵢ.

A 1×1 convolution is a sum over channels, and a sum may be taken in parts: nothing is put side by side any more. The
price is an addition of whole maps for every part after the first, and in onnxruntime on the CPU that is more than the
Concat costs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.rule import (
    Builder,
    GraphRule,
    Refusal,
    attribute,
    channels,
    constant,
    like,
    operands,
    producer,
    require_sole_use,
)


class PointwiseOverConcat(GraphRule):
    """A 1×1 convolution of joined channels → the sum of one for each part."""

    title = "1×1 convolution over Concat as a sum"
    no_gain = {  # noqa: RUF012  the library's class is no dataclass
        "cpu": "AA-ResNet-50 became 1 to 2 % slower by it, at batch 1 and 8",
        "cuda": "it was not measured",
    }

    def pattern(self, op: Builder, weight: ir.Value) -> Any:
        """With or without a bias."""
        joined = op.Concat(_allow_other_inputs=True, _outputs=["joined"])
        return op.Conv(joined, weight, _allow_other_inputs=True, _outputs=["convolved"])

    def is_candidate(self, joined: ir.Value, weight: ir.Value, convolved: ir.Value) -> bool:
        """1×1, and channels are what is joined."""
        pointwise = weight.shape is not None and tuple(weight.shape[2:]) == (1,) * (len(weight.shape) - 2)
        return pointwise and attribute(producer(joined), "axis", None) in (1, 1 - len(joined.shape or ()))

    def require(self, joined: ir.Value, weight: ir.Value, convolved: ir.Value) -> None:
        """Nobody else reads the joined channels."""
        require_sole_use(joined)
        constant(weight, "the convolution's weight")
        if attribute(producer(convolved), "group", 1) != 1:
            raise Refusal("the convolution is in groups")
        for part in operands(producer(joined)):
            channels(part)

    def rewrite(self, op: Builder, joined: ir.Value, weight: ir.Value, convolved: ir.Value) -> Any:
        """The first part takes the bias."""
        node, parts = producer(convolved), operands(producer(joined))
        ends = np.cumsum([channels(part) for part in parts])
        total: ir.Value | None = None
        for number, (part, end) in enumerate(zip(parts, ends, strict=True)):
            columns = constant(weight, "the weight")[:, end - channels(part) : end]
            own = self.new_constant(op, columns, f"{weight.name}_{number}")
            bias = operands(node)[2:] if number == 0 else ()
            term = like(op.Conv(part, own, *bias, **node.attributes), convolved)
            total = term if total is None else like(op.Add(total, term), convolved)
        assert total is not None
        return total
