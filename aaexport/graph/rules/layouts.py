"""Where queries, keys or values (B, Nh, H, W, d) lie in a tensor → the order in which it holds those axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.fixed_batch import sizes
from aaexport.graph.rules.movement import Entries, Origin
from aaexport.graph.rules.rule import Refusal

IMAGE, HEAD, ROW, COLUMN, DEPTH = range(5)
Order = tuple[int, ...]  # of these axes, from the outermost in memory to the innermost
AS_ROWS: Order = (IMAGE, HEAD, ROW, COLUMN, DEPTH)  # (B, Nh, N, d)
AS_COLUMNS: Order = (IMAGE, HEAD, DEPTH, ROW, COLUMN)  # (B, Nh, d, N), and feature maps (B, Nh · d, H, W)


@dataclass(frozen=True)
class Channels:
    """Where the numbers of all heads lie: in the channels `start` to `stop` of feature maps, head by head."""

    source: ir.Value
    start: int
    heads: int
    depth: int

    @property
    def stop(self) -> int:
        """The first channel after them."""
        return self.start + self.heads * self.depth


@dataclass(frozen=True)
class Operand:
    """Queries, keys or values: as the graph has them, and where they come from.

    `factor` is what the numbers in `channels` were multiplied with to be `value`; 1 where `channels` is None, because
    they do not lie in one tensor head by head: then `value` itself, its axes in that `order`, is what to go on from.
    """

    value: ir.Value
    order: Order
    channels: Channels | None
    factor: float


def operand(value: ir.Value, entries: Entries, came_from: Origin | None) -> Operand:
    """The operand whose numbers (B, Nh, H, W, d) are those `entries` of `value`.

    Raises:
        Refusal: they are neither channels of feature maps nor the whole of `value` in some order of axes.
    """
    order = memory_order(entries)
    found = None if came_from is None else _channels(came_from.source, came_from.entries.reshape(-1)[entries])
    if came_from is not None and found is not None:
        return Operand(value, order or AS_ROWS, found, came_from.factor)
    if order is None:
        raise Refusal("queries, keys and values are not one matrix each a head and image")
    return Operand(value, order, None, 1.0)


def memory_order(entries: Entries) -> Order | None:
    """In which order the axes of `entries` lie in a tensor that holds nothing else; None if in none."""
    strides = [int(entries.take(1, axis).flat[0] - entries.flat[0]) if entries.shape[axis] > 1 else 0
               for axis in range(entries.ndim)]  # fmt: skip
    order = tuple(sorted(range(entries.ndim), key=lambda axis: -strides[axis]))
    expected = np.arange(entries.size).reshape([entries.shape[axis] for axis in order])
    return order if np.array_equal(entries, expected.transpose(np.argsort(order))) else None


def _channels(source: ir.Value, entries: Entries) -> Channels | None:
    """The channels of feature maps that the entries are, if they are all of some, head by head."""
    images, heads, height, width, depth = entries.shape
    first, *maps = sizes(source)
    positions = height * width
    if first != images or len(maps) < 2 or math.prod(maps[1:]) != positions:
        return None
    start = int(entries.flat[0]) // positions
    image, head, position, number = np.ogrid[:images, :heads, :positions, :depth]
    expected = ((image * maps[0] + start + head * depth + number) * positions) + position
    if not np.array_equal(entries.reshape(expected.shape), expected):
        return None
    return Channels(source, start, heads, depth)


@dataclass(frozen=True)
class Arrangement:
    """How to get from one order of axes to another: as `before`, transposed by `permutation`, as `after`.

    In sizes, −1 is the axis in which the images are.
    """

    before: tuple[int, ...]
    permutation: tuple[int, ...]
    after: tuple[int, ...]


def arrangement(given: Order, wanted: Order, lengths: Sequence[int]) -> Arrangement:
    """From `given` to `wanted`, axes of those `lengths`, with as few axes as possible: what stays together is one."""
    there = [axis for axis in given if lengths[axis] != 1 or axis == IMAGE]
    place = {axis: number for number, axis in enumerate(axis for axis in wanted if axis in there)}
    parts: list[list[int]] = []
    for axis in there:
        if parts and place[axis] == place[parts[-1][-1]] + 1:
            parts[-1].append(axis)
        else:
            parts.append([axis])
    before = tuple(-1 if IMAGE in part else math.prod(lengths[axis] for axis in part) for part in parts)
    permutation = tuple(sorted(range(len(parts)), key=lambda number: place[parts[number][0]]))
    return Arrangement(before, permutation, tuple(before[number] for number in permutation))
