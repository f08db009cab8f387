"""softmax(q·k + tiled(skewed(q·R_h)) + tiled(skewed(q·R_w)))·v → the same as `fold`, `shift` or `table`, in blocks.

So the public implementations write 2-D relative attention: logits of every offset, brought from offsets to positions
by padding, reshaping and slicing, and repeated over the other axis, about 25 operators an axis, and as many ways to
write them as there are authors, exporters and opsets. What they compute is found by trying it out
(`aaexport.graph.rules.skewed_attention`); what is written instead is what `convert` writes of a layer of ours, in the
form that the same model of costs chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from aaexport.device import Target
from aaexport.graph.rules.attention_forms import WRITTEN, AttentionWriter
from aaexport.graph.rules.fixed_batch import at_batch, has_dynamic_batch
from aaexport.graph.rules.movement import way
from aaexport.graph.rules.products import nodes_of
from aaexport.graph.rules.rule import (
    Builder,
    GraphRule,
    Refusal,
    like,
    operands,
    producer,
    require_read_by,
    require_sole_use,
)
from aaexport.graph.rules.skewed_attention import SkewedAttention, is_sum_of_products, recognised, softmax_behind
from aaexport.memory import MEBIBYTE

if TYPE_CHECKING:
    from aaexport.nn.choice import Choice

IMAGES = 2  # of a dynamic batch, to try it out with: as few as can be told apart


class SkewedRelativeAttention(GraphRule):
    """Relative logits of all pairs of positions, written out → folded, or in blocks."""

    title = "skewed relative attention as fold, shift or table"

    def __init__(self, target: Target, limit: float | None = None) -> None:
        super().__init__(target)
        self.limit = limit  # MiB of any tensor of the attention, of one image if the batch is dynamic

    def begin(self, model: ir.Model) -> None:
        """What was found in the graph before does not hold any more."""
        super().begin(model)
        self._fixed: dict[str, ir.Value] = {}
        self._values: dict[str | None, ir.Value] = {}
        self._found: dict[str | None, SkewedAttention] = {}

    def patterns(self) -> tuple[Callable[..., Any], ...]:
        """The product of weights and values may be written in any of these ways."""
        return (self.pattern, self.as_einsum, self.as_sum)

    def pattern(self, op: Builder, x: ir.Value, y: ir.Value) -> Any:
        """From the last product on; what its operands are made of takes more than a pattern."""
        return op.MatMul(x, y, _outputs=["attended"])

    def as_einsum(self, op: Builder, x: ir.Value, y: ir.Value) -> Any:
        """The same."""
        return op.Einsum(x, y, _allow_other_attributes=True, _outputs=["attended"])

    def as_sum(self, op: Builder, x: ir.Value, y: ir.Value) -> Any:
        """The same."""
        multiplied = op.Mul(x, y)
        return op.ReduceSum(multiplied, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["attended"])

    def is_candidate(self, x: ir.Value, y: ir.Value, attended: ir.Value) -> bool:
        """One factor is a softmax, and two things besides q·k are added to its logits that are products too."""
        if WRITTEN in producer(attended).meta:
            return False
        weights = softmax_behind(x) or softmax_behind(y)
        return weights is not None and is_sum_of_products(operands(producer(weights))[0])

    def require(self, x: ir.Value, y: ir.Value, attended: ir.Value) -> None:
        """It is that attention to the last offset, and nobody reads what will not be there any more."""
        weights = softmax_behind(x) or softmax_behind(y)
        assert weights is not None
        require_sole_use(operands(producer(weights))[0])
        on_the_way = way(x if softmax_behind(x) is weights else y, weights)
        product_nodes = nodes_of(producer(attended))
        for value in (weights, *(output for node in (*on_the_way, *product_nodes[:-1]) for output in node.outputs)):
            require_read_by(value, {*on_the_way, *product_nodes})
        self._fixed = self._fixed or at_batch(self.model, IMAGES)
        found = recognised(self._at_fixed_batch(attended), IMAGES if has_dynamic_batch(self.model) else 1)
        self._values = {value.name: value for value in _values(self.model.graph)}
        for operand in (found.queries, found.keys, found.values):
            self._original(operand.value if operand.channels is None else operand.channels.source)
        self._choice(found)
        self._found[attended.name] = found

    def rewrite(self, op: Builder, x: ir.Value, y: ir.Value, attended: ir.Value) -> Any:
        """All of it anew, from the convolution's output on where the heads lie in it one after the other."""
        found = self._found[attended.name]
        choice = self._choice(found)
        writer = AttentionWriter(
            op,
            found,
            self._original,
            lambda numbers, name: self.new_constant(op, numbers, f"{attended.name}_{name}"),
            self.model.graph.opset_imports[""],
        )
        return like(writer.write(choice), attended)

    def _choice(self, found: SkewedAttention) -> Choice:
        """What should be the fastest, or what keeps the limit. Refusal if nothing does."""
        # Brings torch, which most files do not need.
        from aaexport.nn.choice import TYPICAL_BATCH, AttentionSizes, Choice, blocks_within, choose

        of_layer = AttentionSizes(found.height, found.width, found.dkh, found.dvh, found.heads)
        is_dynamic = has_dynamic_batch(self.model)
        choice = choose(of_layer, TYPICAL_BATCH if is_dynamic else found.batch, self.target)
        if self.limit is None:
            return choice
        images = 1 if is_dynamic else found.batch
        width = (found.result.dtype or ir.DataType.FLOAT).itemsize
        depth = max(found.dkh + found.height + found.width, found.dvh)
        whole = images * found.heads * of_layer.positions * depth * width / MEBIBYTE
        if whole > self.limit:
            raise Refusal(f"folded, its queries and keys take {whole:.3f} MiB each, in however many blocks")
        blocks = blocks_within(of_layer, int(self.limit * MEBIBYTE / width), batch=images)
        return Choice("fold", max(choice.blocks, blocks))

    def _at_fixed_batch(self, value: ir.Value) -> ir.Value:
        found = self._fixed.get(value.name or "")
        node = None if found is None else found.producer()
        if found is None or node is None or node.graph is None:
            raise Refusal("it is a constant once the batch is fixed")
        return found

    def _original(self, value: ir.Value) -> ir.Value:
        """The value of the graph itself that was found as `value` at a fixed batch."""
        if value.name not in self._values:
            raise Refusal(f"{value.name} is there at a fixed batch only")
        return self._values[value.name]


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
