"""Attention weights, one output a head → a line for each layer, for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from aaexport.nn.attention_maps import PREFIX
from aaexport.parity import OutputParity

_HEAD = re.compile(rf"({PREFIX}(?:\..+)?)\.head(\d+)")


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


def condensed(outputs: Sequence[OutputParity]) -> list[OutputParity]:
    """The heads of each layer and case as one entry, with the worst of their numbers; others as they are."""
    groups: dict[tuple[str, str], list[OutputParity]] = {}
    for output in outputs:
        head = head_of(output.output)
        groups.setdefault((output.case, output.output if head is None else head[0]), []).append(output)
    return [group[0] if len(group) == 1 else _worst(name, group) for (_, name), group in groups.items()]


def _worst(layer: str, heads: Sequence[OutputParity]) -> OutputParity:
    return replace(
        heads[0],
        output=layer,
        failure=next((head.failure for head in heads if head.failure is not None), None),
        max_abs_error=_largest(head.max_abs_error for head in heads),
        mean_abs_error=_largest(head.mean_abs_error for head in heads),
        baseline_max_abs_error=_largest(head.baseline_max_abs_error for head in heads),
        error_ratio=_largest(head.error_ratio for head in heads),
        max_abs_expected=_largest(head.max_abs_expected for head in heads),
    )


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{min(numbers)}–{max(numbers)}"
