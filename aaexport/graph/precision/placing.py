"""Graph and ranges → which tensors are to be in 8 bits, and on which grid.

Every chosen convolution reads and writes 8 bits, and no tensor is rounded more often than need be:

- A clamp that a tensor passes before it is quantized (Relu, or Clip to constants) vanishes where the grid holds no
  number that it does not let through: what is beyond a grid takes its last number. So a runtime meets Conv and
  QuantizeLinear, which it makes one. Symmetric grids go below 0, and there the Relu stays.
- What only moves numbers (MaxPool, Concat, Reshape, …) has one grid on both sides where both are quantized. Then
  quantizing its result changes nothing, and runtimes move 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from aaexport.graph.check import STANDARD_DOMAINS
from aaexport.graph.precision.ranges import Range, Ranges
from aaexport.graph.precision.scales import Grid, grid_for
from aaexport.graph.precision.values import is_constant, is_float32
from aaexport.graph.rules.rule import sole_user

MOVING = frozenset({
    "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
ROUNDING = 1e-6  # of a grid's last number, against the bound of a clamp


@dataclass(frozen=True)
class Spot:
    """A tensor that is to be in 8 bits.

    Attributes:
        value: whose readers get what the grid holds.
        source: what is quantized: the same, or what goes into the clamp behind which `value` is.
        grid: that it is quantized on.
    """

    value: ir.Value
    source: ir.Value
    grid: Grid


def why_not(node: ir.Node) -> str | None:
    """Why a convolution cannot be in 8 bits; None if it can."""
    image, weight, *bias = [*node.inputs, None][:3]
    if not is_float32(image) or not is_float32(weight):
        return "it does not compute in float32"
    if is_constant(image):
        return "what it reads is a constant"
    if not is_constant(weight):
        return "its weight is computed, or an input"
    if any(value is not None and not is_constant(value) for value in bias):
        return "its bias is computed, or an input"
    return None


def tensors_around(node: ir.Node) -> list[ir.Value]:
    """Those whose ranges `spots_for` may want for a convolution: its input, its output, and that behind clamps."""
    assert node.inputs[0] is not None
    found = [node.inputs[0], node.outputs[0]]
    while (clamp := _clamp_behind(found[-1])) is not None:
        found.append(clamp.outputs[0])
    return found


def spots_for(nodes: Sequence[ir.Node], ranges: Ranges, *, symmetric: bool) -> list[Spot]:
    """The tensors to quantize for these convolutions, each once, in the order in which the convolutions meet them."""
    own = _Grids(ranges, symmetric=symmetric)
    for node in nodes:
        assert node.inputs[0] is not None
        own.add(node.inputs[0])
        own.add(_written(node, own))
    for value in list(own):
        for other in _moved_from(value, own):
            own.join(value, other)
    return [Spot(value, own.source(value), own[value]) for value in own]


class _Grids:
    """Tensors → their grids; some have one in common."""

    def __init__(self, ranges: Ranges, *, symmetric: bool) -> None:
        self._ranges, self._symmetric = ranges, symmetric
        self._seen: dict[ir.Value, Range] = {}
        self._groups: dict[ir.Value, list[ir.Value]] = {}

    def __contains__(self, value: ir.Value) -> bool:
        return value in self._seen

    def __iter__(self) -> Iterator[ir.Value]:
        return iter(self._seen)

    def __getitem__(self, value: ir.Value) -> Grid:
        return self._grid(self._seen[value])

    def add(self, value: ir.Value) -> None:
        if value not in self._seen:
            self._seen[value] = self._ranges[value.name or ""]
            self._groups[value] = [value]

    def join(self, one: ir.Value, other: ir.Value) -> None:
        """One grid for both, and for all that share one with either; not where a clamp that vanishes forbids it."""
        if self._groups[one] is self._groups[other]:
            return
        members, both = [*self._groups[one], *self._groups[other]], self._seen[one].joined(self._seen[other])
        if all(self.source(member) is self.source(member, self._grid(both)) for member in members):
            for member in members:
                self._seen[member], self._groups[member] = both, members

    def source(self, value: ir.Value, grid: Grid | None = None) -> ir.Value:
        """What of the tensors before clamps is to be quantized, on this grid or on its own."""
        holds = (self[value] if grid is None else grid).range
        while True:
            clamp = value.producer()
            if clamp is None or not _lets_through(clamp, holds):
                return value
            before = clamp.inputs[0]
            if before is None or before in self._seen or sole_user(before) is not clamp:
                return value
            value = before

    def vanishes(self, clamp: ir.Node) -> bool:
        """Whether the clamp does nothing to what is quantized behind it."""
        seen = self._ranges.get(clamp.outputs[0].name or "")
        return seen is not None and _lets_through(clamp, self._grid(seen).range)

    def is_beside(self, node: ir.Node) -> bool:
        """Whether runtimes that want symmetric grids take the node for a part of the convolution before it."""
        return self._symmetric and node.op_type == "Relu"

    def _grid(self, seen: Range) -> Grid:
        return grid_for(seen, symmetric=self._symmetric)


def _written(node: ir.Node, grids: _Grids) -> ir.Value:
    """What of a convolution is to be quantized: its output, or what is behind the clamps that vanish."""
    value = node.outputs[0]
    while (clamp := _clamp_behind(value)) is not None and (grids.vanishes(clamp) or grids.is_beside(clamp)):
        value = clamp.outputs[0]
    return value


def _clamp_behind(value: ir.Value) -> ir.Node | None:
    """The clamp that is all that reads `value`."""
    reader = sole_user(value)
    return reader if reader is not None and _bounds(reader) is not None else None


def _lets_through(clamp: ir.Node, held: Range) -> bool:
    """Whether it is a clamp that changes no number of the range."""
    bounds = _bounds(clamp)
    if bounds is None:
        return False
    rounding = ROUNDING * held.largest
    return bounds.low <= held.low + rounding and held.high - rounding <= bounds.high


def _bounds(node: ir.Node) -> Range | None:
    """What a clamp by constants lets through; None for any other node."""
    if node.domain not in STANDARD_DOMAINS:
        return None
    if node.op_type == "Relu":
        return Range(0.0, math.inf)
    if node.op_type != "Clip":
        return None
    limits = [-math.inf, math.inf]
    for place, value in enumerate(node.inputs[1:3]):
        if value is not None and not is_constant(value):
            return None
        if value is not None and value.const_value is not None:
            limits[place] = float(value.const_value.numpy())
    return Range(*limits)


def _moved_from(value: ir.Value, quantized: _Grids) -> Iterator[ir.Value]:
    """The quantized tensors of which all numbers of `value` are, so far as it is moved from any."""
    node = value.producer()
    if node is None or node.domain not in STANDARD_DOMAINS:
        return
    moved = node.inputs if node.op_type == "Concat" else node.inputs[:1] if node.op_type in MOVING else ()
    for each in moved:
        if each is None:
            continue
        if each in quantized:
            yield each
        else:
            yield from _moved_from(each, quantized)
