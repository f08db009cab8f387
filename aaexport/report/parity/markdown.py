"""ParityReport → Markdown for a pull request: the verdict, the matrix, what is wrong; everything else folded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from aaexport.parity import Computation, Divergence, ParityReport
from aaexport.parity.thresholds import shown
from aaexport.report.parity import wording
from aaexport.report.parity.guard import CORNER, guard_table
from aaexport.report.parity.layers import HEADINGS, layer_rows, layers_title
from aaexport.report.parity.matrix import matrix
from aaexport.report.printable import printable

_MARKUP = re.compile(r"[\\`*_{}\[\]<>#|~&!]")


def parity_markdown(report: ParityReport) -> str:
    """The report, for a renderer of GitHub's Markdown; names are escaped."""
    parts = [_headline(report), *_matrix(report), _items(wording.circumstances(report))]
    parts.append(_items(wording.failures(report), "**FAIL**: "))
    if stage := wording.broken_stage(report):
        parts.append(f"**{_escaped(stage)}**")
    if report.divergence is not None:
        parts += _divergence(report.divergence)
    parts += [_items(wording.warnings(report), "**warning**: "), *_details(report)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _headline(report: ParityReport) -> str:
    word, rest = wording.verdict(report).split(": ", 1)
    return f"### Parity of {_escaped(report.onnx)}: {word}\n\n{_escaped(rest)}"


def _matrix(report: ParityReport) -> Iterator[str]:
    found = matrix(report) if report.guard is None else guard_table(report.guard)
    if found.headings:
        header = [f"error ÷ {report.baseline}'s own" if report.guard is None else CORNER, *found.headings]
        yield _table(header, [[name, *(cell.text for cell in cells)] for name, cells in found.rows], "--:")


def _divergence(divergence: Divergence) -> Iterator[str]:
    yield f"**{_escaped(wording.divergence_title(divergence))}**"
    yield _items(f"{name}: {value}" for name, value in wording.divergence_facts(divergence).items())
    yield _items(divergence.hints, "**hint**: ")
    yield _table(("tensor", "expected", "actual"), wording.tensor_rows(divergence))
    if divergence.growth:
        columns = ("node", "operator", "module", "relative error")
        yield _folded("Error on the way to it", _table(columns, map(wording.growth_row, divergence.growth)))


def _details(report: ParityReport) -> Iterator[str]:
    if report.notes:
        yield _folded("Notes", _items(report.notes))
    if report.computations:
        columns = ("computation", "adds", "outputs", "atol", "rtol", "ratio", "because")
        yield _folded("Tolerances", _table(columns, map(_judged_by, report.computations)))
    if report.guard is not None:
        bounds = {row.measure: (shown(row.measure, row.bound), row.reason) for row in report.guard.rows}
        rows = ((measure, *of) for measure, of in bounds.items())
        yield _folded("Thresholds", _table(("measure", "bound", "because"), rows))
        if layers := layer_rows(report.guard, None):
            yield _folded("Layers", _table((layers_title(report.guard, None), *HEADINGS), layers))
    if report.kept:
        headings = ("stays in float32", "node", "operator", "because")
        kept = ((each.path or "–", each.node, each.operator, each.reason) for each in report.kept)
        yield _folded("In float32", _table(headings, kept))


def _judged_by(computation: Computation) -> tuple[str, ...]:
    allowed = computation.tolerance
    bounds = (f"{bound:g}" for bound in (allowed.atol, allowed.rtol, allowed.ratio))
    return (computation.name, computation.stage, str(len(computation.outputs)), *bounds, allowed.reason)


def _table(header: Sequence[str], rows: Iterable[Iterable[str]], align: str = "---") -> str:
    """The first column is names, to the left."""
    lines = [map(_escaped, header), ["---", *[align] * (len(header) - 1)], *(map(_escaped, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _items(lines: Iterable[str], before: str = "") -> str:
    return "\n".join(f"- {before}{_escaped(line)}" for line in lines)


def _folded(summary: str, body: str) -> str:
    # The blank lines are what makes a renderer read Markdown inside of HTML.
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", printable(text))
