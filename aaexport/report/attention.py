"""Attention weights, one output a head → a line for each layer, for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from aaexport.recipe.words import ATTENTION_OUTPUTS

_HEAD = re.compile(rf"({ATTENTION_OUTPUTS}(?:\..+)?)\.head(\d+)")


def head_of(output: str) -> tuple[str, int] | None:
    """`attention.<layer>` and the head of an output that holds attention weights; None for another output."""
    found = _HEAD.fullmatch(output)
    return None if found is None else (found[1], int(found[2]))


def listed(outputs: Iterable[str]) -> str:
    """Names of such outputs with the heads of each layer together: `attention.conv.head0–3`."""
    heads: dict[str, list[int]] = {}
    for output in outputs:
        found = head_of(output)
        if found is not None:
            heads.setdefault(found[0], []).append(found[1])
    return ", ".join(f"{layer}.head{_span(numbers)}" for layer, numbers in heads.items())


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{min(numbers)}–{max(numbers)}"
