"""softmax(logits) of a graph at a fixed batch → the 2-D relative attention that it is, or the reason why it is none.

The logits of a head, over queries (h, w) and keys (i, j) of a map of H × W positions, must be

    c·q·k + a·q·r_height[i − h + H − 1] + b·q·r_width[j − w + W − 1]

with constant tables and factors, however they were brought into place (`aaexport.graph.rules.movement`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from aaexport.graph.rules.fixed_batch import sizes
from aaexport.graph.rules.movement import EXACT, Numbers, Origin, carry, origin, sources
from aaexport.graph.rules.rule import Refusal, attribute, operands, producer

PRODUCTS = ("MatMul", "Einsum", "Gemm")
TABLE_RANK = 2
MATRIX_RANKS = (3, 4)  # (B·Nh, rows, columns) or (B, Nh, rows, columns)
AXES = ("height", "width")
SOFTMAX_OVER_THE_LAST = 13  # the first opset in which that is its default
MAX_LOGITS = 2**28  # of all heads and images: 2 GiB while they are tried out


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
    they do not lie in one tensor head by head: then `value` itself is what to go on from.
    """

    value: ir.Value
    channels: Channels | None
    factor: float


@dataclass(frozen=True)
class SkewedAttention:
    """A relative attention, as it was found.

    Attributes:
        queries, keys, values: (…, N, dkh), (…, dkh, N), (…, N, dvh), N = height · width.
        height, width: of the map.
        heads, batch: at the fixed batch.
        scale: what the product of queries and keys (without their factors) is multiplied with.
        rel_height, rel_width: (2H − 1, dkh), (2W − 1, dkh), for queries that are multiplied with `scale` already.
    """

    queries: Operand
    keys: Operand
    values: Operand
    height: int
    width: int
    heads: int
    batch: int
    scale: float
    rel_height: Numbers
    rel_width: Numbers


@dataclass(frozen=True)
class Term:
    """Relative logits, queries · tableᵀ · factor, by offsets along one of `axes`: a map of one row leaves it open."""

    axes: tuple[str, ...]
    table: Numbers
    factor: float

    @property
    def length(self) -> int:
        """L, of 2L − 1 offsets."""
        return (len(self.table) + 1) // 2


def is_sum_of_products(logits: ir.Value) -> bool:
    """Whether logits are of the kind that can be 2-D relative ones: q·k and two other products at least, added."""
    found = [value.producer() for value in sources(logits, sums=True)]
    return sum(node is not None and node.op_type in PRODUCTS for node in found) > len(AXES)


def recognised(weights: ir.Value, attended: ir.Value) -> SkewedAttention:
    """The attention whose softmax gives `weights` and whose product with the values is `attended`.

    Raises:
        Refusal: it is none, or one of a kind that is not known.
    """
    softmax = producer(weights)
    logits = operands(softmax)[0]
    content, relative = _products(logits)
    queries, keys = operands(producer(content))
    values = operands(producer(attended))[1]
    _require_matrices(softmax, content, queries, keys, values)
    factor = _content_factor(logits, content)
    of_queries = origin(queries)
    along_height, along_width = _axes(
        [_term(logits, product, of_queries) for product in relative], sizes(queries)[-2]
    )
    batch = sizes(of_queries.source)[0]
    q = _operand(queries, of_queries, batch)
    k = _operand(keys, _origin_if_any(keys), batch, transposed=True)
    v = _operand(values, _origin_if_any(values), batch)
    # The factors of the terms hold for queries as the graph has them, and so does that of q·k for queries and keys.
    content_factor = factor * k.factor
    return SkewedAttention(
        queries=q,
        keys=k,
        values=v if v.factor == 1 else Operand(values, None, 1.0),
        height=along_height.length,
        width=along_width.length,
        heads=int(np.prod(sizes(queries)[:-2])) // batch,
        batch=batch,
        scale=content_factor * q.factor,
        rel_height=along_height.table * (along_height.factor / content_factor),
        rel_width=along_width.table * (along_width.factor / content_factor),
    )


def _products(logits: ir.Value) -> tuple[ir.Value, list[ir.Value]]:
    """Of queries and keys, and of queries and tables."""
    found = sources(logits, sums=True)
    for value in found:
        node = value.producer()
        if node is None or node.op_type != "MatMul":
            raise Refusal(f"{value.name}, which is added to its logits, is no product of queries")
    relative = [value for value in found if _table(value) is not None]
    content = [value for value in found if value not in relative]
    for value in content:
        if len(sizes(operands(producer(value))[1])) == TABLE_RANK:
            raise Refusal("a table of embeddings is not a constant")
    if len(content) != 1:
        raise Refusal(f"{len(content)} of the products in its logits could be that of queries and keys")
    if len(relative) > len(AXES):
        raise Refusal(f"it has {len(relative)} kinds of relative logits")
    return content[0], relative


def _table(product: ir.Value) -> Numbers | None:
    """The constant matrix that something is multiplied with, one row an embedding."""
    right = operands(producer(product))[1]
    if right.const_value is None or right.is_graph_input() or len(sizes(right)) != TABLE_RANK:
        return None
    numbers: Numbers = right.const_value.numpy()
    return numbers.T


def _require_matrices(
    softmax: ir.Node, content: ir.Value, queries: ir.Value, keys: ir.Value, values: ir.Value
) -> None:
    logits = operands(softmax)[0]
    if _softmax_axis(softmax) not in (-1, len(sizes(logits)) - 1):
        raise Refusal("the softmax is not over the keys, the last axis of its logits")
    if len(sizes(queries)) not in MATRIX_RANKS or sizes(logits) != sizes(content):
        raise Refusal("queries, keys and values are not one matrix each a head and image")
    *groups, positions, depth = sizes(queries)
    expected = ([*groups, positions, depth], [*groups, depth, positions], [*groups, positions, sizes(values)[-1]])
    if [list(sizes(value)) for value in (queries, keys, values)] != list(expected):
        raise Refusal("queries, keys and values are not one matrix each a head and image")
    if np.prod(sizes(logits)) > MAX_LOGITS:
        raise Refusal(f"its {np.prod(sizes(logits))} logits are too many to be tried out; a smaller batch has fewer")


def _softmax_axis(softmax: ir.Node) -> int:
    assert softmax.graph is not None
    default = -1 if softmax.graph.opset_imports.get("", 0) >= SOFTMAX_OVER_THE_LAST else 1
    axis: int = attribute(softmax, "axis", default)
    return axis


def _content_factor(logits: ir.Value, content: ir.Value) -> float:
    """What q·k is multiplied with on its way to the logits, where it must stay in its place."""
    positions = sizes(content)[-1]
    numbers = np.arange(1.0, 1 + np.prod(sizes(content))).reshape(-1, positions, positions)
    arrived = carry(logits, content, numbers, sums=True).reshape(numbers.shape)
    factor = float(arrived[0, 0, 0])
    if factor == 0 or not all(_equal(*of_group, factor) for of_group in zip(arrived, numbers, strict=True)):
        raise Refusal("the product of queries and keys is moved, or changed, on its way to the logits")
    return factor


def _term(logits: ir.Value, product: ir.Value, queries: Origin) -> Term:
    """What a product with a table contributes to the logits; its factor holds for queries as the graph has them."""
    table = _table(product)
    assert table is not None
    offsets, positions = len(table), queries.entries.shape[-2]
    length = (offsets + 1) // 2
    if offsets % 2 == 0 or positions % length:
        raise Refusal(f"a table has {offsets} rows, which fits no map of {positions} positions")
    multiplied = origin(operands(producer(product))[0])
    rows = _rows_of_queries(multiplied, queries)
    numbers = np.arange(1.0, 1 + np.prod(sizes(product)))
    arrived = carry(logits, product, numbers, sums=True).reshape(-1, positions, positions)
    # The first query is at the first position, so that its offset to itself is L − 1, the number after it L.
    factor = float(arrived[0, 0, 0] / (rows[0, 0] * offsets + length))
    axes = tuple(axis for axis in AXES if _are_offsets(axis, arrived, rows, offsets, factor))
    if not axes or factor == 0:
        raise Refusal("its relative logits are not those of the offsets from query to key along an axis of the map")
    return Term(axes, table, factor * multiplied.factor / queries.factor)


def _are_offsets(axis: str, arrived: Numbers, rows: NDArray[np.int64], offsets: int, factor: float) -> bool:
    """Whether the logits of all heads are the wanted ones of `offsets`, by the number that each was given before."""
    wanted = _offsets(axis, (offsets + 1) // 2, rows.shape[-1]) + 1
    heads = zip(arrived, rows, strict=True)
    return all(_equal(logits, row[:, None] * offsets + wanted, factor) for logits, row in heads)


def _rows_of_queries(multiplied: Origin, queries: Origin) -> NDArray[np.int64]:
    """(B·Nh, N): which row of what is multiplied with a table holds the numbers of that query."""
    depth = queries.entries.shape[-1]
    wanted = queries.entries.reshape(-1, *queries.entries.shape[-2:])
    if multiplied.source is queries.source and multiplied.entries.shape[-1] == depth:
        found = multiplied.entries.reshape(-1, depth)
        row_of = np.full(int(np.prod(sizes(queries.source))), -1)
        row_of[found[:, 0]] = np.arange(len(found))
        rows: NDArray[np.int64] = row_of[wanted[..., 0]]
        if rows.min() >= 0 and (found[rows] == wanted).all():
            return rows
    raise Refusal("its relative logits are not of the queries that are multiplied with the keys")


def _offsets(axis: str, length: int, positions: int) -> NDArray[np.int64]:
    """(N, N): the row of the table for a query and a key, by their rows of the map, or by their columns."""
    position = np.arange(positions)
    along = position // (positions // length) if axis == "height" else position % length
    return along[None, :] - along[:, None] + length - 1


def _axes(terms: list[Term], positions: int) -> tuple[Term, Term]:
    """The one along the height and the one along the width."""
    pairs = [
        (along_height, along_width)
        for along_height, along_width in itertools.permutations(terms, 2)
        if "height" in along_height.axes and "width" in along_width.axes
    ]
    if not pairs:
        raise Refusal(f"its relative logits run along the {' or '.join(terms[0].axes)} only")
    for along_height, along_width in pairs:
        if along_height.length * along_width.length == positions:
            return along_height, along_width
    raise Refusal("its tables are those of two maps of different height and width")


def _origin_if_any(value: ir.Value) -> Origin | None:
    """Where keys or values come from, which need not be known."""
    try:
        return origin(value)
    except Refusal:
        return None


def _operand(value: ir.Value, found: Origin | None, batch: int, *, transposed: bool = False) -> Operand:
    """What it is in its source, if the heads lie there one after the other, as feature maps."""
    unknown = Operand(value, None, 1.0)
    if found is None:
        return unknown
    entries = found.entries.swapaxes(-2, -1) if transposed else found.entries
    positions, depth = entries.shape[-2:]
    images, *maps = sizes(found.source)
    if images != batch or len(maps) < 2 or np.prod(maps[1:]) != positions:
        return unknown
    heads, rest = divmod(entries.size, batch * positions * depth)
    if rest:
        return unknown
    start = int(entries.flat[0]) // positions
    image, head, position, number = np.ogrid[:batch, :heads, :positions, :depth]
    expected = ((image * maps[0] + start + head * depth + number) * positions) + position
    if not np.array_equal(entries.reshape(expected.shape), expected):
        return unknown
    return Operand(value, Channels(found.source, start, heads, depth), found.factor)


def _equal(arrived: Numbers, expected: Numbers, factor: float) -> bool:
    return bool((np.abs(arrived - expected * factor) <= EXACT * abs(factor)).all())
