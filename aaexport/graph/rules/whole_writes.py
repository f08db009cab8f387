"""Scatter(x, all of x's places, y) → y; a part of Scatter(x, places, y) → the same part of y, or of x.

So a write in place comes out of an exporter: `q *= s` of a part of a split is a new tensor, in which a Shape, a
Gather and a Range tell ScatterND where to put the product, and which is split again. A part that is read of it was
either written, all of it, and then it is what was written; or not touched, and then it is what was there before.

The places are known for any batch, or the write is left alone; and so is a tensor that is written in part and read as
a whole. An Expand or a Reshape to the sizes that a tensor has already, or had before another Reshape, is the tensor:
the older exporter puts them around what is written (`IdleSizes`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.grids import Grid, Size, as_places
from aaexport.graph.rules.movement import constant_numbers
from aaexport.graph.rules.places import IntegerTensors, cuts
from aaexport.graph.rules.rule import Builder, GraphRule, Refusal, attribute, like, operands, producer

WRITES = ("ScatterND", "ScatterElements")
READS = ("Slice", "Gather")
IDLE = ("Expand", "Reshape")
Span = tuple[int, int]  # first, and one past the last


@dataclass(frozen=True)
class Write:
    """A tensor that is as `before`, but for a block of places, which hold `written`.

    `spans` has the axes along which the block is not the whole tensor.
    """

    before: ir.Value
    written: ir.Value
    spans: dict[int, tuple[int, Size]]  # axis → first, how many


@dataclass(frozen=True)
class View:
    """A tensor that was written into along one axis, as its reader has it: its axes may have been transposed."""

    write: Write
    order: tuple[int, ...] | None
    axis: int
    span: Span


class WholeWrites(GraphRule):
    """Writes that cover all that is read → what was written."""

    title = "writes that cover a whole tensor"

    def begin(self, model: ir.Model) -> None:
        """Integers are worked out once for a whole pass, and only if they are asked for."""
        super().begin(model)
        self._known = IntegerTensors()
        self._views: dict[ir.Node, View | None] = {}
        splits = {len(node.outputs) for node in model.graph if node.op_type == "Split"}
        self._splits = sorted(splits) if any(node.op_type in WRITES for node in model.graph) else []

    def pattern(self, op: Builder) -> Any:
        """What writes."""
        return _one("ScatterND")(op)

    def patterns(self) -> tuple[Callable[..., Any], ...]:
        """What writes, and what reads a part."""
        single = (_one(operator) for operator in (*WRITES, *READS))
        return (*single, *(_split(count) for count in self._splits))

    def is_candidate(self, **results: ir.Value) -> bool:
        """Every write; of the others those that this is about."""
        node = _node(results)
        return node.op_type in WRITES or self._view(node) is not None

    def require(self, **results: ir.Value) -> None:
        """The write covers the whole, or the part."""
        node = _node(results)
        if node.op_type in WRITES and self._write(node).spans:
            raise Refusal("only a part of the tensor is written, and more than that is read")
        if node.op_type not in WRITES:
            self._reads(node)

    def rewrite(self, op: Builder, **results: ir.Value) -> Any:
        """Whoever read the results reads what they are instead."""
        node = _node(results)
        values = [self._write(node).written] if node.op_type in WRITES else self._parts(op, node)
        return _read_instead(op, node, values)

    # Writes

    def _write(self, node: ir.Node) -> Write:
        """Where a node writes. Refusal if that is not a block of places that is known for any batch."""
        before, places, written = operands(node)
        if attribute(node, "reduction", "none") != "none":
            raise Refusal("what is written is put together with what is there")
        sizes = self._known.sizes(before)
        if sizes is None:
            raise Refusal("the sizes of the tensor are not known")
        spans = self._spans(places, sizes) if node.op_type == "ScatterND" else self._along(node, places, sizes)
        if spans is None:
            raise Refusal("the places that are written are not known to be a block before the model runs")
        return Write(before, written, {a: span for a, span in spans.items() if span != (0, sizes[a])})

    def _spans(self, places: ir.Value, sizes: tuple[Size, ...]) -> dict[int, tuple[int, Size]] | None:
        """ScatterND's: along the first axes, one for each number of a place; the others are written whole."""
        found = as_places(self._known.holds(places))
        if found is None or len(found.grids) != len(found.grids[0].sizes) or len(found.grids) > len(sizes):
            return None
        spans = [_span(grid, axis) for axis, grid in enumerate(found.grids)]
        return None if None in spans else {axis: span for axis, span in enumerate(spans) if span is not None}

    def _along(self, node: ir.Node, places: ir.Value, sizes: tuple[Size, ...]) -> dict[int, tuple[int, Size]] | None:
        """ScatterElements': along its axis; along the others as far as there are places."""
        grid, axis = self._known.grid(places), attribute(node, "axis", 0) % len(sizes)
        span = None if grid is None else _span(grid, axis)
        if grid is None or span is None:
            return None
        return {each: span if each == axis else (0, size) for each, size in enumerate(grid.sizes)}

    # Reads

    def _view(self, node: ir.Node) -> View | None:
        """What a node reads a part of, if that was written in part along one axis."""
        if node not in self._views:
            self._views[node] = self._seen(operands(node)[0])
        return self._views[node]

    def _seen(self, value: ir.Value) -> View | None:
        order = None
        node = _behind_identities(value).producer()
        if node is not None and node.op_type == "Transpose":
            order = tuple(attribute(node, "perm", ()))
            node = _behind_identities(operands(node)[0]).producer()
        if node is None or node.op_type not in WRITES or order == ():
            return None
        try:
            write = self._write(node)
        except Refusal:
            return None
        if len(write.spans) != 1:
            return None
        ((axis, (start, size)),) = write.spans.items()
        if not isinstance(size, int):
            return None
        return View(write, order, axis if order is None else order.index(axis), (start, start + size))

    def _reads(self, node: ir.Node) -> list[Span]:
        """What each output holds along the axis of the write. Refusal unless that was written, or was not touched."""
        view = self._view(node)
        assert view is not None
        spans = self._spans_of_reads(node, view)
        begin, end = view.span
        for first, last in spans:
            if first >= last or not (last <= begin or first >= end or begin <= first < last <= end):
                raise Refusal("a part that is read was written in part")
        return spans

    def _spans_of_reads(self, node: ir.Node, view: View) -> list[Span]:
        sizes = self._known.sizes(operands(node)[0])
        size = None if sizes is None else sizes[view.axis]
        if node.op_type == "Slice":
            first, last = (cuts(self._known, node) or {}).get(view.axis, (0, None))
            if last is None and not isinstance(size, int):
                raise Refusal("the sizes of a part that is read are not known")
            return [(first, min(each for each in (last, size) if isinstance(each, int)))]
        is_along = sizes is not None and attribute(node, "axis", 0) % len(sizes) == view.axis
        if not is_along:
            raise Refusal("a part that is read was written in part")
        if node.op_type == "Gather":
            which = constant_numbers(operands(node)[1])
            if which is None or not which.size or which.min() < 0:
                raise Refusal("a part that is read is not known before the model runs")
            return [(int(which.min()), int(which.max()) + 1)]
        shapes = [self._known.sizes(part) for part in node.outputs]
        lengths = [shape[view.axis] if shape is not None else None for shape in shapes]
        if not all(isinstance(length, int) for length in lengths):
            raise Refusal("the sizes of a part that is read are not known")
        ends = np.cumsum([0, *lengths])
        return [(int(first), int(last)) for first, last in pairwise(ends)]

    def _parts(self, op: Builder, node: ir.Node) -> list[ir.Value]:
        """What each output of a reading node is, read off what was written, or off what was there before."""
        view = self._view(node)
        assert view is not None
        spans = self._reads(node)
        begin, end = view.span
        untouched = [last <= begin or first >= end for first, last in spans]
        before = self._read_again(op, node, view) if any(untouched) else []
        written = None if all(untouched) else _transposed(op, view.write.written, view.order)
        parts = []
        for number, (first, last) in enumerate(spans):
            if untouched[number]:
                parts.append(before[number])
                continue
            assert written is not None
            parts.append(self._part(op, node, view, written, (first - begin, last - begin)))
        return parts

    def _read_again(self, op: Builder, node: ir.Node, view: View) -> list[ir.Value]:
        """The outputs of a node that reads what was there before; of one that is there already, if there is one."""
        before = _transposed(op, view.write.before, view.order)
        others = [use.node for use in before.uses() if use.idx == 0 and use.node is not node]
        for other in others:
            if self._is_same_split(node, other) and _comes_first(other, node):
                return list(other.outputs)
        again = getattr(op, node.op_type)(before, *node.inputs[1:], **node.attributes, _outputs=len(node.outputs))
        outputs = [again] if len(node.outputs) == 1 else list(again)
        return [like(new, old) for new, old in zip(outputs, node.outputs, strict=True)]

    def _is_same_split(self, node: ir.Node, other: ir.Node) -> bool:
        if other.op_type != "Split" or node.op_type != "Split" or len(other.outputs) != len(node.outputs):
            return False
        sizes = [[self._known.sizes(part) for part in each.outputs] for each in (node, other)]
        return None not in sizes[0] and sizes[0] == sizes[1]

    def _part(self, op: Builder, node: ir.Node, view: View, written: ir.Value, span: Span) -> ir.Value:
        """The numbers `span` of what was written, along the axis of the write."""
        if node.op_type == "Gather":
            which = constant_numbers(operands(node)[1])
            assert which is not None
            moved = self._constant(op, which - view.span[0])
            return like(op.Gather(written, moved, **node.attributes), node.outputs[0])
        whole = (0, view.span[1] - view.span[0])
        found = cuts(self._known, node) or {} if node.op_type == "Slice" else {}
        ranges = {axis: cut for axis, cut in found.items() if axis != view.axis}
        if span != whole:
            ranges[view.axis] = span
        if not ranges:
            return written
        axes = sorted(ranges)
        starts = [ranges[axis][0] for axis in axes]
        ends = [np.iinfo(np.int64).max if ranges[axis][1] is None else ranges[axis][1] for axis in axes]
        bounds = (self._constant(op, np.array(numbers, np.int64)) for numbers in (starts, ends, axes))
        part: ir.Value = op.Slice(written, *bounds)
        old = node.outputs[0] if node.op_type == "Slice" else None
        return part if old is None else like(part, old)

    def _constant(self, op: Builder, numbers: Any) -> ir.Value:
        return self.new_constant(op, numbers, "part_of_a_write")


class IdleSizes(GraphRule):
    """Expand and Reshape that give a tensor the sizes that it has already → the tensor."""

    title = "sizes that a tensor has already"

    def begin(self, model: ir.Model) -> None:
        """Integers are worked out once for a whole pass, and only if they are asked for."""
        super().begin(model)
        self._known = IntegerTensors()

    def pattern(self, op: Builder) -> Any:
        """An Expand."""
        return _one("Expand")(op)

    def patterns(self) -> tuple[Callable[..., Any], ...]:
        """Those too that reshape."""
        return tuple(map(_one, IDLE))

    def is_candidate(self, **results: ir.Value) -> bool:
        """All that do nothing."""
        return self._is_idle(_node(results))

    def require(self, **results: ir.Value) -> None:
        """Nothing more."""

    def rewrite(self, op: Builder, **results: ir.Value) -> Any:
        """Whoever read the result reads the tensor."""
        node = _node(results)
        return _read_instead(op, node, [_as_it_was(node)])

    def _is_idle(self, node: ir.Node) -> bool:
        """Whether a node gives a tensor the sizes that it has, or had before it was reshaped to others."""
        sizes, wanted = self._known.sizes(_as_it_was(node)), self._known.vector(operands(node)[1])
        if not sizes or wanted is None or 0 in wanted:
            return False
        if node.op_type == "Expand":
            rest = sizes[max(len(sizes) - len(wanted), 0) :]
            return len(wanted) <= len(sizes) and all(s in (own, 1) for s, own in zip(wanted, rest, strict=True))
        fits = len(wanted) == len(sizes) and wanted.count(-1) <= 1
        return fits and all(size in (own, -1) for size, own in zip(wanted, sizes, strict=True))


def _read_instead(op: Builder, node: ir.Node, values: list[ir.Value]) -> Any:
    """Whoever read the results of `node` reads `values`; what is left is for the user of the model, if anybody."""
    for old, new in zip(node.outputs, values, strict=True):
        for use in tuple(old.uses()):
            use.node.replace_input_with(use.idx, new)
    named = [like(op.Identity(new), old) for old, new in zip(node.outputs, values, strict=True)]
    return named[0] if len(named) == 1 else named


def _one(operator: str) -> Callable[..., Any]:
    """The pattern of a node with one output."""

    def pattern(op: Builder) -> Any:
        return getattr(op, operator)(_allow_other_inputs=True, _allow_other_attributes=True, _outputs=["result"])

    return pattern


def _split(count: int) -> Callable[..., Any]:
    """The pattern of a Split into so many parts."""

    def pattern(op: Builder) -> Any:
        names = [f"part_{number}" for number in range(count)]
        return op.Split(_allow_other_inputs=True, _allow_other_attributes=True, _outputs=names)

    return pattern


def _node(results: dict[str, ir.Value]) -> ir.Node:
    return producer(next(iter(results.values())))


def _span(grid: Grid, axis: int) -> tuple[int, Size] | None:
    """From where on, and how many places a grid counts along that axis; None if it does something else."""
    size = grid.sizes[axis] if axis < len(grid.sizes) else None
    is_counted = grid.axis == axis or (grid.axis is None and size == 1)
    if size is None or not is_counted or not isinstance(grid.start, int) or grid.start < 0:
        return None
    return grid.start, size


def _as_it_was(node: ir.Node) -> ir.Value:
    """What a node expands, or reshapes: before it was reshaped to other sizes, if it was."""
    value = _behind_identities(operands(node)[0])
    before = value.producer()
    if node.op_type == "Reshape" and before is not None and before.op_type == "Reshape":
        return _as_it_was(before)
    return value


def _behind_identities(value: ir.Value) -> ir.Value:
    while (node := value.producer()) is not None and node.op_type == "Identity":
        value = operands(node)[0]
    return value


def _transposed(op: Builder, value: ir.Value, order: tuple[int, ...] | None) -> ir.Value:
    """As a Transpose would have it; what was transposed to be so before is itself again."""
    if order is None:
        return value
    node = _behind_identities(value).producer()
    if node is not None and node.op_type == "Transpose":
        before = attribute(node, "perm", ())
        if before and all(before[axis] == place for place, axis in enumerate(order)):
            return operands(node)[0]
    turned: ir.Value = op.Transpose(value, perm=list(order))
    if value.shape is not None:
        turned.shape = ir.Shape([value.shape[axis] for axis in order])
    turned.type = value.type
    return turned


def _comes_first(one: ir.Node, other: ir.Node) -> bool:
    """Whether a node stands before another in their graph."""
    if one.graph is not other.graph or one.graph is None:
        return False
    return next(node for node in one.graph if node is one or node is other) is one
