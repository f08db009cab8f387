"""ParityReport → what a person reads in ten seconds, as rich renderables; the verdict last, where the eye is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from aaexport.parity import Divergence, ParityReport
from aaexport.parity.guard import GuardReport
from aaexport.report.layout import Facts, Table, Words
from aaexport.report.parity import wording
from aaexport.report.parity.guard import CORNER, guard_table
from aaexport.report.parity.layers import HEADINGS, layer_rows, layers_title
from aaexport.report.parity.matrix import Cell, matrix

GOOD, WORTH_A_LOOK, BAD = "green", "yellow", "bold red"
STYLES = {"pass": GOOD, "warn": WORTH_A_LOOK, "fail": BAD, "not run": "dim"}


def parity_view(report: ParityReport) -> RenderableType:
    """The matrix, what is to be known of it, what is wrong and where, and the verdict."""
    parts: list[RenderableType] = [*_matrix(report)]
    if report.guard is not None and (layers := layers_view(report.guard)) is not None:
        parts += [layers, Words()]
    parts += _lines(wording.circumstances(report))
    parts += _lines((f"note: {note}" for note in report.notes), "dim")
    parts += _lines((f"warning: {warning}" for warning in wording.warnings(report)), WORTH_A_LOOK)
    parts += _lines((f"FAIL: {failure}" for failure in wording.failures(report)), BAD)
    parts += _lines(filter(None, [wording.broken_stage(report)]), "bold")
    if report.divergence is not None:
        parts += _divergence(report.divergence)
    return Group(*parts, verdict_view(report))


def layers_view(report: GuardReport) -> Table | None:
    """How much is left of each layer, drawn; None where none was looked at."""
    rows = layer_rows(report)
    return Table((layers_title(report), *HEADINGS), rows, texts=(0, 3)) if rows else None


def verdict_view(report: ParityReport) -> Words:
    """One line."""
    return Words(verdict_line(report))


def verdict_line(report: ParityReport) -> Text:
    """The verdict, in the colour that says it."""
    return Text(wording.verdict(report), "bold green" if report.passed else BAD)


def _matrix(report: ParityReport) -> Iterator[RenderableType]:
    """Nothing if nothing was compared."""
    found = matrix(report) if report.guard is None else guard_table(report.guard)
    if not found.headings:
        return
    corner = f"error ÷ {report.baseline}'s own" if report.guard is None else CORNER
    rows = [[Text(name), *map(_cell, cells)] for name, cells in found.rows]
    yield from (Table([corner, *found.headings], rows), Words())


def _cell(cell: Cell) -> Text:
    return Text(cell.text, style=STYLES[cell.verdict])


def _divergence(divergence: Divergence) -> Iterator[RenderableType]:
    yield Words(wording.divergence_title(divergence), "bold")
    yield from (Facts(wording.divergence_facts(divergence)), Words())
    yield from (Table(("", "expected", "actual"), wording.tensor_rows(divergence), texts=(0, 1, 2)), Words())
    if divergence.growth:
        columns = ("error on the way", "operator", "module", "relative error")
        yield from (Table(columns, map(wording.growth_row, divergence.growth), texts=(0, 1, 2)), Words())
    yield from _lines(f"hint: {hint}" for hint in divergence.hints)


def _lines(lines: Iterable[str], style: str = "") -> Iterator[Words]:
    yield from (Words(line, style) for line in lines)
