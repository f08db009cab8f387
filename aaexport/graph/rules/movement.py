"""A value of a graph whose sizes are known → which number of its source each of its numbers is, and how often.

Reshaping, transposing, padding, slicing and repeating leave numbers as they are, and there are endlessly many ways to
string them together. So the chain is not read, it is tried out: the source is filled with numbers that tell who they
are, onnx's reference evaluator carries them along, and what arrives tells where it comes from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from aaexport.errors import first_line
from aaexport.graph.rules.fixed_batch import sizes
from aaexport.graph.rules.rule import Refusal, attribute, operands

Numbers = NDArray[Any]
FROM_ONE = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity",
            "Expand", "Tile", "Slice", "Pad", "Split", "Gather"}  # fmt: skip
MAX_NODES = 400  # of one chain, far above those of an attention
EXACT = 1e-6  # the numbers that are carried along are integers times a factor


def carried(node: ir.Node | None, *, sums: bool) -> list[ir.Value] | None:
    """The operands whose numbers `node` passes on, perhaps times a constant; None for a node that does more.

    With `sums`, an addition passes on its terms. Zeros that a Concat pads with are no operand.
    """
    if node is None or node.domain != "":
        return None
    given = operands(node)
    if node.op_type in FROM_ONE:
        return given[:1]
    if node.op_type == "Concat" or (sums and node.op_type == "Add"):
        return [value for value in given if not _is_zero(value)]
    if node.op_type == "ScatterND" and attribute(node, "reduction", "none") == "none":
        return [given[0], given[2]]
    if node.op_type == "Mul" and any(map(is_scalar, given)):
        return [value for value in given if not is_scalar(value)][:1] or None
    if node.op_type == "Div" and is_scalar(given[1]):
        return given[:1]
    return None


def is_scalar(value: ir.Value) -> bool:
    """Whether it is a constant of one number."""
    return value.const_value is not None and not value.is_graph_input() and value.const_value.size == 1


def sources(value: ir.Value, *, sums: bool) -> list[ir.Value]:
    """What `value` is moved, scaled and, with `sums`, added together from; empty if that is too long a story."""
    found, seen, waiting = [], {value}, [value]
    while waiting:
        current = waiting.pop()
        before = carried(current.producer(), sums=sums)
        if before is None:
            found.append(current)
            continue
        new = [each for each in before if each not in seen]
        seen.update(new)
        waiting += new
        if len(seen) > MAX_NODES:
            return []
    return found


@dataclass(frozen=True)
class Origin:
    """value.flat[i] = factor · source.flat[entries.flat[i]], `entries` in the shape of the value."""

    source: ir.Value
    entries: NDArray[np.int64]
    factor: float


def origin(value: ir.Value) -> Origin:
    """Where the numbers of `value` come from.

    Raises:
        Refusal: they come from more than one source, do not all come from it, or not all times the same factor.
    """
    found = sources(value, sums=False)
    if len(found) != 1:
        raise Refusal(f"{value.name} is put together from several others")
    count = int(np.prod(sizes(found[0])))
    # The real part of what arrives is the factor, the imaginary part the factor times the number.
    arrived = carry(value, found[0], 1 + 1j * np.arange(count), sums=False)
    factor = float(arrived.real.flat[0]) if arrived.size else 0.0
    if factor == 0 or np.ptp(arrived.real) > EXACT * abs(factor):
        raise Refusal(f"{value.name} is padded, or scaled by more than one factor")
    entries = np.rint(arrived.imag / factor).astype(np.int64)
    return Origin(found[0], entries, factor)


def carry(value: ir.Value, source: ir.Value, numbers: Numbers, *, sums: bool) -> Numbers:
    """What `value` is when `source` holds `numbers`, and everything else that it is added to is zero.

    Raises:
        Refusal: the evaluator cannot compute it, or something on the way depends on more than sizes.
    """
    held = {source: numbers.reshape(sizes(source))}
    chain = list(_chain(value, source, sums=sums))
    last_use = {operand: node for node in chain for operand in operands(node)}
    for node in chain:
        passed = carried(node, sums=sums) or []
        feeds = {
            operand.name or "": _fed(operand, held, numbers.dtype, operand in passed) for operand in operands(node)
        }
        held.update(zip(node.outputs, _run(node, feeds), strict=True))
        for operand in operands(node):
            if last_use[operand] is node:
                held.pop(operand, None)  # a tensor of all logits is large
    return held[value]


def _chain(value: ir.Value, source: ir.Value, *, sums: bool) -> Iterator[ir.Node]:
    """The nodes between `source` and `value`, each after those that it needs; without those that lead elsewhere."""
    leads: dict[ir.Value, bool] = {source: True}
    waiting = [value]
    while waiting:
        current = waiting[-1]
        node = current.producer()
        before = carried(node, sums=sums) if current not in leads else None
        pending = [each for each in before or [] if each not in leads]
        if pending:
            waiting += pending
            continue
        waiting.pop()
        if current not in leads:
            leads[current] = any(leads[each] for each in before or [])
            if leads[current] and node is not None:
                leads.update(dict.fromkeys(node.outputs, True))
                yield node


def _fed(operand: ir.Value, held: dict[ir.Value, Numbers], dtype: np.dtype[Any], is_data: bool) -> Numbers:
    if operand in held:
        return held[operand]
    if operand.const_value is not None and not operand.is_graph_input():
        given = operand.const_value.numpy()
        return given if given.dtype.kind in "iub" else given.astype(dtype)
    if not is_data:
        raise Refusal(f"{operand.name} is computed, but not from sizes")
    return np.zeros(sizes(operand), dtype)


def _run(node: ir.Node, feeds: dict[str, Numbers]) -> list[Numbers]:
    assert node.graph is not None
    inputs, outputs = ([onnx.ValueInfoProto(name=name) for name in names]
                       for names in (feeds, [value.name for value in node.outputs]))  # fmt: skip
    graph = onnx.GraphProto(name=node.op_type, node=[ir.serde.serialize_node(node)], input=inputs, output=outputs)
    try:
        computed = ReferenceEvaluator(graph, opsets=dict(node.graph.opset_imports)).run(None, feeds)
    # The evaluator raises whatever its parts raise: there is no common base.
    except Exception as error:
        raise Refusal(f"{node.op_type} {node.name} cannot be tried out: {first_line(error)}") from error
    return [np.asarray(array) for array in computed]


def _is_zero(value: ir.Value) -> bool:
    constant = value.const_value
    return constant is not None and not value.is_graph_input() and not constant.numpy().any()
