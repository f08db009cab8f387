"""A relative attention that was found in a graph → operators that compute it faster, in blocks of queries.

They are those of `aaexport.nn.relative`, where the algebra is, with the tables as constants in the form that is used:

    fold     [s·q, rel_h, rel_w] · [k, onehot(row), onehot(column)]ᵀ
    table    s·q·k + rel_h + rel_w
    shift    s·q·(k + r_height) + rel_w, each row of queries with keys of its own
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.fixed_batch import sizes
from aaexport.graph.rules.layouts import AS_COLUMNS, AS_ROWS, IMAGE, Channels, Operand, Order, arrangement
from aaexport.graph.rules.movement import Numbers
from aaexport.graph.rules.rule import Builder
from aaexport.graph.rules.skewed_attention import SkewedAttention

if TYPE_CHECKING:
    from aaexport.nn.choice import Choice  # its package brings torch, which most files do not need

WRITTEN = "aaexport.attention"  # of a node's notes, which no file keeps: written here, and not to be found again
SIZES_AS_INPUT = 13  # the first opset in which Split has them so


@dataclass(frozen=True)
class Block:
    """The queries in some rows of the map, all of them or those in some columns: (first, one past the last)."""

    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def count(self) -> int:
        """How many queries."""
        return (self.rows[1] - self.rows[0]) * (self.columns[1] - self.columns[0])


def blocks_of_queries(height: int, width: int, blocks: int) -> list[Block]:
    """The map in at least so many blocks, in the order of positions: some whole rows each, or a part of one row."""
    largest = -(-height * width // blocks)
    rows = even_parts(height, max(largest // width, 1))
    columns = even_parts(width, min(largest, width))
    return [Block(*both) for both in itertools.product(rows, columns)]


def even_parts(total: int, largest: int) -> list[tuple[int, int]]:
    """`total` in parts that are no larger, as few as possible, and alike but for the last."""
    size = -(-total // -(-total // largest))
    return [(start, min(start + size, total)) for start in range(0, total, size)]


@dataclass
class AttentionWriter:
    """Writes one attention.

    Attributes:
        op: where operators are added.
        found: the attention.
        original: a value of the graph in which it was found → the same of the graph that is written.
        new_constant: makes an initializer.
        opset: the graph's.
    """

    op: Builder
    found: SkewedAttention
    original: Callable[[ir.Value], ir.Value]
    new_constant: Callable[[Numbers, str], ir.Value]
    opset: int
    _known: dict[tuple[int, ...], ir.Value] = field(default_factory=dict)

    def write(self, choice: Choice) -> ir.Value:
        """softmax(logits)·V in the shape and order that it had."""
        queries, keys, values = self._matrices()
        parts = blocks_of_queries(self.found.height, self.found.width, choice.blocks)
        form = {"fold": self._fold, "table": self._table, "shift": self._shift}[choice.decomposition]
        logits = form(queries, keys, parts)
        attended = [self.op.MatMul(self.op.Softmax(each, axis=-1), values) for each in logits]
        for each in attended:
            each.producer().meta[WRITTEN] = True
        out: ir.Value = attended[0] if len(attended) == 1 else self.op.Concat(*attended, axis=-2)
        if self.found.result_factor != 1:
            out = self.op.Mul(out, self._numbers(np.array(self.found.result_factor), "factor"))
        return self._as_it_was(out)

    # Queries, keys and values, one matrix a head and image: (B·Nh, rows, columns)

    def _matrices(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """s·q (B·Nh, N, dkh), k (B·Nh, dkh, N) and v (B·Nh, N, dvh)."""
        maps, positions = self._feature_maps(), self.found.height * self.found.width
        queries = self._matrix(self.found.queries, maps, AS_ROWS, (positions, self.found.dkh))
        keys = self._matrix(self.found.keys, maps, AS_COLUMNS, (self.found.dkh, positions))
        values = self._matrix(self.found.values, maps, AS_ROWS, (positions, self.found.dvh))
        if self.found.scale != 1:
            queries = self.op.Mul(queries, self._numbers(np.array(self.found.scale), "scale"))
        return queries, keys, values

    def _matrix(
        self, operand: Operand, maps: dict[Channels, ir.Value], wanted: Order, matrix: tuple[int, int]
    ) -> ir.Value:
        depth = matrix[0] if wanted == AS_COLUMNS else matrix[1]
        if operand.channels is not None:
            return self._moved(maps[operand.channels], None, AS_COLUMNS, wanted, depth, (-1, *matrix))
        given = sizes(operand.value)
        return self._moved(self.original(operand.value), given, operand.order, wanted, depth, (-1, *matrix))

    def _as_it_was(self, attended: ir.Value) -> ir.Value:
        """(B·Nh, N, dvh) → the result's own shape, −1 for the axis in which the images are."""
        order, shape = self.found.result_order, list(sizes(self.found.result))
        lengths = self._lengths(self.found.dvh)
        inner = math.prod(lengths[axis] for axis in order[order.index(IMAGE) + 1 :])
        images = next(axis for axis in range(len(shape)) if math.prod(shape[axis + 1 :]) <= inner)
        shape[images] = -1
        given = (self.found.batch * self.found.heads, self.found.height * self.found.width, self.found.dvh)
        return self._moved(attended, given, AS_ROWS, order, self.found.dvh, tuple(shape))

    def _lengths(self, depth: int) -> tuple[int, ...]:
        return (self.found.batch, self.found.heads, self.found.height, self.found.width, depth)

    def _moved(
        self,
        value: ir.Value,
        given: tuple[int, ...] | None,
        order: Order,
        wanted: Order,
        depth: int,
        shape: tuple[int, ...],
    ) -> ir.Value:
        """`value` of the sizes `given`, with axes in that order → the wanted order, in that shape."""
        way = arrangement(order, wanted, self._lengths(depth))
        if len(way.before) == 1:
            return self._shaped(value, given, shape)
        turned: ir.Value = self.op.Transpose(self._shaped(value, given, way.before), perm=list(way.permutation))
        return turned if way.after == shape else self._reshape(turned, *shape)

    def _shaped(self, value: ir.Value, given: tuple[int, ...] | None, shape: tuple[int, ...]) -> ir.Value:
        """Reshaped, if it is not of that shape already."""
        is_there = given is not None and len(given) == len(shape)
        if is_there and all(size in (-1, before) for size, before in zip(shape, given or (), strict=True)):
            return value
        return self._reshape(value, *shape)

    def _feature_maps(self) -> dict[Channels, ir.Value]:
        """The channels of each operand as a tensor of its own, by one Split where they are all that there is."""
        operands = (self.found.queries, self.found.keys, self.found.values)
        wanted = {operand.channels for operand in operands if operand.channels is not None}
        maps: dict[Channels, ir.Value] = {}
        for source in {channels.source for channels in wanted}:
            parts = sorted((each for each in wanted if each.source is source), key=lambda each: each.start)
            edges = [0, *(part.stop for part in parts)]
            if [part.start for part in parts] != edges[:-1] or edges[-1] != sizes(source)[1]:
                maps |= {part: self._slice(self.original(source), 1, part.start, part.stop) for part in parts}
            elif len(parts) == 1:
                maps[parts[0]] = self.original(source)
            else:
                maps |= zip(parts, self._split(source, [part.stop - part.start for part in parts]), strict=True)
        return maps

    def _split(self, source: ir.Value, channels: list[int]) -> list[ir.Value]:
        whole, count = self.original(source), len(channels)
        if self.opset >= SIZES_AS_INPUT:
            parts = self.op.Split(whole, self._integers(*channels), axis=1, _outputs=count)
        else:
            parts = self.op.Split(whole, axis=1, split=channels, _outputs=count)
        for part, size in zip(parts, channels, strict=True):
            part.type = whole.type
            part.shape = ir.Shape([None if whole.shape is None else whole.shape[0], size, *sizes(source)[2:]])
        return list(parts)

    # Logits, block by block

    def _fold(self, queries: ir.Value, keys: ir.Value, blocks: list[Block]) -> list[ir.Value]:
        height, width, positions = self.found.height, self.found.width, self.found.height * self.found.width
        maps = self._as_maps(queries)
        relative = (
            self._reshape(self._along_height(maps), -1, positions, height),
            self._reshape(self._along_width(maps), -1, positions, width),
        )
        queries = self.op.Concat(queries, *relative, axis=-1)
        deeper = self.op.Pad(keys, self._integers(0, 0, 0, 0, height + width, 0))
        onehots = _onehots(self.found.dkh, height, width)
        keys = self.op.Add(deeper, self._numbers(onehots, "onehots"))
        return [self.op.MatMul(self._part(queries, -2, each), keys) for each in _ends(blocks)]

    def _table(self, queries: ir.Value, keys: ir.Value, blocks: list[Block]) -> list[ir.Value]:
        height, width, positions = self.found.height, self.found.width, self.found.height * self.found.width
        maps = self._as_maps(queries)
        down = self._reshape(self._along_height(maps), -1, positions, height, 1)
        across = self._reshape(self._along_width(maps), -1, positions, 1, width)

        def logits(part: tuple[int, int]) -> ir.Value:
            content = self.op.MatMul(self._part(queries, -2, part), keys)
            total = self._reshape(content, -1, part[1] - part[0], height, width)
            for relative in (down, across):
                total = self.op.Add(total, self._part(relative, -3, part))
            return self._reshape(total, -1, part[1] - part[0], positions)

        return [logits(part) for part in _ends(blocks)]

    def _shift(self, queries: ir.Value, keys: ir.Value, blocks: list[Block]) -> list[ir.Value]:
        height, width = self.found.height, self.found.width
        positions, depth = height * width, self.found.dkh
        maps = self._as_maps(queries)
        keys = self._reshape(keys, -1, 1, depth, positions)
        # Repeated by the runtime rather than in the file, where the copies would be the largest part.
        by_row = self._numbers(_gathered(self.found.rel_height)[..., None], "rel_height")  # (H, dkh, H, 1)
        repeated = self.op.Expand(by_row, self._integers(height, depth, height, width))
        along_height = self._reshape(repeated, height, depth, positions)
        along_width = self._along_width(maps)

        def logits(block: Block) -> ir.Value:
            own_keys = self.op.Add(keys, self._part(along_height, 0, block.rows))
            content = self.op.MatMul(self._part_of_maps(maps, block), own_keys)  # (…, h, w, N)
            across = self._part_of_maps(along_width, block)
            total = self.op.Add(
                self._reshape(content, -1, block.count, height, width),
                self._reshape(across, -1, block.count, 1, width),
            )
            return self._reshape(total, -1, block.count, positions)

        return [logits(block) for block in blocks]

    def _as_maps(self, queries: ir.Value) -> ir.Value:
        """(…, N, dkh) → (…, H, W, dkh)."""
        return self._reshape(queries, -1, self.found.height, self.found.width, self.found.dkh)

    def _along_height(self, maps: ir.Value) -> ir.Value:
        """Relative logits (…, H, W, H), [h, w, i]."""
        result: ir.Value = self.op.MatMul(maps, self._numbers(_gathered(self.found.rel_height), "rel_height"))
        return result

    def _along_width(self, maps: ir.Value) -> ir.Value:
        """Relative logits (…, H, W, W), [h, w, j], out of those of all offsets without moving a number.

        In memory, the part that is wanted of column w begins one number earlier than that of the column before.
        """
        height, width = self.found.height, self.found.width
        by_offset: ir.Value = self.op.MatMul(
            maps, self._numbers(self.found.rel_width.T, "rel_width")
        )  # (…, H, W, 2W − 1)
        if width == 1:
            return by_offset
        flat = self._reshape(by_offset, -1, height, width * (2 * width - 1))
        flat = self._slice(flat, -1, width - 1, width - 1 + width * (2 * width - 2))
        shifted = self._reshape(flat, -1, height, width, 2 * width - 2)
        return self._slice(shifted, -1, 0, width)

    # Parts and constants

    def _part_of_maps(self, maps: ir.Value, block: Block) -> ir.Value:
        """(…, H, W, ·) → (…, h, w, ·)."""
        rows = self._part(maps, -3, block.rows, self.found.height)
        return self._part(rows, -2, block.columns, self.found.width)

    def _part(self, value: ir.Value, axis: int, part: tuple[int, int], total: int | None = None) -> ir.Value:
        """From the first to one past the last; nothing is done where that is the whole."""
        whole = self.found.height * self.found.width if total is None else total
        return value if part == (0, whole) else self._slice(value, axis, *part)

    def _slice(self, value: ir.Value, axis: int, start: int, stop: int) -> ir.Value:
        part: ir.Value = self.op.Slice(value, self._integers(start), self._integers(stop), self._integers(axis))
        return part

    def _reshape(self, value: ir.Value, *shape: int) -> ir.Value:
        reshaped: ir.Value = self.op.Reshape(value, self._integers(*shape))
        return reshaped

    def _integers(self, *integers: int) -> ir.Value:
        if integers not in self._known:
            name = "_".join(["sizes", *map(str, integers)])
            self._known[integers] = self.new_constant(np.array(integers, np.int64), name)
        return self._known[integers]

    def _numbers(self, numbers: Numbers, name: str) -> ir.Value:
        return self.new_constant(numbers.astype(self.found.rel_height.dtype), name)


def _ends(blocks: list[Block]) -> list[tuple[int, int]]:
    """Of each, the position of its first query, and one past its last."""
    return list(itertools.pairwise(itertools.accumulate((block.count for block in blocks), initial=0)))


def _gathered(embeddings: Numbers) -> Numbers:
    """T[a, :, b] = embeddings[b − a + L − 1]: (2L − 1, d) → (L, d, L)."""
    from aaexport.nn.index_maps import offsets  # brings torch, which most files do not need

    gathered: Numbers = embeddings[offsets(np.arange((len(embeddings) + 1) // 2))].swapaxes(1, 2)
    return gathered


def _onehots(depth: int, height: int, width: int) -> Numbers:
    """(depth + H + W, N): zeros, then 1 where a position lies in that row, or in that column, of the map."""
    from aaexport.nn.index_maps import is_row_or_column  # brings torch, which most files do not need

    number = np.arange(depth + height + width) - depth
    onehots: Numbers = is_row_or_column(number, np.arange(height * width), height, width).astype(float)
    return onehots
