"""ParityReport → JUnit XML, which CI systems show as tests.

One suite; a test for each output of each case of each computation, for each measure of a file in fewer bits and each
fault that its guard finds in it, for each failure of the file itself, and for each warning, which counts as skipped
unless it is a failure. Times are left out: none was measured for one test.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.etree import ElementTree as Xml

from aaexport.parity import Computation, Divergence, OutputParity, ParityReport
from aaexport.report.parity import wording
from aaexport.report.parity.guard import guard_figures
from aaexport.report.printable import printable

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


def parity_junit(report: ParityReport) -> str:
    """The report as a document for a file in UTF-8. Whatever did not pass has at least one failed test."""
    return _document(f"parity of {report.onnx}", list(_cases(report)), _properties(report), _said(report))


def no_verdict_junit(reason: str) -> str:
    """A document with one test in error: the file could not be judged."""
    case = Xml.Element("testcase", classname="parity", name="could be judged")
    Xml.SubElement(case, "error", message=printable(reason), type="parity").text = printable(reason)
    return _document("parity", [case], {}, [reason])


def _document(name: str, cases: list[Xml.Element], properties: dict[str, str], said: Iterable[str]) -> str:
    found = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    counts = {"tests": str(len(cases))}
    counts |= {many: str(sum(case.find(one) is not None for case in cases)) for many, one in found.items()}
    root = Xml.Element("testsuites", counts)
    suite = Xml.SubElement(root, "testsuite", {"name": printable(name), **counts})
    entries = Xml.SubElement(suite, "properties") if properties else suite
    for key, value in properties.items():
        Xml.SubElement(entries, "property", name=printable(key), value=printable(value))
    suite.extend(cases)
    Xml.SubElement(suite, "system-out").text = "\n".join(map(printable, said))
    Xml.indent(root)
    return DECLARATION + Xml.tostring(root, encoding="unicode") + "\n"


def _properties(report: ParityReport) -> dict[str, str]:
    tolerances = {f"tolerance of {row.name}": _tolerance(row) for row in report.computations}
    return {"file": report.onnx, "seed": str(report.seed), "strict": str(report.strict).lower(), **tolerances}


def _tolerance(row: Computation) -> str:
    allowed = row.tolerance
    bounds = f"atol {allowed.atol:g}, rtol {allowed.rtol:g}, ratio {allowed.ratio:g}, {allowed.floor_ulps:g} ulp"
    return f"{bounds}: {allowed.reason}"


def _cases(report: ParityReport) -> Iterator[Xml.Element]:
    for failure in report.structure:
        yield _case("structure", failure, failure)
    for row in report.computations:
        if row.failure is not None:
            yield _case(row.name, "can be run", row.failure)
        for output in row.outputs:
            yield _case(row.name, f"{output.case}: {output.output}", output.failure, _figures(output))
    for lost in () if report.guard is None else report.guard.rows:
        where = f"{lost.computation} against {lost.against}"
        yield _case(where, f"{lost.measure}: {lost.output}", lost.complaint, guard_figures(lost))
    for fault in () if report.guard is None else report.guard.faults:
        yield _case("guard", fault, fault)
    for warning in report.warnings:
        case = _case("warnings", warning, warning if report.strict else None)
        if not report.strict:
            Xml.SubElement(case, "skipped", message=printable(warning))
        yield case
    if not any(output.compared for output in report.outputs) and report.guard is None:
        yield _case("parity", "something was compared", "nothing was compared")


def _case(group: str, name: str, failure: str | None, said: str = "") -> Xml.Element:
    case = Xml.Element("testcase", classname=printable(group), name=printable(name))
    if failure is not None:
        message = printable(failure)
        Xml.SubElement(case, "failure", message=message, type="parity").text = message
    if said:
        Xml.SubElement(case, "system-out").text = said
    return case


def _figures(output: OutputParity) -> str:
    figures = {
        "largest error": output.max_abs_error,
        "mean error": output.mean_abs_error,
        "error ratio": output.error_ratio,
        "cosine": output.cosine,
        "SQNR in dB": output.sqnr_db,
        "top-1 same": output.top1_agreement,
        "top-5 same": output.top5_agreement,
    }
    return ", ".join(f"{name} {figure:.6g}" for name, figure in figures.items() if figure is not None)


def _said(report: ParityReport) -> Iterator[str]:
    """What is to be known of the whole."""
    yield wording.verdict(report)
    yield from wording.circumstances(report)
    yield from (f"note: {note}" for note in report.notes)
    yield from filter(None, [wording.broken_stage(report)])
    if report.divergence is not None:
        yield from _divergence(report.divergence)


def _divergence(divergence: Divergence) -> Iterator[str]:
    yield wording.divergence_title(divergence)
    yield from (f"{name}: {value}" for name, value in wording.divergence_facts(divergence).items())
    for fact, expected, actual in wording.tensor_rows(divergence):
        yield f"{fact}: expected {expected}, got {actual}"
    yield from (f"error on the way: {', '.join(wording.growth_row(step))}" for step in divergence.growth)
    yield from (f"hint: {hint}" for hint in divergence.hints)
