"""GuardReport → the table and the sentences that every format shows of a file in float16 or int8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aaexport.parity.guard import GuardReport, GuardRow
from aaexport.parity.thresholds import AT_LEAST, Measure, shown
from aaexport.report.parity.matrix import Cell, Matrix

ALLOWED = "allowed"
ORDER: tuple[Measure, ...] = ("SQNR", "KL", "top-1", "top-5", "same", "accuracy", "not finite")
HEADINGS: dict[Measure, str] = {"accuracy": "accuracy lost", "not finite": "NaN, inf"}
BY_ITSELF: dict[Measure, str] = {
    "weights": "the worst weight",
    "activations": "activations in the mean",
    "worst activation": "the worst of them",
}
CORNER = "of the outputs, the worst"


def guard_table(report: GuardReport) -> Matrix:
    """A row for each computation and what it is compared with, a column for each measure, above them its bound."""
    columns = [measure for measure in ORDER if any(row.measure == measure for row in report.rows)]
    shown_as = (*columns, "optimizer")
    pairs = dict.fromkeys((row.computation, row.against) for row in report.rows if row.measure in shown_as)
    bounds = tuple(Cell("pass", figure=_bound(report.rows, measure)) for measure in columns)
    rows = [(ALLOWED, bounds)]
    for pair in pairs:
        held = [row for row in report.rows if (row.computation, row.against) == pair]
        rows.append((f"{pair[0]} against {pair[1]}", tuple(_cell(held, measure) for measure in columns)))
    return Matrix(tuple(HEADINGS.get(measure, measure) for measure in columns), tuple(rows))


def guard_verdict(report: GuardReport) -> str:
    """What a file that passed has lost."""
    rows = [row for row in report.rows if row.measure == "SQNR"]
    bound = shown("SQNR", rows[0].bound) if rows else "–"
    return f"{report.kind} with an SQNR of {shown('SQNR', report.sqnr_db)} (at least {bound})"


def guard_circumstances(report: GuardReport) -> Iterator[str]:
    """What it was judged on, and shares with their intervals."""
    yield f"judged as {report.kind} on {report.data}"
    for measure, words in (("top-1", "the same answer"), ("accuracy", "accuracy")):
        row = next((row for row in report.rows if row.measure == measure and row.detail), None)
        if row is not None:
            yield f"{words}: {row.detail}"
    more = [
        f"{words} {row.value:+.1f} dB"
        for measure, words in BY_ITSELF.items()
        if (row := next((row for row in report.rows if row.measure == measure), None)) is not None
        and row.value is not None
    ]
    if more:
        yield f"noise by itself against the finest grid: {', '.join(more)}"
    told = dict.fromkeys(row.detail for row in report.rows if row.measure in BY_ITSELF and row.detail)
    yield from (f"tensors by themselves: {why}" for why in told)


def guard_figures(row: GuardRow) -> str:
    """What was measured, what is allowed and why."""
    side = "at least" if row.measure in AT_LEAST else "at most"
    return f"{shown(row.measure, row.value)}, {side} {shown(row.measure, row.bound)}: {row.reason}"


def _cell(rows: Sequence[GuardRow], measure: Measure) -> Cell:
    """The worst of all outputs; what the optimizer does stands in the column of the same unit."""
    wanted = ("SQNR", "optimizer") if measure == "SQNR" else (measure,)
    held = [row for row in rows if row.measure in wanted]
    if not held:
        return Cell("not run")
    worst = min(held, key=lambda row: (row.passed, float("inf") if row.margin is None else row.margin))
    text = shown(measure, worst.value) if worst.value is not None else "the same" if worst.passed else "FAIL"
    return Cell("pass" if worst.passed else "fail", figure=text)


def _bound(rows: Sequence[GuardRow], measure: Measure) -> str:
    bound = next(row.bound for row in rows if row.measure == measure)
    return f"{'≥' if measure in AT_LEAST else '≤'} {shown(measure, bound)}"
