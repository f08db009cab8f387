"""ParityReport → the matrix that every format shows: a row for each computation, a column for each kind of inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from aaexport.parity import Computation, OutputParity, ParityReport

# Kinds of cases whose names are too long above a column of figures.
HEADINGS = {
    "golden vectors": "golden",
    "constant": "const",
    "one pixel": "pixel",
    "random × 1000": "×1000",
    "random × 1e-6": "×1e-6",
    "NaN in a pixel": "NaN",
    "infinity in a pixel": "inf",
}
LONGEST_HEADING = 12
MOST_COLUMNS = 10
Verdict = Literal["pass", "warn", "fail", "not run"]
_BATCH = re.compile(r", batch (\d+)$")


@dataclass(frozen=True)
class Cell:
    """All cases of one kind and all outputs of one computation; `ratio` is the worst error ratio, if there is any.

    `figure` is what it shows where that is something else.
    """

    verdict: Verdict
    ratio: float | None = None
    figure: str | None = None

    @property
    def text(self) -> str:
        """A few characters: how many times PyTorch's own error, or the verdict."""
        if self.figure is not None:
            return self.figure
        if self.verdict != "pass":
            return {"warn": "warn", "fail": "FAIL", "not run": "–"}[self.verdict]
        return "pass" if self.ratio is None else _times(self.ratio)


@dataclass(frozen=True)
class Matrix:
    """`rows` are names of computations, each with a cell for each of the `headings`."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def matrix(report: ParityReport) -> Matrix:
    """All cases that differ in the batch only are one column, and so are all that would be one column too many."""
    kinds = _kinds(report)
    columns = [{kind} for kind in kinds]
    headings = [_heading(kind) for kind in kinds]
    if len(kinds) > MOST_COLUMNS:
        columns[MOST_COLUMNS - 1 :] = [set(kinds[MOST_COLUMNS - 1 :])]
        headings[MOST_COLUMNS - 1 :] = ["others"]
    rows = tuple((c.name, tuple(_cell(c, column) for column in columns)) for c in report.computations)
    return Matrix(tuple(headings), rows)


def batches(report: ParityReport) -> list[int]:
    """The sizes that cases are named after, each once, in ascending order."""
    return sorted({int(found[1]) for output in report.outputs if (found := _BATCH.search(output.case))})


def _kinds(report: ParityReport) -> list[str]:
    """In the order in which the computation with the most cases was given them."""
    by_cases = sorted(report.computations, key=lambda computation: -len(computation.outputs))
    return list(dict.fromkeys(_kind(output) for computation in by_cases for output in computation.outputs))


def _kind(output: OutputParity) -> str:
    return _BATCH.sub("", output.case)


def _heading(kind: str) -> str:
    name = HEADINGS.get(kind, kind)
    return name if len(name) <= LONGEST_HEADING else f"{name[: LONGEST_HEADING - 1]}…"


def _cell(computation: Computation, kinds: set[str]) -> Cell:
    outputs = [output for output in computation.outputs if _kind(output) in kinds]
    if computation.failure is not None or not all(output.passed for output in outputs):
        return Cell("fail")
    if not outputs:
        return Cell("not run")
    worst: Verdict = "warn" if any(output.warning for output in outputs) else "pass"
    return Cell(worst, max((o.error_ratio for o in outputs if o.error_ratio is not None), default=None))


def _times(ratio: float) -> str:
    return f"{ratio:.1f}×" if ratio < 9.95 else f"{ratio:.0f}×" if ratio < 9999.5 else f"{ratio:.0e}×"
