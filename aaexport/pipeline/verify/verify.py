"""(model, ONNX file) → ParityReport: the file against the definition in float64, stage by stage.

The matrix has a row for everything that computes (`computations` in this wing) and a column for every kind of
input (`inputs`). The first row that fails tells which stage broke parity; then the first node that went wrong is
looked for (`locate`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Unpack

from torch import nn

from aaexport.capture.source import Source, require_source
from aaexport.errors import (
    ArgumentError,
    FolderError,
    GraphError,
    broken_rule,
    did_you_mean,
)
from aaexport.folder import DTYPES, Dtype, ModelFolder, find_model
from aaexport.graph.alive import bytes_alive
from aaexport.graph.audit import Audit, audit
from aaexport.graph.files import (
    GraphSummary,
    converted_size,
    file_digest,
    summarize_model,
)
from aaexport.graph.metadata import PREFIX, RULES_KEY, Provenance, preprocessing, read_metadata
from aaexport.graph.precision.kinds import read_origin
from aaexport.nn.augmented import augmented_layers
from aaexport.nn.memory import BYTES_IN_FLOAT64, require_memory, require_memory_for_weights
from aaexport.nn.own_settings import own_settings
from aaexport.outcome import verb
from aaexport.overrides import overridden
from aaexport.parity import ParityReport, Truth
from aaexport.pipeline.export.export import Exported
from aaexport.pipeline.subject.subject import ImageShape, Subject, as_subject
from aaexport.pipeline.verify.diagnose import Suspect, diagnose
from aaexport.pipeline.verify.guarded import Guard
from aaexport.pipeline.verify.kinds import folder_file, hint_of_kind, is_reduced, judged_as, others_of
from aaexport.pipeline.verify.matrix import Matrix, fixed_batch
from aaexport.pipeline.verify.options import FileDtype, Judged, VerifyOptions, VerifyOverrides
from aaexport.pipeline.verify.reduced import guarded_report
from aaexport.pipeline.verify.services import find_services, notes_on, serves_another_file, with_rows_of
from aaexport.report.machine import parity_json
from aaexport.writing import unchanged, write_json

NAMED_OUTPUTS = 5
NO_METADATA = "the file tells nothing of its origin: whether it is stale, or a little changed, is not known"
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


def kept(report: ParityReport, folder: ModelFolder, dtype: Dtype = "float32") -> ParityReport:
    """The report, written into the folder; with a note of it where that cannot be written: the verdict counts."""
    try:
        write_json(folder.parity_of(dtype), parity_json(report))
        folder.write_manifest()
    except FolderError as error:
        return replace(report, notes=(*report.notes, f"the report is not kept: {error}"))
    return report


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
    with ExitStack() as held:
        held.enter_context(unchanged(path, "judged"))
        # Its numbers too, once they are known and before they are read: the file is parsed no second time for that.
        audit_file = partial(audit, path, lambda beside: held.enter_context(unchanged(path, "judged", beside)))
        return _judged(subject, path, audit_file, options, named or path, exported, guard, say)


def _judged(
    subject: Subject,
    path: Path,
    audit_file: Callable[[], Audit],
    options: VerifyOptions,
    named: Path,
    exported: Exported | None,
    guard: Guard | None,
    say: Say,
) -> tuple[ParityReport, list[Truth]]:
    audited = audit_file()
    report = ParityReport(
        str(named),
        structure=audited.failures,
        warnings=audited.warnings,
        seed=options.seed,
        strict=options.strict,
    )
    if audited.model is None:  # numbers outside its folder: nothing may run it
        return report, []
    report = replace(report, onnx_sha256=file_digest(path, audited.data_files))
    summary = summarize_model(audited.model, path, audited.data_files)
    provenance = read_metadata(summary.metadata)
    subject = observed_as_converted(subject, provenance)
    kind, origin = judged_as(audited.model, options.dtype), read_origin(audited.model)
    stale, unfit = _staleness(summary, provenance, subject), _unfit_input(summary, subject, kind)
    structure = (*report.structure, *stale, *_misinformation(summary, subject), *_output_failures(summary, subject))
    golden = subject.golden.warnings if subject.golden is not None else ()
    warnings = (*report.warnings, *golden, *_unknown_origin(provenance, subject))
    notes = (*_notes(subject), *([NO_METADATA] if provenance is None else []), *hint_of_kind(audited.model, kind))
    report = replace(report, structure=structure, notes=notes, warnings=warnings, kind=kind)
    _require_known_outputs(options.judged, subject)
    require_memory(subject.module, subject.input_shape, bytes_a_number=BYTES_IN_FLOAT64)
    require_memory_for_weights(subject.module)
    changed = audited.changed_initializers
    alive = None if unfit is not None else bytes_alive(audited.model, fixed_batch(summary) or 1)
    del audited  # and with it the model, which may be large
    if unfit is not None:
        raise GraphError("; ".join([f"{path} cannot be judged: {unfit}", *stale]))
    if is_reduced(kind):
        return guarded_report(report, path, subject, summary, kind, options, origin, guard, say), []
    name = None if subject.folder is None else subject.folder.name
    services = find_services(options, name)  # before anything slow: it may be the URL that is wrong
    outdated = tuple(
        filter(None, (serves_another_file(one.facts, one.row_name, report.onnx_sha256) for one in services))
    )
    report = replace(report, structure=(*report.structure, *outdated))
    say("verifying against PyTorch")
    matrix = Matrix(subject, summary, options, alive, say)
    rows = matrix.rows(path, provenance, "file" if exported is None else "graph rules")
    rows = with_rows_of(services, rows, summary, options)
    for service, row in zip(services, rows[len(rows) - len(services) :], strict=True):
        matrix.notes += notes_on(service, row.sizes)
    report = matrix.filled(report, rows)
    if report.passed or not options.locate or stale or report.broken_stage == "service":
        return report, matrix.judge.truths
    say("looking for the first node that went wrong")
    suspect = Suspect(path, subject, provenance, exported, changed)
    return diagnose(report, rows, suspect, matrix), matrix.judge.truths


def observed_as_converted(subject: Subject, provenance: Provenance | None) -> Subject:
    """The subject with attention weights among its outputs, if the file has them there."""
    if provenance is None or not provenance.with_attention or not augmented_layers(subject.module):
        return subject
    return subject if subject.with_attention else subject.observed()


def _unfit_input(summary: GraphSummary, subject: Subject, kind: FileDtype) -> str | None:
    """Why the model's images cannot be fed to the file; None if they can."""
    if len(summary.inputs) != 1:
        return broken_rule("the file", "have one input", len(summary.inputs))
    tensor, wanted = summary.inputs[0], subject.input_shape
    name = f"input {tensor.name}"
    fits = len(tensor.shape) == 4 and all(
        got == want or not isinstance(got, int) for got, want in zip(tensor.shape[1:], wanted, strict=False)
    )
    if not fits:
        return broken_rule(name, f"have the shape {('batch', *wanted)}", tensor.shape)
    taken = ("float", "float16") if kind == "float16" else ("float",)
    if tensor.dtype not in taken:
        return broken_rule(name, "be float32 or float16" if kind == "float16" else "be float32", tensor.dtype)
    if isinstance(tensor.shape[0], int) and tensor.shape[0] < 1:
        return broken_rule(name, "have a batch of at least 1", tensor.shape)
    return None


def _output_failures(summary: GraphSummary, subject: Subject) -> tuple[str, ...]:
    names = [tensor.name for tensor in summary.outputs]
    if names == list(subject.output_names):
        return ()
    return (broken_rule("outputs", f"be {list(subject.output_names)}, in this order", names),)


def _misinformation(summary: GraphSummary, subject: Subject) -> tuple[str, ...]:
    """What a file of ours tells of preprocessing and labels, and is not what the recipe says."""
    provenance = read_metadata(summary.metadata)
    if subject.recipe is None or provenance is None:
        return ()
    wanted = {PREFIX + key: value for key, value in preprocessing(subject.recipe.input).items()}
    if provenance.recipe_digest is None and not wanted.keys() & summary.metadata.keys():
        return ()  # a file of a bare module says nothing of it
    remedy = "whoever feeds the file would do it wrongly: convert again"
    return tuple(
        broken_rule(f"metadata {key}", f"be the recipe's {value}", summary.metadata.get(key, "none"), remedy)
        for key, value in wanted.items()
        if summary.metadata.get(key) != value
    )


def _require_known_outputs(judged: Judged, subject: Subject) -> None:
    """ArgumentError for a bound of an output that there is not."""
    for name, bounds in (("atol", judged.atol), ("rtol", judged.rtol)):
        for output in bounds if isinstance(bounds, Mapping) else ():
            if output and output not in subject.output_names:
                rule = f"be of an output ({', '.join(subject.output_names[:NAMED_OUTPUTS])})"
                raise ArgumentError(broken_rule(name, rule, output, did_you_mean(output, subject.output_names)))


def _staleness(summary: GraphSummary, provenance: Provenance | None, subject: Subject) -> tuple[str, ...]:
    if provenance is None:
        is_broken = any(key.startswith(PREFIX) for key in summary.metadata.keys() - {RULES_KEY})
        return ("the file's metadata must be whole, got parts of them; convert again",) if is_broken else ()
    failures = []
    remedy = "the file is stale: convert again"
    if provenance.weights_digest != subject.weights_digest:
        failures.append(f"the file must hold the model's weights, but their digests differ; {remedy}")
    recipe = None if subject.folder is None or subject.recipe is None else subject.folder.recipe
    if recipe is not None and provenance.recipe_digest not in (None, recipe.digest()):
        failures.append(f"the file must be made from this recipe, but their digests differ; {remedy}")
    return tuple(failures)


def _unknown_origin(provenance: Provenance | None, subject: Subject) -> tuple[str, ...]:
    """A warning of a file of ours that does not say which recipe it was made from, though there is one."""
    if provenance is None or subject.recipe is None or provenance.recipe_digest is not None:
        return ()
    return ("the file must tell the recipe that it was made from, got none: a change of the recipe goes unseen",)


def _notes(subject: Subject) -> tuple[str, ...]:
    if subject.own_size is None:
        return subject.notes
    height, width = subject.own_size
    return (f"for images of {height}×{width}, which is not the recipe's size", *subject.notes)
