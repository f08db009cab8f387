"""One product of queries with both relative tables, of which parts are taken afterwards → one with each table.

    (q·[R_h; R_w]ᵀ), split by its columns and skewed, is q·R_hᵀ and q·R_wᵀ, each skewed

To every logit one column of each table comes, and every one of one table meets every one of the other in some logit.
So which columns belong together is seen from who meets whom, wherever and however the parts are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.movement import EXACT, Entries, Numbers, carry
from aaexport.graph.rules.products import Product
from aaexport.graph.rules.rule import Refusal

NOT_TWO = "parts of one product with a table are added to its logits, which are not those of two relative tables"

PART = 2**20  # logits that are looked at together


def with_each_table(logits: ir.Value, product: Product) -> list[Product]:
    """The product with the rows of one table, and with those of the other.

    Raises:
        Refusal: not two columns of it come to every logit, or they are not those of two tables.
    """
    tables = _in_two(_who_meet(logits, product))
    return [_part(product, np.flatnonzero(tables == which)) for which in (0, 1)]


def _part(product: Product, columns: Entries) -> Product:
    place = np.full(product.shape[2], -1, product.columns.dtype)
    place[columns] = np.arange(len(columns))
    return replace(product, columns=product.columns[:, columns], of_columns=place)


def _who_meet(logits: ir.Value, product: Product) -> Entries:
    """(count, count): which two columns come to some logit; a + b and a² + b² tell a and b.

    A tensor of all logits is large: beside what `carry` holds there is half a one of it, and the rest goes by parts.
    """
    columns = product.shape[2]
    column = (product.numbering % columns).astype(np.float64)
    count = carry(logits, product.value, np.ones(column.size), sums=True)
    twice = float(count.flat[0]) if count.size else 0.0
    if twice == 0 or max(np.abs(part - twice).max() for part in _parts(count)) > EXACT * abs(twice):
        raise Refusal(NOT_TWO)
    del count
    total = _whole(carry(logits, product.value, column, sums=True), 2 / twice, EXACT * columns, 2 * columns)
    column *= column
    squares = carry(logits, product.value, column, sums=True)
    meet = np.zeros((columns, columns), bool)
    for of_total, of_squares in zip(_parts(total), _parts(squares), strict=True):
        one, other = _two(of_total, of_squares * (2 / twice), columns)
        meet[one, other] = meet[other, one] = True
    return meet


def _parts(numbers: Numbers) -> Iterator[Numbers]:
    """Some at a time, in their order."""
    flat = numbers.reshape(-1)
    return (flat[first : first + PART] for first in range(0, flat.size, PART))


def _whole(numbers: Numbers, factor: float, near: float, below: int) -> Entries:
    """factor · numbers, which are whole, from 0 on and below that, in half as many bytes; Refusal if they are not."""
    whole = np.empty(numbers.size, np.int32)
    for found, part in zip(_parts(whole), _parts(numbers), strict=True):
        wanted = part * factor
        rounded = np.rint(wanted)
        if np.abs(rounded - wanted).max() >= near or rounded.min() < 0 or rounded.max() >= below:
            raise Refusal(NOT_TWO)
        found[:] = rounded
    return whole


def _two(total: Entries, squares: Numbers, columns: int) -> tuple[Entries, Entries]:
    """Whole numbers of these sums and sums of squares; Refusal where there are none."""
    apart: Numbers = np.sqrt(np.maximum(2 * squares - np.square(total, dtype=np.float64), 0.0))
    one, other = np.rint((total - apart) / 2), np.rint((total + apart) / 2)
    is_it = (one + other == total).all() and (one >= 0).all() and other.max() < columns
    if not is_it or np.abs(one * one + other * other - squares).max() > 0.5:
        raise Refusal(NOT_TWO)
    return one.astype(np.int32), other.astype(np.int32)


def _in_two(meet: Entries) -> Entries:
    """(count,): 0 or 1, so that no two that meet are in the same; −1 for who meets nobody."""
    which = np.where(meet.any(axis=1), -2, -1)
    first = int(np.argmax(which == -2))
    which[meet[first]] = 1
    which[meet[np.flatnonzero(meet[first])[0]]] = 0
    is_parted = not (meet & (which[:, None] == which[None, :]) & (which[:, None] >= 0)).any()
    # Each meets all of the other table: offsets along one axis go with any along the other.
    if (which == -2).any() or not is_parted or not meet[np.ix_(which == 0, which == 1)].all():
        raise Refusal(NOT_TWO)
    return which
