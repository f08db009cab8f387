"""BatchNormalization(Resize(x)) → Resize(BatchNormalization(x)), for interpolation along height and width.

An interpolated number is Σ wᵢ·xᵢ with Σ wᵢ = 1, of one channel, so that a·(Σ wᵢ·xᵢ) + b = Σ wᵢ·(a·xᵢ + b). It pays
where x is a convolution's output, into whose weights the normalization then folds; and x is the smaller map.
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
    like,
    normalized_by,
    operands,
    producer,
    require_normalization,
    require_sole_use,
    takes_normalization,
)

# Weights that do not sum to 1: numbers from outside the map, or those beyond the edge left out.
EXTRAPOLATING = "tf_crop_and_resize"


class NormalizationThroughResize(GraphRule):
    """A normalization of an upsampled map → of the map before."""

    title = "batch normalization through Resize"

    def pattern(self, op: Builder) -> Any:
        """Any form of Resize: with sizes or with scales."""
        resized = op.Resize(_allow_other_inputs=True, _outputs=["resized"])
        return op.BatchNormalization(resized, _allow_other_inputs=True, _outputs=["normalized"])

    def require(self, resized: ir.Value, normalized: ir.Value) -> None:
        """Only height and width are resized, by weights that sum to 1."""
        resize = producer(resized)
        if attribute(resize, "coordinate_transformation_mode", "half_pixel") == EXTRAPOLATING:
            raise Refusal("the Resize reads beyond the map")
        require_normalization(normalized)
        if channels(operands(resize)[0]) != channels(resized):
            raise Refusal("the Resize changes the channels")
        require_sole_use(resized)
        if not takes_normalization(operands(resize)[0]):
            raise Refusal("what is resized is not the output of a convolution that it could fold into")

    def rewrite(self, op: Builder, resized: ir.Value, normalized: ir.Value) -> Any:
        """The same two nodes, the other way round."""
        resize, normalization = producer(resized), producer(normalized)
        x, *rest = operands(resize)[0], *resize.inputs[1:]  # sizes and scales may be left out
        inner = normalized_by(op, normalization, x, operands(normalization)[1:])
        return like(op.Resize(inner, *rest, **resize.attributes), resized)
