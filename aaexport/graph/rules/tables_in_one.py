"""One product of queries with both relative tables, of which parts are taken afterwards → one with each table.

    (q·[R_h; R_w]ᵀ), split by its columns and skewed, is q·R_hᵀ and q·R_wᵀ, each skewed

To every logit one column of each table comes, and every one of one table meets every one of the other in some logit.
So which columns belong together is seen from who meets whom, wherever and however the parts are taken.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.movement import EXACT, Entries, Numbers, carry
from aaexport.graph.rules.products import Product
from aaexport.graph.rules.rule import Refusal

NOT_TWO = "parts of one product with a table are added to its logits, which are not those of two relative tables"


def with_each_table(logits: ir.Value, product: Product) -> list[Product]:
    """The product with the rows of one table, and with those of the other.

    Raises:
        Refusal: not two columns of it come to every logit, or they are not those of two tables.
    """
    one, other = _who_meet(logits, product)
    count = product.shape[2]
    pairs = np.unique(one.astype(np.int64) * count + other)
    tables = _in_two(pairs // count, pairs % count, count)
    return [_part(product, np.flatnonzero(tables == which)) for which in (0, 1)]


def _part(product: Product, columns: Entries) -> Product:
    place = np.full(product.shape[2], -1, product.columns.dtype)
    place[columns] = np.arange(len(columns))
    return replace(product, columns=product.columns[:, columns], of_columns=place)


def _who_meet(logits: ir.Value, product: Product) -> tuple[Entries, Entries]:
    """The two columns that come to each logit: a + b and a² + b² tell a and b."""
    column = (product.numbering % product.shape[2]).astype(np.float64)
    count = carry(logits, product.value, np.ones(column.size), sums=True)
    twice = float(count.flat[0]) if count.size else 0.0
    if twice == 0 or np.abs(count - twice).max() > EXACT * abs(twice):
        raise Refusal(NOT_TWO)
    total, squares = (
        carry(logits, product.value, numbers, sums=True) * (2 / twice) for numbers in (column, column * column)
    )
    apart: Numbers = np.sqrt(np.maximum(2 * squares - total * total, 0.0))
    one, other = np.rint((total - apart) / 2), np.rint((total + apart) / 2)
    fits = np.abs(one + other - total).max() < EXACT * product.shape[2] and (one >= 0).all()
    if not fits or other.max() >= product.shape[2] or np.abs(one * one + other * other - squares).max() > 0.5:
        raise Refusal(NOT_TWO)
    return one.astype(np.int32), other.astype(np.int32)


def _in_two(one: Entries, other: Entries, count: int) -> Entries:
    """(count,): 0 or 1, so that no two that meet are in the same; −1 for who meets nobody."""
    meet = np.zeros((count, count), bool)
    meet[one, other] = meet[other, one] = True
    which = np.where(meet.any(axis=1), -2, -1)
    first = int(np.argmax(which == -2))
    which[meet[first]] = 1
    which[meet[np.flatnonzero(meet[first])[0]]] = 0
    is_parted = not (meet & (which[:, None] == which[None, :]) & (which[:, None] >= 0)).any()
    # Each meets all of the other table: offsets along one axis go with any along the other.
    if (which == -2).any() or not is_parted or not meet[np.ix_(which == 0, which == 1)].all():
        raise Refusal(NOT_TWO)
    return which
