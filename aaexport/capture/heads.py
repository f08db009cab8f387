"""ExportedProgram → the same program, each scaled_dot_product_attention of it with an axis of heads.

PyTorch's operator takes queries (…, tokens, depth) of any number of axes, and timm's `samvit` gives it three, with
the heads among the images; torch's ONNX exporter refuses whatever is not (batch, heads, tokens, depth). So axes of
size 1 are put in before, and taken out after; axes in front of the heads are merged into the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

aten = torch.ops.aten
ATTENTION = aten.scaled_dot_product_attention.default
AXES = 4  # batch, heads, tokens, depth
OPERANDS = 3
HEADS = 1  # the place of their axis


def give_heads(program: ExportedProgram) -> None:
    """Changes `program` in place; what has no such form is left as it is."""
    found = [node for node in program.graph.nodes if node.target is ATTENTION]
    for node in found:
        ranks = {_value(each).dim() for each in _operands(node)}
        if len(ranks) == 1 and (rank := ranks.pop()) != AXES:
            _with_axes_of_one(node, AXES - rank) if rank < AXES else _with_one_batch(node, rank - AXES)
    if found:
        program.graph_module.recompile()


def _with_axes_of_one(node: Node, count: int) -> None:
    """(…, tokens, depth) → (…, 1, tokens, depth), and for what has no batch either one more in front."""

    def wide(operand: Node) -> Node:
        rank = _value(operand).dim()
        # A mask (queries, keys) holds for all heads as it is.
        axes = [0] * count if rank == AXES - count == 2 else [0] * (count - 1) + [HEADS] if rank > 2 else []
        for axis in axes:
            operand = _called(node, aten.unsqueeze.default, operand, axis)
        return operand

    attended = _called_again(node, wide)
    for _ in range(count - 1):
        attended = _called(node, aten.squeeze.dim, attended, 0)
    _become(node, aten.squeeze.dim, attended, 0 if _value(attended).dim() - 1 == 2 else HEADS)


def _with_one_batch(node: Node, more: int) -> None:
    """(a, b, …, heads, tokens, depth) → (a · b · …, heads, tokens, depth), where all have the same in front."""
    fronts = [tuple(_value(each).shape[: more + 1]) for each in _operands(node)]
    mask = _mask(node)
    is_shared = mask is None or _value(mask).dim() < AXES
    if any(front != fronts[0] for front in fronts) or not is_shared:
        return

    def narrow(operand: Node) -> Node:
        if operand is mask:
            return operand
        return _called(node, aten.flatten.using_ints, operand, 0, more)

    sizes = [size if isinstance(size, int) else -1 for size in fronts[0]]
    if sizes.count(-1) <= 1:
        _become(node, aten.unflatten.int, _called_again(node, narrow), 0, sizes)


def _operands(node: Node) -> list[Node]:
    """Queries, keys and values."""
    return [each for each in node.args[:OPERANDS] if isinstance(each, Node)]


def _mask(node: Node) -> Node | None:
    given = node.args[OPERANDS] if len(node.args) > OPERANDS else node.kwargs.get("attn_mask")
    return given if isinstance(given, Node) else None


def _value(node: Node) -> torch.Tensor:
    value: torch.Tensor = node.meta["val"]
    return value


def _called_again(node: Node, change: Callable[[Node], Node]) -> Node:
    """The attention of changed operands, before the one of the given."""
    arguments = [change(each) if isinstance(each, Node) else each for each in node.args]
    named = {name: change(each) if isinstance(each, Node) else each for name, each in node.kwargs.items()}
    return _called(node, ATTENTION, *arguments, **named)


def _called(before: Node, target: Any, *arguments: Any, **named: Any) -> Node:
    """A call in front of `before`, of the same place in the user's source."""
    with before.graph.inserting_before(before):
        made = before.graph.call_function(target, arguments, named)
    made.meta = {key: held for key, held in before.meta.items() if key in ("nn_module_stack", "stack_trace")}
    values = torch.fx.node.map_arg((arguments, named), _value)
    made.meta["val"] = target(*values[0], **values[1])
    return made


def _become(node: Node, target: Any, *arguments: Any) -> None:
    """The node computes that now; its name, by which outputs are known, stays."""
    node.target, node.args, node.kwargs = target, arguments, {}
