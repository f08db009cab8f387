"""Relative tables trained at one image size → tables for another: central rows, or interpolated ones.

A table of 2L − 1 rows holds the embeddings of the offsets −(L − 1) … L − 1 along one axis. A smaller map needs fewer
offsets, which are the central rows as they are. A larger one needs offsets that were never trained: they are read off
a linear interpolation over the offsets, stretched so that the outermost rows stay the outermost.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

TABLES = ("rel_height", "rel_width")


def retargeted(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """`found` with every relative table in the length that `wanted` has it, and notes on what was done.

    Tensors that are no such tables, or differ in more than their length, are passed on as they are.
    """
    fitted = dict(found)
    counts = {"cut": 0, "stretched": 0}
    for name in wanted:
        table = found.get(name)
        if table is None or name.rpartition(".")[2] not in TABLES or not _is_table(table, wanted[name]):
            continue
        length = len(wanted[name])
        if length != len(table):
            fitted[name] = resized_table(table, length)
            counts["cut" if length < len(table) else "stretched"] += 1
    notes = []
    if counts["cut"]:
        notes.append(f"{_tables(counts['cut'])} cut to their central rows for a smaller map, which is exact")
    if counts["stretched"]:
        notes.append(
            f"{_tables(counts['stretched'])} interpolated for a larger map than it was trained for: "
            "accuracy may differ, train on with --init"
        )
    return fitted, tuple(notes)


def resized_table(table: Tensor, rows: int) -> Tensor:
    """A table of 2L − 1 rows, (2L − 1, d), with `rows` rows instead, an odd number; see the module's docstring."""
    if rows <= len(table):
        first = (len(table) - rows) // 2
        return table[first : first + rows].clone()
    if len(table) == 1:
        return table.repeat(rows, 1)  # one offset was all there was
    columns = table.to(torch.float64).t().unsqueeze(0)  # (1, d, 2L − 1)
    stretched = functional.interpolate(columns, size=rows, mode="linear", align_corners=True)
    return stretched[0].t().to(table.dtype).contiguous()


def _tables(count: int) -> str:
    return "1 relative table" if count == 1 else f"{count} relative tables"


def _is_table(table: Tensor, wanted: Tensor) -> bool:
    fits = table.dim() == wanted.dim() == 2 and table.shape[1] == wanted.shape[1]
    return fits and len(table) % 2 == 1 and table.is_floating_point()
