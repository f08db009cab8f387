"""ParityReport → JUnit XML, which CI systems show as tests.

One suite; a test for each output of each case of each computation, for each failure of the file itself, and for each
warning, which counts as skipped unless it is a failure. Times are left out: none was measured for one test.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as Xml

from aaexport.parity import Computation, Divergence, OutputParity, ParityReport
from aaexport.report import wording

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


def parity_junit(report: ParityReport) -> str:
    """The report as a document for a file in UTF-8. Whatever did not pass has at least one failed test."""
    cases = list(_cases(report))
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": "0",
        "skipped": str(sum(case.find("skipped") is not None for case in cases)),
    }
    root = Xml.Element("testsuites", counts)
    suite = Xml.SubElement(root, "testsuite", {"name": wording.printable(f"parity of {report.onnx}"), **counts})
    properties = Xml.SubElement(suite, "properties")
    for name, value in _properties(report).items():
        Xml.SubElement(properties, "property", name=wording.printable(name), value=wording.printable(value))
    suite.extend(cases)
    Xml.SubElement(suite, "system-out").text = "\n".join(map(wording.printable, _said(report)))
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
    for warning in report.warnings:
        case = _case("warnings", warning, warning if report.strict else None)
        if not report.strict:
            Xml.SubElement(case, "skipped", message=wording.printable(warning))
        yield case
    if not report.outputs:
        yield _case("parity", "something was compared", "nothing was compared")


def _case(group: str, name: str, failure: str | None, said: str = "") -> Xml.Element:
    case = Xml.Element("testcase", classname=wording.printable(group), name=wording.printable(name))
    if failure is not None:
        message = wording.printable(failure)
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
