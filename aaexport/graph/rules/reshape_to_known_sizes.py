"""Reshape(x, computed sizes) → Reshape(x, constant sizes), where no more than one of them depends on the batch.

Who traces `x.view(batch, heads, …)` with a dynamic batch gets a Shape, a Gather and a Concat for it, and all that is
not known before the model runs is one number: that one can be left to Reshape, which fits it in itself, as −1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.fixed_batch import at_batch, sizes
from aaexport.graph.rules.rule import Builder, GraphRule, Refusal

BATCHES = (2, 7)  # sizes that are the same for both are taken to be so for any


class ReshapeToKnownSizes(GraphRule):
    """Sizes that are computed from the batch → constants and −1."""

    title = "sizes known before the model runs"

    def begin(self, model: ir.Model) -> None:
        """Sizes are computed once for a whole pass, and only if they are asked for."""
        super().begin(model)
        self._at_batches: list[dict[str, ir.Value]] = []

    def pattern(self, op: Builder, x: ir.Value, target: ir.Value) -> Any:
        """Any Reshape."""
        return op.Reshape(x, target, _allow_other_attributes=True, _outputs=["reshaped"])

    def is_candidate(self, x: ir.Value, target: ir.Value, reshaped: ir.Value) -> bool:
        """Its sizes are computed."""
        return target.const_value is None and not target.is_graph_input()

    def require(self, x: ir.Value, target: ir.Value, reshaped: ir.Value) -> None:
        """All but one are known."""
        self._sizes(reshaped)

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
