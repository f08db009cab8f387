"""Relative tables of other people's layers, told by name: (2L − 1, depth) for an axis of L positions."""

from __future__ import annotations

import re
from typing import Literal

from torch import Tensor

# key_rel_h, rel_height, height_rel, rel_pos_h, key_relative_h, rel_emb_h … as the last part of a parameter's name.
RELATIVE = re.compile(r"(^|_)rel(ative)?(_|$)")
AXES: dict[str, Literal["height", "width"]] = {"h": "height", "height": "height", "w": "width", "width": "width"}


def is_relative_table(name: str, tensor: Tensor) -> bool:
    """Whether the tensor is one axis' table by its name and its odd number of rows."""
    odd = tensor.dim() == 2 and len(tensor) % 2 == 1
    return odd and bool(RELATIVE.search(_leaf(name))) and table_axis(name) is not None


def table_axis(name: str) -> Literal["height", "width"] | None:
    """The axis that the name tells."""
    return next((AXES[word] for word in _leaf(name).split("_") if word in AXES), None)


def table_length(table: Tensor) -> int:
    """L of a table of 2L − 1 rows: the positions of the axis that it is for."""
    return (len(table) + 1) // 2


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
