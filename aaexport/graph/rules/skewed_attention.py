"""softmax(logits) of a graph at a fixed batch → the 2-D relative attention that it is, or the reason why it is none.

The logits of a head, over queries (h, w) and keys (i, j) of a map of H × W positions, must be

    c·q·k + a·q·r_height[i − h + H − 1] + b·q·r_width[j − w + W − 1]

with constant tables and factors. Nothing is asked of how they were written: products are stacked matrices in any form
(`aaexport.graph.rules.products`), what arrives where is tried out (`aaexport.graph.rules.movement`), and the axes of
queries, keys, values and result may lie in any order (`aaexport.graph.rules.layouts`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.fixed_batch import sizes
from aaexport.graph.rules.layouts import Operand, Order, memory_order, operand
from aaexport.graph.rules.movement import Entries, Numbers, Origin, arrived, carried, numbered, origin, sources
from aaexport.graph.rules.products import Product, is_product, nodes_of, product
from aaexport.graph.rules.query_parts import is_fixed
from aaexport.graph.rules.relative_terms import NO_OFFSETS, Axis, Queries, axis, require_one_table, table
from aaexport.graph.rules.rule import Refusal, attribute, operands, producer
from aaexport.graph.rules.tables_in_one import with_each_table

TABLE_RANK = 2
STACKED = 3  # the rank of tables a row
AXES = 2  # of a map
SOFTMAX_OVER_THE_LAST = 13  # the first opset in which that is its default, and other axes are not merged with it
MAX_LOGITS = 2**28  # of all heads and images: 2 GiB in float64, of which trying out holds some at a time
NOT_MATRICES = "queries, keys and values are not one matrix each a head and image"


@dataclass(frozen=True)
class SkewedAttention:
    """A relative attention, as it was found.

    Attributes:
        queries, keys, values: of (B, Nh, N, dkh), (B, Nh, N, dkh) and (B, Nh, N, dvh), N = height · width.
        height, width: of the map.
        heads, batch: at the fixed batch.
        dkh, dvh: numbers a head.
        scale: what the product of queries and keys (without their factors) is multiplied with.
        rel_height, rel_width: (2H − 1, dkh), (2W − 1, dkh), for queries that are multiplied with `scale` already.
        result: the product of weights and values.
        result_order: in which order it holds its axes.
        result_factor: what it is multiplied with.
    """

    queries: Operand
    keys: Operand
    values: Operand
    height: int
    width: int
    heads: int
    batch: int
    dkh: int
    dvh: int
    scale: float
    rel_height: Numbers
    rel_width: Numbers
    result: ir.Value
    result_order: Order
    result_factor: float


@dataclass(frozen=True)
class _Content:
    """The product of queries and keys.

    Attributes:
        product: queries are on the left, keys on the right.
        rows: (G, M), which row of the softmax each query has.
        keys: (N,), which column of the product each key of the softmax is.
        factor: what the product is multiplied with on its way to the logits.
    """

    product: Product
    rows: Entries
    keys: Entries
    factor: float


@dataclass(frozen=True)
class _Weighted:
    """The product of weights and values.

    Attributes:
        product: weights are on the left, values on the right.
        rows: (G, M), which row of the softmax each of its rows is.
        keys: (N,), which key of the softmax each of the summed numbers is of.
        factor: what the weights are multiplied with on their way to it.
    """

    product: Product
    rows: Entries
    keys: Entries
    factor: float


def softmax_behind(value: ir.Value) -> ir.Value | None:
    """The output of a Softmax that `value` is, moved at the most."""
    found = sources(value, sums=False)
    node = found[0].producer() if len(found) == 1 else None
    return found[0] if node is not None and node.op_type == "Softmax" and node.domain == "" else None


def is_sum_of_products(logits: ir.Value) -> bool:
    """Whether logits are of the kind that can be 2-D relative ones: q·k and two other products at least, added.

    Or one other, with a table, of which several parts are added. Not those of `table`, the form in which such
    attention may be written here: there is nothing left to do.
    """
    found = list(_products_behind(logits))
    is_one = len(found) > AXES or (len(found) == AXES and _parts_are_added(logits))
    return is_one and not any(map(_is_of_a_table_a_row, found))


def _products_behind(logits: ir.Value) -> Iterator[ir.Node]:
    """Those that are added."""
    for value in _added(logits):
        node = value.producer()
        if node is not None and is_product(node):
            yield node


def _added(logits: ir.Value) -> Iterator[ir.Value]:
    """What the logits are made of by adding and moving, each on the first way to it; see `_before`."""
    waiting, seen = [logits], {logits}
    while waiting:
        value = waiting.pop()
        yield value
        new = [one for one in _before(value) if one not in seen]
        seen.update(new)
        waiting += new


def _before(value: ir.Value) -> list[ir.Value]:
    """What is added or moved; a mask is looked behind even where nobody knows yet that it masks nothing."""
    node = value.producer()
    before = carried(node, sums=True) or []
    return operands(node)[1:] if node is not None and node.op_type == "Where" and not before else before


def _parts_are_added(logits: ir.Value) -> bool:
    """Whether the logits have several parts of one product with a table, which were taken out of it on the way."""
    read: dict[ir.Value, int] = {}
    for value in _added(logits):
        for before in _before(value):
            read[before] = read.get(before, 0) + 1
    several = [value for value, times in read.items() if times > 1]
    return any(_has_table(node) for value in several for node in _products_behind(value))


def _has_table(node: ir.Node) -> bool:
    """Whether one of the two that are multiplied is a constant matrix, perhaps with axes of one to fit the other."""
    constants = [value for value in operands(nodes_of(node)[0]) if is_fixed(value)]
    ranks = [sum(size != 1 for size in value.shape) for value in constants if value.shape is not None]
    return len(ranks) < len(constants) or any(rank <= TABLE_RANK for rank in ranks)


def _is_of_a_table_a_row(node: ir.Node) -> bool:
    """Whether it is x · T with T[a, :, b] = r[b − a + L − 1], (L, S, L): `table` has the height's logits so."""
    right = operands(node)[1] if node.op_type == "MatMul" else None
    if right is None or right.const_value is None or right.is_graph_input():
        return False
    numbers = right.const_value.numpy()
    if numbers.ndim != STACKED or numbers.shape[0] != numbers.shape[-1]:
        return False
    return np.array_equal(numbers[1:, :, 1:], numbers[:-1, :, :-1])


def recognised(attended: ir.Value, images: int) -> SkewedAttention:
    """The attention whose product of weights and values is `attended`, in a graph for so many images.

    Raises:
        Refusal: it is none, or one of a kind that is not known.
    """
    read = product(producer(attended))
    weights = None if read is None else softmax_behind(read.left)
    if read is not None and weights is None:
        read = read.turned()
        weights = softmax_behind(read.left)
    if read is None or weights is None:
        raise Refusal(NOT_MATRICES)
    softmax = producer(weights)
    logits = operands(softmax)[0]
    if not np.prod(sizes(logits)):
        raise Refusal("it is of no image, or of none of its positions")
    of_keys, relative = _products(logits)
    require_few(logits, images)
    if len(relative) == 1 and _parts_are_added(logits):
        relative = with_each_table(logits, relative[0])
    places = _places(softmax)
    weighted = _weighted(read, weights, places)
    content = _content(logits, of_keys, places)
    came_from = origin(content.product.left)
    vectors = came_from.entries.reshape(-1)[content.product.rows]
    queries = Queries(came_from.source, vectors, came_from.factor)
    axes = [axis(logits, each, queries, places[content.rows]) for each in relative]
    return _assembled(content, weighted, came_from, _height_and_width(axes), images)


def require_few(logits: ir.Value, images: int) -> None:
    """Refusal if trying out takes too much memory; it tells of how many images the logits are."""
    count = math.prod(sizes(logits))
    if count <= MAX_LOGITS:
        return
    limit = f"too many to be tried out, {MAX_LOGITS:,} at most"
    if images == 1:
        raise Refusal(f"its {count:,} logits of a query are {limit}; fewer images, or a smaller map, have fewer")
    of_one = count // images
    remedy = "; a smaller map has fewer" if of_one > MAX_LOGITS else f"; at a fixed batch of 1 they are {of_one:,}"
    tried = f"{images} images, which a dynamic batch is tried out with,"
    raise Refusal(f"its {count:,} logits of {tried} are {limit}{remedy}")


def _products(logits: ir.Value) -> tuple[Product, list[Product]]:
    """Of queries and keys, and of queries and tables."""
    content, relative = [], []
    for value in sources(logits, sums=True):
        node = value.producer()
        found = product(node) if node is not None and is_product(node) else None
        if found is None:
            raise Refusal(f"{value.name}, which is added to its logits, is no product of queries")
        with_table = next((each for each in (found, found.turned()) if table(each) is not None), None)
        if with_table is None:
            content.append(found)
        else:
            relative.append(with_table)
    if len(content) > 1 and any(len(sizes(each)) == TABLE_RANK for found in content for each in found.operands):
        raise Refusal("a table of embeddings is not a constant")
    if len(content) != 1:
        raise Refusal(f"{len(content)} of the products in its logits could be that of queries and keys")
    for each in relative:
        require_one_table(each)
    if len(relative) > AXES:
        raise Refusal(f"it has {len(relative)} kinds of relative logits")
    return content[0], relative


def _places(softmax: ir.Node) -> Entries:
    """(R, N): where in the memory of the logits each row of the softmax has the logit of each key."""
    assert softmax.graph is not None
    lengths = sizes(softmax.outputs[0])
    all_places = numbered(int(np.prod(lengths))).reshape(lengths)
    if softmax.graph.opset_imports.get("", 0) >= SOFTMAX_OVER_THE_LAST:
        return np.moveaxis(all_places, attribute(softmax, "axis", -1), -1).reshape(-1, lengths[-1])
    first = attribute(softmax, "axis", 1) % len(lengths)
    return all_places.reshape(int(np.prod(lengths[:first])), -1)


def _weighted(read: Product, weights: ir.Value, places: Entries) -> _Weighted:
    """The product of weights and values, if it goes over all keys of a softmax, in the same order in every row."""
    rows, keys = places.shape
    numbering = np.empty(places.size, places.dtype)
    numbering[places.reshape(-1)] = numbered(places.size)
    found = arrived(read.left, weights, numbering.reshape(sizes(weights)), sums=False)
    if found is None:
        raise Refusal("its weights are changed on their way to the values")
    which = found.which.reshape(-1)[read.rows]
    row = which[..., 0] // keys
    if (which // keys != row[..., None]).any():
        raise Refusal("the softmax is not over the keys, the last axis of its logits")
    which %= keys
    of_keys = which[0, 0].copy()
    if not _is_permutation(of_keys, keys) or not _is_permutation(row, rows) or (which != of_keys).any():
        raise Refusal(NOT_MATRICES)
    return _Weighted(read, row, of_keys, found.factor)


def _content(logits: ir.Value, read: Product, places: Entries) -> _Content:
    """The product of queries and keys, if every row of the softmax has one query, and all keys in the same order."""
    refusal = Refusal("the product of queries and keys is moved, or changed, on its way to the logits")
    found = arrived(logits, read.value, read.numbering, sums=True)
    if found is None:
        raise refusal
    which = found.which.reshape(-1)[places]
    groups, left, right = read.shape
    query, key = which // right, which % right
    if (query != query[:, :1]).any() or (key != key[:1]).any():
        read = read.turned()
        query, key = which // (left * right) * right + which % right, which // right % left
        if (query != query[:, :1]).any() or (key != key[:1]).any():
            raise refusal
    _, positions, others = read.shape
    of_rows, of_keys = query[:, 0], key[0].copy()
    if (
        positions != others
        or not _is_permutation(of_rows, groups * positions)
        or not _is_permutation(of_keys, others)
    ):
        raise Refusal(NOT_MATRICES)
    return _Content(read, np.argsort(of_rows).reshape(groups, positions), of_keys, found.factor)


def _is_permutation(entries: Entries, count: int) -> bool:
    """Whether they are 0 to count − 1, each of them once."""
    return entries.size == count and bool((np.bincount(entries.reshape(-1), minlength=count) == 1).all())


def _height_and_width(axes: list[Axis]) -> tuple[Axis, Axis]:
    """Both axes of the map, so that positions are counted row by row where they lie so."""
    if len(axes) < AXES or (np.array_equal(axes[0].keys, axes[1].keys) and axes[0].length > 1):
        raise Refusal(f"its relative logits run along the {axes[0].name} only")
    positions = len(axes[0].keys)
    if axes[0].length * axes[1].length != positions:
        raise Refusal("its tables are those of two maps of different height and width")
    if not all(_is_permutation(each, positions) for each in _positions(axes[0], axes[1])):
        raise Refusal(NO_OFFSETS)
    is_turned = np.array_equal(_positions(axes[1], axes[0])[1], np.arange(positions))
    return (axes[1], axes[0]) if is_turned else (axes[0], axes[1])


def _positions(height: Axis, width: Axis) -> tuple[Entries, Entries]:
    """Of each query and of each key, counted row by row."""
    return height.queries * width.length + width.queries, height.keys * width.length + width.keys


def _assembled(
    content: _Content, weighted: _Weighted, came_from: Origin, axes: tuple[Axis, Axis], images: int
) -> SkewedAttention:
    """The attention, with everything in the order of images, heads and positions."""
    height, width = axes
    of_queries, of_keys = (np.argsort(each) for each in _positions(height, width))
    queries = content.product.rows[:, of_queries]
    keys = content.product.columns[:, content.keys[of_keys]]
    values, result = _in_groups_of(content, weighted, of_queries, of_keys)
    # Groups are counted as the queries lie in memory, image by image.
    there = came_from.entries.reshape(-1)[queries[:, 0, 0]]
    order = np.argsort(there)
    batch = _images(there[order], came_from, images)

    def by_axis(entries: Entries) -> Entries:
        return entries[order].reshape(batch, -1, height.length, width.length, entries.shape[-1])

    q = operand(content.product.left, by_axis(queries), came_from)
    k = operand(content.product.right, by_axis(keys), _origin_if_any(content.product.right))
    v = operand(weighted.product.right, by_axis(values), _unscaled_origin(weighted.product.right))
    result_order = memory_order(by_axis(result))
    if result_order is None:
        raise Refusal(NOT_MATRICES)
    # The factors of the terms hold for queries as the graph has them, and so does that of q·k for queries and keys.
    factor = content.factor * k.factor
    return SkewedAttention(
        queries=q,
        keys=k,
        values=v,
        height=height.length,
        width=width.length,
        heads=len(queries) // batch,
        batch=batch,
        dkh=queries.shape[-1],
        dvh=values.shape[-1],
        scale=factor * q.factor,
        rel_height=height.table * (height.factor / factor),
        rel_width=width.table * (width.factor / factor),
        result=weighted.product.value,
        result_order=result_order,
        result_factor=weighted.factor,
    )


def _in_groups_of(
    content: _Content, weighted: _Weighted, of_queries: Entries, of_keys: Entries
) -> tuple[Entries, Entries]:
    """Entries of the values (G, N, dvh) and of the result, groups as those of queries and keys, by position."""
    groups, positions, columns = weighted.product.shape
    query = np.empty(content.rows.size, np.int64)  # of each row of the softmax
    query[content.rows.reshape(-1)] = np.arange(content.rows.size)
    query = query[weighted.rows]
    group = query // positions
    if content.rows.shape != weighted.rows.shape or (group != group[:, :1]).any():
        raise Refusal(NOT_MATRICES)
    numbering = weighted.product.numbering.reshape(-1)
    entries = np.empty_like(numbering)
    entries[numbering] = numbered(numbering.size)
    result = np.empty((groups * positions, columns), entries.dtype)
    result[query.reshape(-1)] = entries.reshape(-1, columns)
    values = np.empty((groups, positions, columns), weighted.product.columns.dtype)
    values[group[:, :1], weighted.keys] = weighted.product.columns.swapaxes(1, 2)
    return values[:, of_keys], result.reshape(groups, positions, columns)[:, of_queries]


def _images(firsts: Entries, came_from: Origin, images: int) -> int:
    """How many images the groups, by their first entries in the source of the queries, are of."""
    size = int(np.prod(sizes(came_from.source)))
    for batch in (sizes(came_from.source)[0], images):
        if batch % images == 0 and len(firsts) % batch == 0:
            image = np.repeat(np.arange(batch), len(firsts) // batch)
            if np.array_equal(firsts // (size // batch), image):
                return batch
    raise Refusal("the images do not come first in the memory of its queries")


def _origin_if_any(value: ir.Value) -> Origin | None:
    """Where keys or values come from, which need not be known."""
    try:
        return origin(value)
    except Refusal:
        return None


def _unscaled_origin(value: ir.Value) -> Origin | None:
    found = _origin_if_any(value)
    return found if found is not None and found.factor == 1 else None
