"""A failed report → which stage broke it, and the first node that went wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from aaexport.errors import AaexportError
from aaexport.graph.files import OnnxModel
from aaexport.graph.metadata import Provenance
from aaexport.graph.outside import Room
from aaexport.graph.write import write_onnx
from aaexport.parity import Case, Computation, Divergence, ParityReport, Stage
from aaexport.parity.hints import baked_in_batch
from aaexport.pipeline.export.export import Exported, export_again
from aaexport.pipeline.subject.subject import Subject
from aaexport.pipeline.verify.locate import locate_in_export, locate_in_file, locate_in_rules, locate_in_runtime
from aaexport.pipeline.verify.matrix import Matrix
from aaexport.pipeline.verify.rows import DEVICE_STAGES, REFERENCE, Row
from aaexport.pipeline.verify.search import OTHER_WAY
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import AS_WRITTEN, UNOPTIMIZED

NOWHERE = "no tensor inside both differs before the outputs do"
OF_THE_FILE: tuple[Stage, ...] = ("graph rules", "file")


@dataclass(frozen=True)
class Suspect:
    """The file that failed, and what is known of its making; `exported` where `convert` has just made it."""

    path: Path
    subject: Subject
    provenance: Provenance | None
    exported: Exported | None
    changed_initializers: Collection[str] = ()


def diagnose(report: ParityReport, rows: Sequence[Row], suspect: Suspect, matrix: Matrix) -> ParityReport:
    """The report with the rows of a fresh export, if it takes them to tell the stage, and with the divergence.

    What cannot be found out is a note: a diagnosis that fails changes no verdict.
    """
    report = _kernels_told_apart(report)
    broken = next((row for row, done in zip(rows, report.computations, strict=True) if done.failures), None)
    if broken is None:
        return _where_digests_tell(report, suspect, matrix)
    if broken.stage in ("decomposition", "service"):  # whose nodes are not to be had
        return report
    case = _telling_case(broken, matrix.cases)
    if report.broken_stage in OF_THE_FILE:
        return _with_hint_of_batch(_in_file(report, suspect, matrix, case), broken, matrix.cases)
    return _with_divergence(report, lambda: _in_runtime(suspect.path, broken, case, report.broken_stage))


def _where_digests_tell(report: ParityReport, suspect: Suspect, matrix: Matrix) -> ParityReport:
    """Numbers that are others than those converted, but too little to be seen in any output."""
    changed = suspect.changed_initializers
    if not changed:
        return report
    subject, provenance = suspect.subject, suspect.provenance
    with _room() as room:
        return _with_divergence(
            report, lambda: locate_in_file(suspect.path, subject, provenance, matrix.cases[0], None, changed, room)
        )


def _in_file(report: ParityReport, suspect: Suspect, matrix: Matrix, case: Case) -> ParityReport:
    """Judges what torch's exporter and the graph rules make of the model, then looks for the node."""
    if suspect.subject.golden is not None:
        return _without_place(report, "the module is needed to look inside: give it with --module FILE.py:NAME")
    with _room() as room:
        return _in_exports(report, suspect, matrix, case, room)


def _in_exports(report: ParityReport, suspect: Suspect, matrix: Matrix, case: Case, room: Room) -> ParityReport:
    try:
        exported = suspect.exported or export_again(suspect.subject, suspect.provenance, room)
        fresh = () if exported is None else _fresh_computations(exported, suspect, matrix, case)
    except AaexportError as error:
        return _without_place(report, error)
    at = sum(done.stage == "decomposition" for done in report.computations)
    report = replace(report, computations=(*report.computations[:at], *fresh, *report.computations[at:]))

    def find() -> Divergence | None:
        if exported is not None and report.broken_stage == "exporter":
            return locate_in_export(exported, case)
        if exported is not None and report.broken_stage == "graph rules":
            return locate_in_rules(exported, case)
        subject, provenance = suspect.subject, suspect.provenance
        return locate_in_file(suspect.path, subject, provenance, case, exported, suspect.changed_initializers, room)

    return _with_divergence(report, find)


def _room() -> Room:
    """For weights of exports that are thrown away when the place is found."""
    return Room(Path(tempfile.gettempdir()))


def _with_divergence(report: ParityReport, find: Callable[[], Divergence | None]) -> ParityReport:
    try:
        found = find()
    except AaexportError as error:
        return _without_place(report, error)
    return replace(report, divergence=found) if found is not None else _without_place(report, NOWHERE)


def _with_hint_of_batch(report: ParityReport, row: Row, cases: Sequence[Case]) -> ParityReport:
    failed = {output.case for output in row.outputs if not output.passed}
    seen = {output.case for output in row.outputs}
    failing, passing = ([case for case in cases if case.name in names] for names in (failed, seen - failed))
    hint = baked_in_batch(failing, passing)
    if hint is None or report.divergence is None:
        return report if hint is None else replace(report, notes=(*report.notes, f"hint: {hint}"))
    return replace(report, divergence=replace(report.divergence, hints=(*report.divergence.hints, hint)))


def _without_place(report: ParityReport, why: AaexportError | str) -> ParityReport:
    return replace(report, notes=(*report.notes, f"the place of the failure was not found: {why}"))


def _fresh_computations(exported: Exported, suspect: Suspect, matrix: Matrix, case: Case) -> tuple[Computation, ...]:
    forms: dict[tuple[str, Stage], OnnxModel] = {("export, before the rules", "exporter"): exported.written_by_torch}
    if suspect.exported is None:
        forms["export, after the rules", "graph rules"] = exported.model
    with tempfile.TemporaryDirectory(prefix="aaexport-") as folder:
        rows: list[Row] = []
        for (name, stage), model in forms.items():
            path = Path(folder) / f"{len(rows)}.onnx"
            write_onnx(model, path)
            judged, start = matrix.options.judged.on("cpu"), partial(OrtRunner, path, AS_WRITTEN)
            rows.append(Row(name, stage, judged, start))
        matrix.judge.judge(rows, [case])
    return tuple(row.result() for row in rows)


def _in_runtime(path: Path, row: Row, case: Case, stage: Stage | None) -> Divergence | None:
    if row.open_model is None:
        return None
    # The device's own arithmetic differs everywhere: only what is further off than its row allows is a place.
    slack = OTHER_WAY if row.stage not in DEVICE_STAGES else row.tolerances.row.rtol / float(np.finfo(np.float32).eps)
    return locate_in_runtime(path, row.open_model, row.name, case, kernels=stage == "kernels", slack=slack)


def _kernels_told_apart(report: ParityReport) -> ParityReport:
    """Where the reference evaluator computes right what onnxruntime's kernels do not, it is not the file."""
    by_name = {done.name: done for done in report.computations}
    reference, unoptimized = by_name.get(REFERENCE), by_name.get(UNOPTIMIZED)
    if reference is None or unoptimized is None or not reference.passed:
        return report
    failed = {(output.case, output.output) for output in unoptimized.outputs if not output.passed}
    seen = {(output.case, output.output) for output in reference.outputs}
    if not failed & seen:
        return report
    told = replace(unoptimized, stage="kernels")
    return replace(report, computations=tuple(told if done is unoptimized else done for done in report.computations))


def _telling_case(row: Row, cases: Sequence[Case]) -> Case:
    """The smallest case that the row fails, an ordinary one if there is one; the first if the row could not begin."""
    failed = {output.case for output in row.outputs if not output.passed}
    candidates = [case for case in cases if case.name in failed] or cases[:1]
    return min(candidates, key=lambda case: (case.kind != "ordinary", len(case.batch)))
