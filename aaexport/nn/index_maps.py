"""Which number of a table, and which row and column of a map, goes with which pair of positions.

The formulas take integers of numpy or of torch alike: `aaexport.nn.relative` has either, graph rules have numpy's.
"""

from __future__ import annotations

from typing import Any


def offsets(position: Any) -> Any:
    """(L, L): [a, b] = b − a + L − 1, the row of a relative table (2L − 1, d), for `position` = 0 … L − 1."""
    return position[None, :] - position[:, None] + len(position) - 1


def is_row_or_column(number: Any, position: Any, height: int, width: int) -> Any:
    """(n, N): whether a position lies in the row that is `number`, or in the column that is `number` − H.

    `number` (n,) below 0 is neither; `position` = 0 … N − 1 with N = H·W, row by row of the map.
    """
    number = number[:, None]
    return (number == position // width) | (number - height == position % width)
