"""(model, ONNX file) → ParityReport: the file against the definition in float64, stage by stage.

The matrix has a row for everything that computes (`computations` in this wing) and a column for every kind of
input (`inputs`). The first row that fails tells which stage broke parity; then the first node that went wrong is
looked for (`locate`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from torch import nn

from aaexport.capture.source import Source, require_source
from aaexport.errors import ArgumentError, broken_rule, did_you_mean
from aaexport.folder import DTYPES, ModelFolder, find_model
from aaexport.graph.alive import bytes_alive
from aaexport.graph.files import converted_size
from aaexport.nn.own_settings import own_settings
from aaexport.outcome import verb
from aaexport.overrides import overridden
from aaexport.parity import ParityReport, Truth
from aaexport.pipeline.export.export import Exported
from aaexport.pipeline.subject.subject import ImageShape, Subject, as_subject
from aaexport.pipeline.verify.feeding import fixed_batch
from aaexport.pipeline.verify.guarded import Guard
from aaexport.pipeline.verify.kinds import folder_file, is_reduced, others_of
from aaexport.pipeline.verify.looked import Looked, audited, kept, look, unread
from aaexport.pipeline.verify.matrix import Matrix
from aaexport.pipeline.verify.options import Judged, VerifyOptions, VerifyOverrides
from aaexport.pipeline.verify.oracles import require_memory_for_float64
from aaexport.pipeline.verify.reduced import guarded_report
from aaexport.pipeline.verify.service_rows import with_rows_of
from aaexport.pipeline.verify.services import find_services, notes_on, serves_another_file

NAMED_OUTPUTS = 5
Say = Callable[[str], None]


@verb
@own_settings()
def verify(
    model: nn.Module | str | Path | ModelFolder,
    onnx: str | Path | None = None,
    *,
    input_shape: ImageShape | None = None,
    size: tuple[int, int] | None = None,
    module: str | None = None,
    options: VerifyOptions | None = None,
    say: Say = lambda step: None,
    **overrides: Unpack[VerifyOverrides],
) -> ParityReport:
    """Runs an ONNX file and judges it against `model` (DESIGN: truth is float64).

    Inputs are held-out images of the recipe's data set, where it can be had offline, and made-up ones
    (`aaexport.parity.made_up_cases`), at batch 1, 2, 3 and 7, or at the batch that the file fixes. A wrong file is a
    failed report, not an exception. Attention weights that the file has as outputs are judged like every other one.

    Args:
        model: a zoo name, a model folder, or a module in float32 (then `input_shape` = (C, H, W) is needed).
        onnx: the file; the folder's model.onnx by default.
        input_shape: of one image, for a module.
        size: (H, W) of the images; by default the one that the file was converted for, else the recipe's.
        module: `FILE.py:NAME`, `package.module:NAME` or `FILE.pt2` that a folder was converted from: it is imported
            and says what is right. Without it the golden vectors of its conversion do.
        options: who computes, on what, and how it is judged.
        say: is told each step as it begins, and its parts as lines that begin with a blank.
        overrides: fields of `VerifyOptions` that are to be other than in `options`, or than their defaults.

    Raises:
        GraphError: the file is not a whole ONNX model, or takes other inputs than the model: nothing to judge.
        DataError: `inputs` cannot be read or do not fit.
        RunnerError: PyTorch cannot run the model.
        ProviderError: a runtime that was asked for, or `device`, does not work here.
        ServiceError: a service at `url` cannot be reached, refuses, or has no such model.
        Others as `aaexport.convert` raises for `model`.
    """
    options = overridden(options or VerifyOptions(), overrides, verify)
    options.check()
    if not isinstance(model, nn.Module):
        folder = model if isinstance(model, ModelFolder) else find_model(model)
        source = None if module is None else require_source(module)
        return verify_folder(folder, onnx, options, input_shape=input_shape, size=size, source=source, say=say)
    if module is not None:
        raise ArgumentError(broken_rule("module", "be given for a folder that was made of one", module))
    if onnx is None:
        raise ArgumentError("onnx must be given for a module, got None")
    report, _ = judge_file(as_subject(model, input_shape, size), Path(onnx), options, say=say)
    return report


@own_settings()
def verify_folder(
    folder: ModelFolder,
    onnx: str | Path | None,
    options: VerifyOptions,
    *,
    input_shape: ImageShape | None = None,
    size: tuple[int, int] | None = None,
    source: Source | None = None,
    say: Say = lambda step: None,
) -> ParityReport:
    """As `verify`, for a folder; the report on its own model.onnx is kept in it."""
    path = folder_file(folder, options.dtype) if onnx is None else Path(onnx)
    # The user's code may print whenever it runs, and stdout is for results.
    with nullcontext() if source is None else redirect_stdout(sys.stderr):
        subject = as_subject(folder, input_shape, size or converted_size(path), source=source)
        report, _ = judge_file(subject, path, options, say=say)
    # A report on services too is of a moment: what the folder keeps is of its file.
    report = replace(report, notes=(*report.notes, *others_of(folder, path)))
    own = next((dtype for dtype in DTYPES if path == folder.onnx_of(dtype)), None)
    if own is None or own not in ("float32", report.kind) or options.url:  # judged as another kind than its own
        return report
    return kept(report, folder, own)


def judge_file(
    subject: Subject,
    path: Path,
    options: VerifyOptions,
    *,
    named: Path | None = None,
    exported: Exported | None = None,
    guard: Guard | None = None,
    say: Say = lambda step: None,
) -> tuple[ParityReport, list[Truth]]:
    """As `verify`, for a subject at hand, and what the file was judged by.

    `named` is what the report calls the file, `exported` what it was, `guard` what judges it if it is a reduced one.
    """
    options.check()
    with audited(path) as found:
        if (model := found.model) is None:
            return unread(found, named or path, options), []
        looked = look(found, path, subject, options, named or path)
        _require_known_outputs(options.judged, looked.facts)
        if is_reduced(looked.kind):
            looked.require_fit()
            del found, model  # which may be large
            return guarded_report(looked, options, guard, say), []
        require_memory_for_float64(looked.facts)
        looked.require_fit()
        changed = found.changed_initializers
        alive = bytes_alive(model, fixed_batch(looked.summary) or 1)
        del found, model
        return _by_the_matrix(looked, changed, alive, options, exported, say)


def _by_the_matrix(
    looked: Looked[Subject],
    changed: tuple[str, ...],
    alive: int | None,
    options: VerifyOptions,
    exported: Exported | None,
    say: Say,
) -> tuple[ParityReport, list[Truth]]:
    """A file in float32 against the definition."""
    path, subject, summary, provenance = looked.path, looked.facts, looked.summary, looked.provenance
    name = None if subject.folder is None else subject.folder.name
    services = find_services(options, name)  # before anything slow: it may be the URL that is wrong
    outdated = (serves_another_file(one.facts, one.row_name, looked.report.onnx_sha256) for one in services)
    report = replace(looked.report, structure=(*looked.report.structure, *filter(None, outdated)))
    say("verifying against PyTorch")
    matrix = Matrix(subject, summary, options, alive, say)
    rows = matrix.rows(path, provenance, "file" if exported is None else "graph rules")
    rows = with_rows_of(services, rows, summary, options)
    for service, row in zip(services, rows[len(rows) - len(services) :], strict=True):
        matrix.notes += notes_on(service, row.sizes)
    report = matrix.filled(report, rows)
    if report.passed or not options.locate or looked.stale or report.broken_stage == "service":
        return report, matrix.judge.truths
    from aaexport.pipeline.verify.diagnose import Suspect, diagnose

    say("looking for the first node that went wrong")
    suspect = Suspect(path, subject, provenance, exported, changed)
    return diagnose(report, rows, suspect, matrix), matrix.judge.truths


def _require_known_outputs(judged: Judged, subject: Subject) -> None:
    """ArgumentError for a bound of an output that there is not."""
    for name, bounds in (("atol", judged.atol), ("rtol", judged.rtol)):
        for output in bounds if isinstance(bounds, Mapping) else ():
            if output and output not in subject.output_names:
                rule = f"be of an output ({', '.join(subject.output_names[:NAMED_OUTPUTS])})"
                raise ArgumentError(broken_rule(name, rule, output, did_you_mean(output, subject.output_names)))
