"""BatchNormalization(Concat(x₁, …, xₙ)) → Concat(BatchNormalization₁(x₁), …, BatchNormalizationₙ(xₙ)).

Both work channel by channel, and Concat only puts channels one after another: each part is normalised with its own
slice of γ, β, μ and σ². It pays where a part is a convolution's output: its normalization then folds into the
weights, W·γ/√(σ² + ε), and costs nothing any more; what is left normalises the other, narrow parts.
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
    normalized_by,
    operands,
    producer,
    require_normalization,
    require_sole_use,
    takes_normalization,
)


class NormalizationThroughConcat(GraphRule):
    """One normalization of joined channels → one of each part."""

    title = "batch normalization through Concat"

    def pattern(self, op: Builder) -> Any:
        """The normalization's own inputs are read from its node."""
        joined = op.Concat(_allow_other_inputs=True, _outputs=["joined"])
        return op.BatchNormalization(joined, _allow_other_inputs=True, _outputs=["normalized"])

    def require(self, joined: ir.Value, normalized: ir.Value) -> None:
        """Constants, on axis 1, with at least one convolution to fold into."""
        concat = producer(joined)
        if attribute(concat, "axis", None) not in (1, 1 - len(joined.shape or ())):
            raise Refusal("the Concat does not join channels")
        require_normalization(normalized)
        require_sole_use(joined)
        for part in operands(concat):
            channels(part)
        if not any(takes_normalization(part) for part in operands(concat)):
            raise Refusal("no joined part is the output of a convolution that it could fold into")

    def rewrite(self, op: Builder, joined: ir.Value, normalized: ir.Value) -> Any:
        """Each part with its slice of the parameters."""
        normalization = producer(normalized)
        parameters = [constant(value, "a parameter") for value in operands(normalization)[1:]]
        parts = operands(producer(joined))
        ends = np.cumsum([channels(part) for part in parts])
        outputs = []
        for number, (part, end) in enumerate(zip(parts, ends, strict=True)):
            own = [
                self.new_constant(op, values[end - channels(part) : end], f"{normalized.name}_{number}_{name}")
                for name, values in zip(("scale", "bias", "mean", "variance"), parameters, strict=True)
            ]
            outputs.append(normalized_by(op, normalization, part, own))
        return like(op.Concat(*outputs, axis=1), joined)
