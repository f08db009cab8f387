"""BatchNormalization(Conv(x, W, b)) → Conv(x, W′, b′), W′ = W·γ/√(σ² + ε) and b′ = (b − μ)·γ/√(σ² + ε) + β.

Both are affine in every output channel. It finishes what the rules begin that move normalizations towards
convolutions. (The rewriter has a rule for this too, which folds normalizations of training as well, and whose new
constants may take the names of old ones.)
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
    constant,
    from_module_of,
    like,
    operands,
    producer,
    require_normalization,
    require_sole_use,
    takes_normalization,
)


class NormalizationIntoConvolution(GraphRule):
    """A normalization behind a convolution → inside its weights."""

    title = "batch normalization into the convolution's weights"

    def pattern(self, op: Builder) -> Any:
        """With or without a bias."""
        convolved = op.Conv(_allow_other_inputs=True, _outputs=["convolved"])
        return op.BatchNormalization(convolved, _allow_other_inputs=True, _outputs=["normalized"])

    def require(self, convolved: ir.Value, normalized: ir.Value) -> None:
        """Constants on both sides, and weights that are the convolution's own."""
        require_normalization(normalized)
        require_sole_use(convolved)
        if not takes_normalization(convolved):
            raise Refusal("the convolution's weight or bias is shared, or is not a constant")

    def rewrite(self, op: Builder, convolved: ir.Value, normalized: ir.Value) -> Any:
        """Computed in float64, kept in the type of the weights."""
        convolution, normalization = producer(convolved), producer(normalized)
        scale, shift, mean, variance = (
            constant(value, "a parameter").astype(np.float64) for value in operands(normalization)[1:]
        )
        x, weight, *biases = operands(convolution)
        numbers = constant(weight, "the weight")
        bias = constant(biases[0], "the bias").astype(np.float64) if biases else np.zeros(len(numbers))
        factor = scale / np.sqrt(variance + attribute(normalization, "epsilon", 1e-5))
        folded = numbers * factor.reshape(-1, *[1] * (numbers.ndim - 1))
        parameters = [
            self.new_constant(op, folded.astype(numbers.dtype), f"{weight.name}_normalized"),
            self.new_constant(op, ((bias - mean) * factor + shift).astype(numbers.dtype), f"{weight.name}_bias"),
        ]
        folded_convolution = op.Conv(x, *parameters, **convolution.attributes)
        producer(folded_convolution).name, convolution.name = convolution.name, None  # who knows it finds it
        return like(from_module_of(convolution, folded_convolution), normalized)
