"""Attention(q, k, v) → Slice(Attention([q, 0], [k, 0], [v, 0])), heads of depths that a fused CUDA kernel takes.

A head's depth is what onnxruntime's CUDA provider chooses its kernel by (`aaexport.graph.cuda_kernels`), and that of
a layer's folded queries, dkh + H + W, is seldom a multiple of 8. Zeros add nothing to q·k, and what they add to the
result is cut off again. The scale stays what the unpadded depth made it.

Heads are to attention what images are: (B, heads, N, d) is read as (B · heads, N, d), which moves nothing, and what
was (B, heads, N, d) the provider would transpose before its kernel, and back afterwards.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from aaexport.graph.cuda_kernels import fused_depths
from aaexport.graph.rules.rule import (
    Builder,
    GraphRule,
    Refusal,
    attribute,
    like,
    producer,
)
from aaexport.graph.rules.wider import Wider

WITH_HEADS = 4  # axes: (B, heads, N, depth)
WITHOUT = 3  # (B, N, depth)
HEADS = ("q_num_heads", "kv_num_heads")


class AttentionInKernelDepths(GraphRule):
    """The operator Attention on CUDA → the same in depths that a fused kernel takes."""

    title = "attention in depths of fused CUDA kernels"

    def pattern(self, op: Builder, q: ir.Value, k: ir.Value, v: ir.Value) -> Any:
        """With a mask or without."""
        return op.Attention(q, k, v, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["attended"])

    def is_candidate(self, q: ir.Value, k: ir.Value, v: ir.Value, attended: ir.Value) -> bool:
        """Its depths, or its axes, are not those yet."""
        try:
            return len(q.shape or ()) != WITHOUT or _wanted(q, v) != _depths(q, v)
        except Refusal:
            return True  # `require` tells why

    def require(self, q: ir.Value, k: ir.Value, v: ir.Value, attended: ir.Value) -> None:
        """Sizes are known, and it is attention of all to all."""
        node = producer(attended)
        if any(value.name for value in node.outputs[1:]):
            raise Refusal("more than its result is read")
        if any(value is not None for value in node.inputs[3:]):
            raise Refusal("it has a mask, or keys and values of former queries")
        if _wanted(q, v) is None:
            raise Refusal(f"no fused kernel takes heads of {max(_depths(q, v))} numbers")
        ranks = {len(value.shape or ()) for value in (q, k, v)}
        if ranks == {WITHOUT} and any(attribute(node, name, 1) != 1 for name in HEADS):
            raise Refusal("its heads lie in the axis of their depths")
        if ranks == {WITH_HEADS} and len({value.shape[1] for value in (q, k, v) if value.shape is not None}) > 1:
            raise Refusal("its heads of queries share keys")
        if any(not isinstance(size, int) for value in (q, k, v) for size in (value.shape or ())[1:]):
            raise Refusal("sizes beside the batch are not known")

    def rewrite(self, op: Builder, q: ir.Value, k: ir.Value, v: ir.Value, attended: ir.Value) -> Any:
        """Wider, and without an axis of heads, as far as it is not yet."""
        node, (depth, of_values), wanted = producer(attended), _depths(q, v), _wanted(q, v)
        assert wanted is not None
        wider = Wider(op, self.new_constant, node)
        more = (wanted[0] - depth, wanted[0] - depth, wanted[1] - of_values)
        inputs = [
            wider.padded(_without_heads(wider, value), count) for value, count in zip((q, k, v), more, strict=True)
        ]
        others = {name: value for name, value in node.attributes.items() if name not in ("scale", *HEADS)}
        scale = attribute(node, "scale", depth**-0.5)
        wide = op.Attention(*inputs, scale=scale, q_num_heads=1, kv_num_heads=1, **others)
        queries = inputs[0].shape
        assert queries is not None
        wider.told(wide, attended, [*queries[:2], wanted[1]])
        for reader, _ in list(attended.uses()):
            if _is_cut(reader, attended):
                reader.replace_input_with(0, wide)
        result = wider.cut(wide, of_values)
        return result if len(q.shape or ()) == WITHOUT else _with_heads(wider, result, attended)


def _depths(q: ir.Value, v: ir.Value) -> tuple[int, int]:
    """Of queries and keys, and of values; Refusal if they are not known."""
    found = [None if value.shape is None else value.shape[-1] for value in (q, v)]
    known = [depth for depth in found if isinstance(depth, int)]
    if len(known) < len(found):
        raise Refusal("the depth of its heads is not known")
    return known[0], known[1]


def _wanted(q: ir.Value, v: ir.Value) -> tuple[int, int] | None:
    """The depths that a fused kernel takes; None where no padding makes any take them."""
    if q.dtype is None:
        raise Refusal("the type of its heads is not known")
    return fused_depths(q.dtype.numpy().name, *_depths(q, v))


def _is_cut(node: ir.Node, attended: ir.Value) -> bool:
    """Whether it takes the first numbers of the last axis, as of what was padded for float32: of a wider one too."""
    last = len(attended.shape or ()) - 1
    told = [value.const_value for value in node.inputs[1:] if value is not None]
    if node.op_type != "Slice" or last != WITHOUT - 1 or len(told) != len(node.inputs) - 1 or None in told:
        return False
    start, end, axis, *step = [each.numpy().tolist() for each in told if each is not None]
    width = None if attended.shape is None else attended.shape[last]
    return (
        (start, axis, *step) in (([0], [last]), ([0], [last], [1])) and isinstance(width, int) and 0 < end[0] <= width
    )


def _without_heads(wider: Wider, value: ir.Value) -> ir.Value:
    """(B, heads, N, d) → (B · heads, N, d)."""
    assert value.shape is not None
    if len(value.shape) == WITHOUT:
        return value
    node = value.producer()
    if node is not None and node.op_type == "Unsqueeze" and value.shape[1] == 1:
        inner = node.inputs[0]
        if inner is not None and inner.shape is not None and list(inner.shape)[1:] == list(value.shape)[2:]:
            return inner
    return wider.reshaped(value, [-1, *value.shape[2:]])


def _with_heads(wider: Wider, result: ir.Value, attended: ir.Value) -> ir.Value:
    """The way back; who takes the axis of a single head out again reads what had none."""
    assert attended.shape is not None
    for node, _ in list(attended.uses()):
        after = node.outputs[0]
        sizes = None if node.op_type != "Squeeze" or after.shape is None else list(after.shape)[1:]
        if attended.shape[1] == 1 and sizes == list(attended.shape)[2:] and not after.is_graph_output():
            after.replace_all_uses_with(result)
    return like(wider.reshaped(result, [-1, *attended.shape[1:]]), attended)
