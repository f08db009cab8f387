"""Products with tables that are added to the logits → the offset from query to key that each of them goes by.

A table's row for the logits of query m and key k is known, whoever brought it there. If there are rows of a map, or
columns, y(m) and y(k), with

    row of the table = y(k) − y(m) + centre

for all m and k, the logits are relative ones along that axis, and the positions of queries and keys on it are known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.movement import Entries, Numbers, Origin, arrived, origin
from aaexport.graph.rules.products import Product
from aaexport.graph.rules.rule import Refusal

NO_OFFSETS = "its relative logits are not those of the offsets from query to key along an axis of the map"
OTHER_ROWS = "its tables have other rows for other heads, or for other rows of the map"
OF_OTHERS = "its relative logits are not of the queries that are multiplied with the keys"


@dataclass(frozen=True)
class Queries:
    """Of all softmaxes: `vectors` (G, M, S), which numbers of `source` each is, times `factor`."""

    source: ir.Value
    vectors: Entries
    factor: float


@dataclass(frozen=True)
class Axis:
    """Relative logits, queries · tableᵀ · factor, by offsets along an axis of the map.

    Attributes:
        queries, keys: where each of them is on the axis, from 0 on.
        table: (2L − 1, S), for the offsets 1 − L to L − 1.
        factor: holds for queries as the graph has them.
    """

    queries: Entries
    keys: Entries
    table: Numbers
    factor: float

    @property
    def length(self) -> int:
        """L."""
        return (len(self.table) + 1) // 2

    @property
    def name(self) -> str:
        """As positions are counted row by row; a map of a single row or column leaves it open."""
        position, others = np.arange(len(self.keys)), len(self.keys) // self.length
        fits = {"height": position // max(others, 1), "width": position % self.length}
        return " or ".join(name for name, along in fits.items() if np.array_equal(self.keys, along)) or "same axis"


def table(product: Product) -> Numbers | None:
    """(G, P, S): the constant rows that queries are multiplied with, on the right; None where they are computed."""
    value = product.right
    if value.const_value is None or value.is_graph_input():
        return None
    numbers: Numbers = value.const_value.numpy()
    return numbers.reshape(-1)[product.columns]


def require_one_table(product: Product) -> None:
    """Refusal if the rows that queries are multiplied with are not the same for all of them.

    Seen before anything is tried out: decomposed positions, with a table a row, are no relative ones of this kind.
    """
    rows = table(product)
    assert rows is not None
    if (rows != rows[:1]).any():
        raise Refusal(OTHER_ROWS)


def axis(logits: ir.Value, product: Product, queries: Queries, order: Entries) -> Axis:
    """What `product`, of one table, contributes to the logits.

    `order` (G, M, N) tells the place in the logits, in the order of memory, of each query and key.

    Raises:
        Refusal: it is not of the queries, or goes by no offsets.
    """
    rows = table(product)
    assert rows is not None
    multiplied = origin(product.left)
    found = arrived(logits, product.value, product.numbering, sums=True)
    if found is None:
        raise Refusal(NO_OFFSETS)
    which = found.which.reshape(-1)[order]
    query = _queries_of_rows(multiplied, product.rows, queries)
    groups, positions, _ = which.shape
    expected = np.arange(groups * positions, dtype=query.dtype).reshape(groups, positions, 1)
    if (query[which // rows.shape[1]] != expected).any():
        raise Refusal(OF_OTHERS if (query < 0).any() else NO_OFFSETS)
    which %= rows.shape[1]
    if (which != which[:1]).any():
        raise Refusal(NO_OFFSETS)
    along = _along(which[0], rows[0], found.factor * multiplied.factor / queries.factor)
    if along is None:  # tables a row are alike as long as nobody has trained them: full of zeros
        raise Refusal(NO_OFFSETS if (product.columns == product.columns[:1]).all() else OTHER_ROWS)
    return along


def _queries_of_rows(multiplied: Origin, rows: Entries, queries: Queries) -> Entries:
    """(G · M,) which query each row of what is multiplied with a table is; −1 for none."""
    depth = queries.vectors.shape[-1]
    wanted = queries.vectors.reshape(-1, depth)
    found = np.full(rows.shape[0] * rows.shape[1], -1, np.int32)
    if multiplied.source is not queries.source or rows.shape[-1] != depth:
        return found
    given = multiplied.entries.reshape(-1)[rows.reshape(-1, depth)]
    number = np.full(int(max(wanted.max(), given.max())) + 1, -1, np.int32)
    number[wanted[:, 0]] = np.arange(len(wanted))
    found[:] = number[given[:, 0]]
    found[(wanted[found] != given).any(axis=1)] = -1
    return found


def _along(rows: Entries, numbers: Numbers, factor: float) -> Axis | None:
    """The axis along which `rows` (M, N) of a table (P, S) are those of the offsets from query to key; None
    if there is none.

    Counted from either end it is the same axis; the end at which the first key is is taken.
    """
    ways = ((_positions(rows), numbers), (_positions(len(numbers) - 1 - rows), numbers[::-1]))
    fitting = [(found, kept) for found, kept in ways if found is not None]
    if not fitting:
        return None
    (queries, keys, centre), kept = min(fitting, key=lambda way: int(way[0][1][0]))
    length = int(keys.max()) + 1
    return Axis(queries, keys, kept[centre - length + 1 : centre + length], factor)


def _positions(rows: Entries) -> tuple[Entries, Entries, int] | None:
    """y(m), y(k) and the row for no offset, if `rows` are those of the offsets."""
    keys = rows[0] - rows[0].min()
    centre = int(rows[:, 0].max() - keys[0])  # of the query that comes first
    queries = keys[0] + centre - rows[:, 0]
    if queries.max() != keys.max() or (rows != keys - queries[:, None] + centre).any():
        return None
    return queries, keys, centre
