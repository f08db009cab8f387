"""ParityReport → what a person reads in ten seconds, as rich renderables; the verdict last, where the eye is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from aaexport.parity import Divergence, ParityReport
from aaexport.report.parity import wording
from aaexport.report.parity.matrix import Cell, matrix
from aaexport.report.printable import printable

GOOD, WORTH_A_LOOK, BAD = "green", "yellow", "bold red"
STYLES = {"pass": GOOD, "warn": WORTH_A_LOOK, "fail": BAD, "not run": "dim"}


def parity_view(report: ParityReport) -> RenderableType:
    """The matrix, what is to be known of it, what is wrong and where, and the verdict."""
    parts: list[RenderableType] = [*_matrix(report)]
    parts += _lines(wording.circumstances(report))
    parts += _lines((f"note: {note}" for note in report.notes), "dim")
    parts += _lines((f"warning: {warning}" for warning in wording.warnings(report)), WORTH_A_LOOK)
    parts += _lines((f"FAIL: {failure}" for failure in wording.failures(report)), BAD)
    parts += _lines(filter(None, [wording.broken_stage(report)]), "bold")
    if report.divergence is not None:
        parts += _divergence(report.divergence)
    return Group(*parts, verdict_view(report))


def verdict_view(report: ParityReport) -> Text:
    """One line."""
    return _text(wording.verdict(report), "bold green" if report.passed else BAD)


def _matrix(report: ParityReport) -> Iterator[RenderableType]:
    """Nothing if nothing was compared."""
    found = matrix(report)
    if not found.headings:
        return
    # Narrow enough for ten columns beside the names in 80 characters; only the names wrap.
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(_text(f"error ÷ {report.baseline}'s own"), overflow="fold")
    for heading in found.headings:
        table.add_column(_text(heading), justify="right", no_wrap=True)
    for name, cells in found.rows:
        table.add_row(_text(name), *map(_cell, cells))
    yield from (table, Text())


def _cell(cell: Cell) -> Text:
    return Text(cell.text, style=STYLES[cell.verdict])


def _divergence(divergence: Divergence) -> Iterator[RenderableType]:
    yield _text(wording.divergence_title(divergence), "bold")
    where = Table.grid(padding=(0, 2))
    where.add_column(style="dim", no_wrap=True)
    where.add_column(overflow="fold")
    for name, value in wording.divergence_facts(divergence).items():
        where.add_row(name, _text(value))
    yield from (where, Text(), _table(("", "expected", "actual"), wording.tensor_rows(divergence)), Text())
    if divergence.growth:
        columns = ("error on the way", "operator", "module", "relative error")
        yield from (_table(columns, map(wording.growth_row, divergence.growth)), Text())
    yield from _lines(f"hint: {hint}" for hint in divergence.hints)


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def _lines(lines: Iterable[str], style: str = "") -> Iterator[Text]:
    yield from (_text(line, style) for line in lines)


def _text(words: str, style: str = "") -> Text:
    return Text(printable(words), style=style)
