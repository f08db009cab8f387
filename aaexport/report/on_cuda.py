"""What is known beforehand of a file on CUDA → the rows that tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from aaexport.errors import first_few
from aaexport.report.layout import Cell

if TYPE_CHECKING:
    from aaexport.graph.on_cuda import OnCuda

NAMED = 3  # nodes


def rows_on_cuda(told: OnCuda | None) -> dict[str, Cell]:
    """Which kernels and how many waits for the host, and in yellow what takes time; empty for another target."""
    if told is None:
        return {}
    copies = f"host copies a query: {told.copies_inside} inside, {told.copies_at_its_ends} at its ends"
    rows: dict[str, Cell] = {"on CUDA": "\n".join([*_attention(told), copies])}
    slow = []
    if told.logits_in_memory:
        slow.append(f"no fused kernel, so that all logits lie in memory: {_named(told.logits_in_memory)}")
    if told.without_kernel:
        remedy = "" if told.has_kernel_at is None else f"; --opset {told.has_kernel_at} has one"
        slow.append(f"no kernel at this opset, so that the CPU runs it: {_named(told.without_kernel)}{remedy}")
    return rows | ({"slow there": Text("\n".join(slow), style="yellow")} if slow else {})


def _attention(told: OnCuda) -> list[str]:
    ways = [
        f"{' and '.join(f'{count} × {kernel}' for kernel, count in kernels.items())} in {dtype}"
        for dtype, kernels in told.attention.items()
    ]
    return [f"attention: {', '.join(ways)}"] if ways else []


def _named(names: tuple[str, ...]) -> str:
    return first_few(list(names), NAMED)
