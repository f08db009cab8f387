"""(float16 or int8 file, its model) → ParityReport: the file's own faults, and what the guard says of its answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aaexport.graph.files import GraphSummary, file_digest, read_data_files
from aaexport.graph.precision.kinds import Origin
from aaexport.parity import ParityReport
from aaexport.parity.report import KeptNode
from aaexport.parity.thresholds import ReducedKind
from aaexport.pipeline.subject.float32_file import why_stale
from aaexport.pipeline.subject.subject import Subject
from aaexport.pipeline.verify.guarded import Guard, gather_evidence
from aaexport.pipeline.verify.kinds import check_guarded
from aaexport.pipeline.verify.matrix import fixed_batch
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.pipeline.verify.served import told_wrongly, why_otherwise
from aaexport.pipeline.verify.services import find_services, notes_on

Say = Callable[[str], None]


def guarded_report(
    report: ParityReport,
    path: Path,
    subject: Subject,
    summary: GraphSummary,
    kind: ReducedKind,
    options: VerifyOptions,
    origin: Origin | None,
    guard: Guard | None,
    say: Say,
) -> ParityReport:
    """The report with what the guard says.

    Args:
        report: what is known of the file so far.
        path: the file.
        subject: the model that it is to be.
        summary: what is in it.
        kind: what it is judged as.
        options: what was asked.
        origin: what the file says of itself.
        guard: by which it is judged; None for one of the folder's float32 file and held-out images.
        say: is told each step.

    Raises:
        ArgumentError: an option that has no meaning for such a file.
        DataError: there are no images that could judge it.
        RunnerError: PyTorch or the float32 file cannot be run.
        ServiceError: a live service cannot be reached, or has no such model.
    """
    check_guarded(options, kind)
    services = find_services(options, None if subject.folder is None else subject.folder.name)
    told = tuple(fault for one in services for fault in told_wrongly(one, summary, report.onnx_sha256))
    report = replace(report, structure=(*report.structure, *told))
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    if guard is None:
        sibling, notes = _sibling(subject, path)
        warnings = () if sibling is None or origin is None else _made_of_another(origin, sibling)
        evidence = gather_evidence(subject, kind, options.inputs, summary.macs, options.seed)
        batch = fixed_batch(summary)
        guard = Guard(subject, kind, sibling, evidence, summary.macs, batch, say, device=options.device)
    say(f"judging {kind} on {guard.evidence.data}")
    judged = guard.report(path)
    for service in () if told else services:
        say(f" {service.row_name}")
        wrong, asked = why_otherwise(service, path, kind, guard.evidence.images, options)
        report = replace(report, structure=(*report.structure, *([wrong] if wrong else [])))
        notes = (*notes, *([] if wrong else [asked]), *notes_on(service, ()))
    return replace(
        report,
        kind=kind,
        guard=judged,
        kept=() if origin is None else tuple(KeptNode(*row) for row in origin.kept),
        notes=(*report.notes, *notes, *guard.notes),
        warnings=(*report.warnings, *warnings, *guard.evidence.warnings),
    )


def _sibling(subject: Subject, path: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The folder's float32 file, if it is whole and of this model; a note where it cannot be compared with."""
    alone = "judged by PyTorch in float32, as there is no float32 file to compare with"
    if subject.folder is None or not subject.folder.onnx_path.is_file() or subject.folder.onnx_path == path:
        return None, (alone,)
    sibling = subject.folder.onnx_path
    stale = why_stale(subject.folder, subject)
    return (sibling, ()) if stale is None else (None, (f"{alone}: {stale}",))


def _made_of_another(origin: Origin, sibling: Path) -> tuple[str, ...]:
    """A warning if the float32 file that lies there is not the one that the reduced one was made of."""
    if not origin.source or origin.source == file_digest(sibling, read_data_files(sibling)):
        return ()
    return (
        f"the file must be made of the {sibling.name} beside it, got another one's digest: "
        f"write it again with --dtype {origin.kind}",
    )
