"""(ONNX file, what is known of its model) → what is wrong with the file before anything runs it. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from aaexport.errors import FolderError, GraphError, broken_rule
from aaexport.folder import Dtype, ModelFolder
from aaexport.graph.audit import Audit, audit
from aaexport.graph.files import GraphSummary, file_digest, summarize_model
from aaexport.graph.metadata import PREFIX, RULES_KEY, Provenance, preprocessing, read_metadata
from aaexport.graph.precision.kinds import Origin, read_origin
from aaexport.parity import ParityReport
from aaexport.pipeline.subject.facts import Facts
from aaexport.pipeline.verify.kinds import hint_of_kind, judged_as
from aaexport.pipeline.verify.options import FileDtype, VerifyOptions
from aaexport.report.machine import parity_json
from aaexport.writing import unchanged, write_json

NO_METADATA = "the file tells nothing of its origin: whether it is stale, or a little changed, is not known"
AnyFacts = TypeVar("AnyFacts", bound=Facts)
AnyFacts_co = TypeVar("AnyFacts_co", bound=Facts, covariant=True)


@dataclass(frozen=True)
class Looked(Generic[AnyFacts_co]):
    """What is known of a file.

    Attributes:
        path: where it lies.
        report: the verdict so far, on the file by itself.
        facts: of the model that it is to be, with the outputs that the file was converted with.
        summary: what is in it.
        provenance, origin: what it says of itself.
        kind: what it is judged as.
        stale: why it is not of these weights or this recipe, a line each.
        unfit: why the model's images cannot be fed to it, in one line; None if they can.
    """

    path: Path
    report: ParityReport
    facts: AnyFacts_co
    summary: GraphSummary
    provenance: Provenance | None
    origin: Origin | None
    kind: FileDtype
    stale: tuple[str, ...]
    unfit: str | None

    def require_fit(self) -> None:
        """GraphError if there is nothing to judge."""
        if self.unfit is not None:
            raise GraphError("; ".join([f"{self.path} cannot be judged: {self.unfit}", *self.stale]))


@contextmanager
def audited(path: Path) -> Iterator[Audit]:
    """What the file shows by itself, while the block judges it. FolderError if it is written to meanwhile."""
    with ExitStack() as held:
        held.enter_context(unchanged(path, "judged"))
        # Its numbers too, once they are known and before they are read: the file is parsed no second time for that.
        yield audit(path, lambda beside: held.enter_context(unchanged(path, "judged", beside)))


def unread(found: Audit, named: Path, options: VerifyOptions) -> ParityReport:
    """What the report begins with; all of it where numbers lie outside the folder, and nothing may run the file."""
    return ParityReport(
        str(named), structure=found.failures, warnings=found.warnings, seed=options.seed, strict=options.strict
    )


def look(found: Audit, path: Path, facts: AnyFacts, options: VerifyOptions, named: Path) -> Looked[AnyFacts]:
    """Everything but what comes out of it. ArgumentError for a dtype that is coarser than the file."""
    assert found.model is not None
    report = replace(unread(found, named, options), onnx_sha256=file_digest(path, found.data_files))
    summary = summarize_model(found.model, path, found.data_files)
    provenance = read_metadata(summary.metadata)
    facts = facts.as_converted(with_attention=provenance is not None and provenance.with_attention)
    kind = judged_as(found.model, options.dtype)
    stale, unfit = _staleness(summary, provenance, facts), _unfit_input(summary, facts, kind)
    structure = (*report.structure, *stale, *_misinformation(summary, facts), *_output_failures(summary, facts))
    golden = facts.golden.warnings if facts.golden is not None else ()
    report = replace(
        report,
        structure=structure,
        notes=(*_notes(facts), *([NO_METADATA] if provenance is None else []), *hint_of_kind(found.model, kind)),
        warnings=(*report.warnings, *golden, *_unknown_origin(provenance, facts)),
        kind=kind,
    )
    return Looked(path, report, facts, summary, provenance, read_origin(found.model), kind, stale, unfit)


def kept(report: ParityReport, folder: ModelFolder, dtype: Dtype = "float32") -> ParityReport:
    """The report, written into the folder; with a note of it where that cannot be written: the verdict counts."""
    try:
        write_json(folder.parity_of(dtype), parity_json(report))
        folder.write_manifest()
    except FolderError as error:
        return replace(report, notes=(*report.notes, f"the report is not kept: {error}"))
    return report


def _unfit_input(summary: GraphSummary, facts: Facts, kind: FileDtype) -> str | None:
    """Why the model's images cannot be fed to the file; None if they can."""
    if len(summary.inputs) != 1:
        return broken_rule("the file", "have one input", len(summary.inputs))
    tensor, wanted = summary.inputs[0], facts.input_shape
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


def _output_failures(summary: GraphSummary, facts: Facts) -> tuple[str, ...]:
    names = [tensor.name for tensor in summary.outputs]
    if names == list(facts.output_names):
        return ()
    return (broken_rule("outputs", f"be {list(facts.output_names)}, in this order", names),)


def _misinformation(summary: GraphSummary, facts: Facts) -> tuple[str, ...]:
    """What a file of ours tells of preprocessing and labels, and is not what the recipe says."""
    provenance = read_metadata(summary.metadata)
    if facts.recipe is None or provenance is None:
        return ()
    wanted = {PREFIX + key: value for key, value in preprocessing(facts.recipe.input).items()}
    if provenance.recipe_digest is None and not wanted.keys() & summary.metadata.keys():
        return ()  # a file of a bare module says nothing of it
    remedy = "whoever feeds the file would do it wrongly: convert again"
    return tuple(
        broken_rule(f"metadata {key}", f"be the recipe's {value}", summary.metadata.get(key, "none"), remedy)
        for key, value in wanted.items()
        if summary.metadata.get(key) != value
    )


def _staleness(summary: GraphSummary, provenance: Provenance | None, facts: Facts) -> tuple[str, ...]:
    if provenance is None:
        is_broken = any(key.startswith(PREFIX) for key in summary.metadata.keys() - {RULES_KEY})
        return ("the file's metadata must be whole, got parts of them; convert again",) if is_broken else ()
    failures = []
    remedy = "the file is stale: convert again"
    if provenance.weights_digest != facts.weights_digest:
        failures.append(f"the file must hold the model's weights, but their digests differ; {remedy}")
    recipe = None if facts.folder is None or facts.recipe is None else facts.folder.recipe
    if recipe is not None and provenance.recipe_digest not in (None, recipe.digest()):
        failures.append(f"the file must be made from this recipe, but their digests differ; {remedy}")
    return tuple(failures)


def _unknown_origin(provenance: Provenance | None, facts: Facts) -> tuple[str, ...]:
    """A warning of a file of ours that does not say which recipe it was made from, though there is one."""
    if provenance is None or facts.recipe is None or provenance.recipe_digest is not None:
        return ()
    return ("the file must tell the recipe that it was made from, got none: a change of the recipe goes unseen",)


def _notes(facts: Facts) -> tuple[str, ...]:
    if facts.own_size is None:
        return facts.notes
    height, width = facts.own_size
    return (f"for images of {height}×{width}, which is not the recipe's size", *facts.notes)
