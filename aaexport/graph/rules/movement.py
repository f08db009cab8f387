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
Entries = NDArray[np.signedinteger[Any]]  # of a tensor, by place in memory
FROM_ONE = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Neg", "Expand", "Tile", "Slice", "Pad",
            "Split", "Gather", "GatherElements", "GatherND", "DepthToSpace", "SpaceToDepth"}  # fmt: skip
ADDITIONS = ("Add", "Sub", "Sum")
TRAINING_AS_INPUT = 12  # the first opset in which Dropout can be told that it is training
MAX_NODES = 400  # of one chain, far above those of an attention
EXACT = 1e-6  # the numbers that are carried along are integers times a factor


def carried(node: ir.Node | None, *, sums: bool) -> list[ir.Value] | None:
    """The operands whose numbers `node` passes on, perhaps times a constant; None for a node that does more.

    With `sums`, an addition passes on its terms. Zeros that are added, or that a Concat pads with, are no operand.
    """
    if node is None or node.domain != "":
        return None
    given = operands(node)
    if node.op_type in FROM_ONE or is_idle(node) or is_transposition(node):
        return given[:1]
    if node.op_type == "Concat":
        return _not_zero(given)
    if node.op_type in ADDITIONS:
        terms = _not_zero(given)
        return terms if sums or len(terms) == 1 else None
    if node.op_type == "Where":
        return _chosen(*given)
    if node.op_type == "ScatterND" and attribute(node, "reduction", "none") == "none":
        return [given[0], given[2]]
    if node.op_type == "Mul":
        varied = [value for value in given if not is_uniform(value)]
        return varied if len(varied) < len(given) and varied else None
    if node.op_type == "Div" and is_uniform(given[1]):
        return given[:1]
    return None


def is_idle(node: ir.Node) -> bool:
    """Whether it passes its first operand on as it is: an Identity, a cast to the same type, a dropout of nothing."""
    given = operands(node)
    if node.op_type == "Dropout":
        assert node.graph is not None
        ratio, training = (*node.inputs, None, None)[1:3]
        is_told = node.graph.opset_imports.get("", 0) >= TRAINING_AS_INPUT and training is not None
        return not is_told or _is_zero(training) or _is_zero(ratio)
    if node.op_type in ("Cast", "CastLike"):
        return given[0].dtype is not None and given[0].dtype == node.outputs[0].dtype
    return node.op_type == "Identity"


def is_transposition(node: ir.Node) -> bool:
    """Whether it is an Einsum of one operand that only reorders its axes."""
    before, arrow, after = attribute(node, "equation", "").replace(" ", "").partition("->")
    is_whole = bool(arrow) and before.isalpha() and len(set(before)) == len(before)
    return node.op_type == "Einsum" and is_whole and sorted(before) == sorted(after)


def constant_numbers(value: ir.Value | None) -> Numbers | None:
    """Those of a constant, be it an initializer or a node; None for what is computed, or given from outside."""
    found = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
    return None if found is None else found.numpy()


def is_uniform(value: ir.Value) -> bool:
    """Whether it is a constant of one number, or of the same number everywhere."""
    numbers = constant_numbers(value)
    return numbers is not None and numbers.size > 0 and bool((numbers == numbers.flat[0]).all())


def _not_zero(given: list[ir.Value]) -> list[ir.Value]:
    return [value for value in given if not _is_zero(value)]


def _chosen(condition: ir.Value, where: ir.Value, elsewhere: ir.Value) -> list[ir.Value] | None:
    """The operand that a constant condition takes everywhere, as a mask of zeros does."""
    numbers = constant_numbers(condition) if is_uniform(condition) else None
    return None if numbers is None else [where if numbers.flat[0] else elsewhere]


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


def way(value: ir.Value, source: ir.Value) -> list[ir.Node]:
    """The nodes that bring `source` to `value`, in their order."""
    return list(_chain(value, source, sums=False))


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


@dataclass(frozen=True)
class Arrived:
    """value.flat[i] = factor · the number `which.flat[i]` of the source + what else is added to it."""

    which: Entries
    factor: float


def arrived(value: ir.Value, source: ir.Value, numbering: Entries, *, sums: bool) -> Arrived | None:
    """Which number of `source`, as `numbering` counts them from 0 on, arrives where in `value`; −1 is none of them.

    None where more or less than one arrives somewhere, or not always times the same factor.

    Two lots of numbers are carried along. The first tells who arrives; that it is one alone, and always times the
    same factor, is seen from the second, which is random, so that no two of its numbers average to a third.

    Raises:
        As `carry`.
    """
    count = numbering.size
    if value is source or count == 0:
        return Arrived(numbering, 1.0) if not (numbering < 0).any() else None
    drawn = np.random.default_rng(0).uniform(1, 2, count)
    counted = carry(value, source, numbering + 1.0, sums=sums)
    weighed = carry(value, source, np.where(numbering < 0, 0.0, drawn[numbering]), sums=sums)
    if not weighed.flat[0] or not counted.flat[0]:
        return None
    # Whose quotient is that of the first to arrive is the first to arrive. A tensor of all logits is large: in place.
    quotients = np.arange(1.0, 1 + count)
    quotients /= drawn
    quotients -= counted.flat[0] / weighed.flat[0]
    factor = float(weighed.flat[0] / drawn[np.abs(quotients, out=quotients).argmin()])
    del quotients
    which = np.rint(counted / factor)
    which -= 1
    if not (which.min() >= 0 and which.max() < count):
        return None
    entries = which.astype(_integers(count))
    del counted, which
    weighed -= factor * drawn[entries]
    is_it = bool((np.abs(weighed, out=weighed) <= EXACT * abs(factor)).all())
    return Arrived(entries, factor) if is_it else None


def numbered(count: int) -> Entries:
    """0, 1, …, count − 1, each in as many bytes as it takes."""
    return np.arange(count, dtype=_integers(count))


def _integers(count: int) -> type[np.signedinteger[Any]]:
    return np.int32 if count < np.iinfo(np.int32).max else np.int64


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
        ran = [feeds[operands(node)[0].name or ""]] if is_idle(node) else _run(node, feeds)
        held.update(zip(node.outputs, ran, strict=False))  # nobody has asked for an idle node's other outputs
        for operand in operands(node):
            if last_use[operand] is node:
                held.pop(operand, None)  # a tensor of all logits is large
    if value not in held:
        raise Refusal(f"{source.name} does not arrive at {value.name} by being moved alone")
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
    given = constant_numbers(operand)
    if given is not None:
        return given if given.dtype.kind in "iub" else given.astype(dtype)
    if not is_data:
        raise Refusal(f"{operand.name} is computed, but not from sizes")
    return np.zeros(sizes(operand), dtype)


def _run(node: ir.Node, feeds: dict[str, Numbers]) -> list[Numbers]:
    assert node.graph is not None
    if node.op_type == "GatherElements":
        data, indices = (feeds[value.name or ""] for value in operands(node))
        return [_gathered(data, indices, attribute(node, "axis", 0))]
    inputs, outputs = ([onnx.ValueInfoProto(name=name) for name in names]
                       for names in (feeds, [value.name for value in node.outputs]))  # fmt: skip
    graph = onnx.GraphProto(name=node.op_type, node=[ir.serde.serialize_node(node)], input=inputs, output=outputs)
    try:
        computed = ReferenceEvaluator(graph, opsets=dict(node.graph.opset_imports)).run(None, feeds)
    # The evaluator raises whatever its parts raise: there is no common base.
    except Exception as error:
        raise Refusal(f"{node.op_type} {node.name} cannot be tried out: {first_line(error)}") from error
    return [np.asarray(array) for array in computed]


def _gathered(data: Numbers, indices: Numbers, axis: int) -> Numbers:
    """GatherElements; onnx's evaluator counts no axis from the end, and has no more than 64 numbers along it."""
    axis %= data.ndim
    kept = tuple(slice(None) if place == axis else slice(size) for place, size in enumerate(indices.shape))
    return np.take_along_axis(data[kept], indices, axis)


def _is_zero(value: ir.Value | None) -> bool:
    numbers = constant_numbers(value)
    return numbers is not None and not numbers.any()
