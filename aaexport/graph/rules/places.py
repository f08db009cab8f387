"""The integer tensors of a graph → what they hold for any batch, as `grids` has it, by what computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.grids import (
    Grid,
    Held,
    Places,
    Size,
    Sizes,
    as_grid,
    as_vector,
    beside_each_other,
    broadcast,
    integers,
    of_constant,
)
from aaexport.graph.rules.movement import constant_numbers
from aaexport.graph.rules.rule import attribute

ENDLESS = 2**31 - 1  # an end of a Slice from here on is the end of any axis
DEEPEST = 100  # nodes in a row
INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)
COUNTED = (*INTEGERS, ir.DataType.BOOL, None)  # types of what is worked out; None is one that is not known
Cuts = dict[int, tuple[int, int | None]]


class IntegerTensors:
    """What is known of the tensors of one graph, worked out when it is asked for."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, Held | None] = {}
        self._depth = 0

    def sizes(self, value: ir.Value) -> tuple[Size, ...] | None:
        """The shape of a tensor of whatever numbers; None where a size has not even a name."""
        held = self.holds(value)
        if isinstance(held, Places):
            return (*held.grids[0].sizes, len(held.grids))
        if held is not None:
            return (len(held.entries),) if isinstance(held, Sizes) else held.sizes
        if value.shape is None:
            return None
        named = [size if isinstance(size, int) else size.value for size in value.shape]
        return None if None in named else tuple(size for size in named if size is not None)

    def vector(self, value: ir.Value | None) -> tuple[Size, ...] | None:
        """The numbers of a vector of sizes; None where one is not known."""
        return as_vector(self.holds(value))

    def grid(self, value: ir.Value | None) -> Grid | None:
        """The numbers of a tensor that are counted along an axis, or all the same."""
        return as_grid(self.holds(value))

    def holds(self, value: ir.Value | None) -> Held | None:
        """What `value` holds; None where it is not so simple."""
        if value is None:
            return None
        if value not in self._known:
            self._known[value] = None  # and stays so where the graph is too deep
            if self._depth < DEEPEST:
                self._depth += 1
                self._known[value] = self._worked_out(value)
                self._depth -= 1
        return self._known[value]

    def _worked_out(self, value: ir.Value) -> Held | None:
        numbers = constant_numbers(value)
        if numbers is not None:
            return of_constant(numbers)
        node = value.producer()
        if node is None or node.domain != "" or node.op_type not in _OPERATORS:
            return None
        if value.dtype not in COUNTED and node.op_type != "ConstantOfShape":
            return None
        return _OPERATORS[node.op_type](self, node)


def cuts(known: IntegerTensors, node: ir.Node) -> Cuts | None:
    """Axis → (first, one past the last, or None for the end of the axis) of a Slice; None where that is not known.

    Steps other than 1, and places that are counted from the end, are not.
    """
    data, *rest = node.inputs
    shape = None if data is None else known.sizes(data)
    starts, ends, axes, steps = (integers(known.vector(value)) for value in (*rest, None, None)[:4])
    if shape is None or starts is None or ends is None:
        return None
    if all(value is None for value in rest[2:3]):
        axes = list(range(len(starts)))
    is_plain = all(value is None for value in rest[3:4]) or steps == [1] * len(starts)
    if axes is None or not is_plain or min((*starts, *ends), default=0) < 0:
        return None
    return {
        axis % len(shape): (start, None if end >= ENDLESS else end)
        for axis, start, end in zip(axes, starts, ends, strict=True)
    }


# What each operator makes of what is known of its inputs.


def _shape(known: IntegerTensors, node: ir.Node) -> Held | None:
    of_what = node.inputs[0]
    found = None if of_what is None else known.sizes(of_what)
    return None if found is None else Sizes(found[attribute(node, "start", 0) : attribute(node, "end", None)])


def _same(known: IntegerTensors, node: ir.Node) -> Held | None:
    is_kept = node.op_type == "Identity" or attribute(node, "to", None) in INTEGERS
    return known.holds(node.inputs[0]) if is_kept else None


def _gather(known: IntegerTensors, node: ir.Node) -> Held | None:
    entries, numbers = known.vector(node.inputs[0]), constant_numbers(node.inputs[1])
    if entries is None or numbers is None or numbers.ndim > 1:
        return None
    if not all(-len(entries) <= number < len(entries) for number in numbers.flat):
        return None
    taken = tuple(entries[int(number)] for number in numbers.flat)
    return Sizes(taken) if numbers.ndim else Grid((), taken[0])


def _range(known: IntegerTensors, node: ir.Node) -> Held | None:
    scalars = [known.holds(value) for value in node.inputs]
    start, stop, step = (each.start if isinstance(each, Grid) and each.sizes == () else None for each in scalars)
    if step != 1 or not isinstance(start, int) or stop is None:
        return None
    if isinstance(stop, int):
        return Grid((max(stop - start, 0),), start, 0)
    return Grid((stop,), 0, 0) if start == 0 else None


def _slice(known: IntegerTensors, node: ir.Node) -> Held | None:
    cut = cuts(known, node)
    held = known.holds(node.inputs[0])
    if cut is None:
        return None
    for axis, (begin, end) in cut.items():
        if isinstance(held, Sizes):
            held = Sizes(held.entries[begin:end])
        elif isinstance(held, Grid):
            held = _cut(held, axis, begin, end)
    return None if isinstance(held, Places) else held


def _cut(grid: Grid, axis: int, begin: int, end: int | None) -> Grid | None:
    size: Size = grid.sizes[axis]
    if isinstance(size, int):
        size = max(min(size, ENDLESS if end is None else end) - begin, 0)
    elif begin or end is not None:
        return None
    start = grid.start
    if axis == grid.axis and isinstance(start, int):
        start += begin
    elif axis == grid.axis:
        return None
    return replace(grid, start=start, sizes=(*grid.sizes[:axis], size, *grid.sizes[axis + 1 :]))


def _unsqueeze(known: IntegerTensors, node: ir.Node) -> Held | None:
    grid, axes = known.grid(node.inputs[0]), _axes(known, node)
    if axes is None or grid is None:
        return None
    rank = len(grid.sizes) + len(axes)
    kept = [axis for axis in range(rank) if axis not in {new % rank for new in axes}]
    found: list[Size] = [1] * rank
    for axis, size in zip(kept, grid.sizes, strict=True):
        found[axis] = size
    if found == [1] and grid.start is not None:
        return Sizes((grid.start,))
    return Grid(tuple(found), grid.start, None if grid.axis is None else kept[grid.axis])


def _squeeze(known: IntegerTensors, node: ir.Node) -> Held | None:
    grid, axes = known.grid(node.inputs[0]), _axes(known, node)
    if axes is None or grid is None:
        return None
    gone = {axis % len(grid.sizes) for axis in axes}
    if any(grid.sizes[axis] != 1 for axis in gone):
        return None
    kept = [axis for axis in range(len(grid.sizes)) if axis not in gone]
    counted = kept.index(grid.axis) if grid.axis in kept else None
    return Grid(tuple(grid.sizes[axis] for axis in kept), grid.start, counted)


def _axes(known: IntegerTensors, node: ir.Node) -> Sequence[int] | None:
    """Where axes come or go: in the older opsets an attribute says so."""
    if len(node.inputs) > 1:
        return integers(known.vector(node.inputs[1]))
    found: Sequence[int] | None = attribute(node, "axes", None)
    return found


def _concat(known: IntegerTensors, node: ir.Node) -> Held | None:
    vectors = [known.vector(value) for value in node.inputs]
    if all(vector is not None for vector in vectors):
        return Sizes(tuple(entry for vector in vectors for entry in vector or ()))
    axis = attribute(node, "axis", 0)
    return beside_each_other([_column(known.holds(value), axis) for value in node.inputs])


def _column(held: Held | None, axis: int) -> Grid | None:
    """A grid (…, 1) without its last axis, along which it is put beside others."""
    if not isinstance(held, Grid) or not held.sizes or held.sizes[-1] != 1 or axis not in (-1, len(held.sizes) - 1):
        return None
    *sizes, _ = held.sizes
    return Grid(tuple(sizes), held.start, None if held.axis == len(sizes) else held.axis)


def _reshape(known: IntegerTensors, node: ir.Node) -> Held | None:
    """Axes of one number come and go; others stay in their order."""
    grid, wanted = known.grid(node.inputs[0]), known.vector(node.inputs[1])
    if grid is None or wanted is None:
        return None
    longer = [axis for axis, size in enumerate(grid.sizes) if size != 1]
    places = [axis for axis, size in enumerate(wanted) if size != 1]
    if len(places) != len(longer):
        return None
    found: list[Size] = [1] * len(wanted)
    for place, axis in zip(places, longer, strict=True):
        if wanted[place] not in (-1, grid.sizes[axis]):
            return None
        found[place] = grid.sizes[axis]
    counted = places[longer.index(grid.axis)] if grid.axis in longer else None
    return Grid(tuple(found), grid.start, counted)


def _expand(known: IntegerTensors, node: ir.Node) -> Held | None:
    grid, wanted = known.grid(node.inputs[0]), known.vector(node.inputs[1])
    together = None if grid is None or wanted is None else broadcast(grid.sizes, wanted)
    if grid is None or together is None:
        return None
    if grid.axis is None:
        return Grid(together, grid.start)
    axis = grid.axis + len(together) - len(grid.sizes)
    # A single number that was counted is one that is repeated.
    return Grid(together, grid.start, axis if together[axis] == grid.sizes[grid.axis] else None)


def _filled(known: IntegerTensors, node: ir.Node) -> Held | None:
    wanted, value = known.vector(node.inputs[0]), attribute(node, "value", None)
    number = 0 if value is None else value.numpy().item()
    return None if wanted is None else Grid(wanted, number if isinstance(number, int) else None)


ARITHMETIC: dict[str, Callable[..., np.ndarray]] = {"Add": np.add, "Mul": np.multiply, "Sub": np.subtract}


def _arithmetic(known: IntegerTensors, node: ir.Node) -> Held | None:
    """Of integers that are known it is computed; of others the sizes are."""
    compute = ARITHMETIC[node.op_type]
    one, other = (known.grid(value) for value in node.inputs)
    numbers = [integers(known.vector(value)) for value in node.inputs]
    if numbers[0] is not None and numbers[1] is not None and len(numbers[0]) == len(numbers[1]):
        return Sizes(tuple(int(number) for number in compute(*numbers)))
    together = None if one is None or other is None else broadcast(one.sizes, other.sizes)
    if one is None or other is None or together is None:
        return None
    if one.axis is None and other.axis is None and isinstance(one.start, int) and isinstance(other.start, int):
        return Grid(together, int(compute(one.start, other.start)))
    return Grid(together, None)


def _equal(known: IntegerTensors, node: ir.Node) -> Held | None:
    one, other = (known.vector(value) for value in node.inputs)
    if one is None or other is None or len(one) != len(other):
        return None
    answers = [_are_equal(a, b) for a, b in zip(one, other, strict=True)]
    return None if None in answers else Sizes(tuple(int(answer or 0) for answer in answers))


def _are_equal(one: Size, other: Size) -> bool | None:
    """None where that is not known; but a size is never below 0, whatever it is called."""
    if one == other or (isinstance(one, int) and isinstance(other, int)):
        return one == other
    number = one if isinstance(one, int) else other
    return False if isinstance(number, int) and number < 0 else None


def _where(known: IntegerTensors, node: ir.Node) -> Held | None:
    condition, one, other = (known.vector(value) for value in node.inputs)
    if condition is None or one is None or other is None or not len(condition) == len(one) == len(other):
        return None
    return Sizes(tuple(a if holds else b for holds, a, b in zip(condition, one, other, strict=True)))


_OPERATORS: dict[str, Callable[[IntegerTensors, ir.Node], Held | None]] = {
    "Add": _arithmetic, "Cast": _same, "Concat": _concat, "ConstantOfShape": _filled, "Equal": _equal,
    "Expand": _expand, "Gather": _gather, "Identity": _same, "Mul": _arithmetic, "Range": _range,
    "Reshape": _reshape, "Shape": _shape, "Slice": _slice, "Squeeze": _squeeze, "Sub": _arithmetic,
    "Unsqueeze": _unsqueeze, "Where": _where,
}  # fmt: skip
