"""(float16 or int8 file, its model) → ParityReport: the file's own faults, and what the guard says of its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from aaexport.graph.files import file_digest, read_data_files
from aaexport.graph.precision.kinds import Origin
from aaexport.parity import ParityReport
from aaexport.parity.report import KeptNode
from aaexport.parity.thresholds import ReducedKind
from aaexport.pipeline.subject.facts import Facts
from aaexport.pipeline.subject.float32_file import why_stale
from aaexport.pipeline.verify.feeding import fixed_batch
from aaexport.pipeline.verify.guarded import Guard, gather_evidence
from aaexport.pipeline.verify.kinds import check_guarded, is_reduced
from aaexport.pipeline.verify.looked import Looked, audited, look, unread
from aaexport.pipeline.verify.options import VerifyOptions

if TYPE_CHECKING:
    from aaexport.pipeline.verify.services import Service

Say = Callable[[str], None]


def judge_reduced(
    facts: Facts,
    path: Path,
    options: VerifyOptions,
    guard: Guard,
    *,
    named: Path,
    say: Say = lambda step: None,
) -> ParityReport:
    """As `verify` of a file in float16 or int8, by a guard at hand; `named` is what the report calls the file."""
    options.check()
    with audited(path) as found:
        if found.model is None:
            return unread(found, named, options)
        looked = look(found, path, facts, options, named)
        looked.require_fit()
        del found  # and with it the model, which may be large
        return guarded_report(looked, options, guard, say)


def guarded_report(looked: Looked[Facts], options: VerifyOptions, guard: Guard | None, say: Say) -> ParityReport:
    """The report on a file that was looked at, with what the guard says.

    Args:
        looked: what is known of the file.
        options: what was asked.
        guard: by which it is judged; None for one of the folder's float32 file and held-out images.
        say: is told each step.

    Raises:
        ArgumentError: an option that has no meaning for such a file.
        DataError: there are no images that could judge it.
        RunnerError: PyTorch or the float32 file cannot be run.
        ServiceError: a live service cannot be reached, or has no such model.
    """
    path, facts, kind, origin = looked.path, looked.facts, looked.kind, looked.origin
    assert is_reduced(kind)
    check_guarded(options, kind)
    services, told = _services(looked, options)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    if guard is None:
        sibling, notes = _sibling(facts, path)
        warnings = () if sibling is None or origin is None else _made_of_another(origin, sibling)
        evidence = gather_evidence(facts, kind, options.inputs, looked.summary.macs, options.seed)
        batch = fixed_batch(looked.summary)
        guard = Guard(facts, kind, sibling, evidence, looked.summary.macs, batch, say, device=options.device)
    say(f"judging {kind} on {guard.evidence.data}")
    judged = guard.report(path)
    wrong, asked = _asked([] if told else services, looked, kind, guard, options, say)
    report = looked.report
    return replace(
        report,
        kind=kind,
        guard=judged,
        kept=() if origin is None else tuple(KeptNode(*row) for row in origin.kept),
        structure=(*report.structure, *told, *wrong),
        notes=(*report.notes, *notes, *asked, *guard.notes),
        warnings=(*report.warnings, *warnings, *guard.evidence.warnings),
    )


def _services(looked: Looked[Facts], options: VerifyOptions) -> tuple[tuple[Service, ...], tuple[str, ...]]:
    """The live services that are said to serve the file, and what they tell that is not of it."""
    if not options.url:
        return (), ()
    from aaexport.pipeline.verify.served import told_wrongly  # and with it the clients of both protocols
    from aaexport.pipeline.verify.services import find_services

    services = find_services(options, None if looked.facts.folder is None else looked.facts.folder.name)
    digest = looked.report.onnx_sha256
    return services, tuple(fault for one in services for fault in told_wrongly(one, looked.summary, digest))


def _asked(
    services: Sequence[Service],
    looked: Looked[Facts],
    kind: ReducedKind,
    guard: Guard,
    options: VerifyOptions,
    say: Say,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which services answer otherwise than the file, a line each, and notes on what they were asked."""
    faults: list[str] = []
    notes: list[str] = []
    for service in services:
        from aaexport.pipeline.verify.served import why_otherwise
        from aaexport.pipeline.verify.services import notes_on

        say(f" {service.row_name}")
        wrong, asked = why_otherwise(service, looked.path, kind, guard.evidence.images, options)
        faults += [wrong] if wrong else []
        notes += [*([] if wrong else [asked]), *notes_on(service, ())]
    return tuple(faults), tuple(notes)


def _sibling(facts: Facts, path: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The folder's float32 file, if it is whole and of this model; a note where it cannot be compared with."""
    alone = "judged by PyTorch in float32, as there is no float32 file to compare with"
    if facts.folder is None or not facts.folder.onnx_path.is_file() or facts.folder.onnx_path == path:
        return None, (alone,)
    sibling = facts.folder.onnx_path
    stale = why_stale(facts.folder, facts)
    return (sibling, ()) if stale is None else (None, (f"{alone}: {stale}",))


def _made_of_another(origin: Origin, sibling: Path) -> tuple[str, ...]:
    """A warning if the float32 file that lies there is not the one that the reduced one was made of."""
    if not origin.source or origin.source == file_digest(sibling, read_data_files(sibling)):
        return ()
    return (
        f"the file must be made of the {sibling.name} beside it, got another one's digest: "
        f"write it again with --dtype {origin.kind}",
    )
