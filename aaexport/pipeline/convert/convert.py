"""(model, options) → model.onnx: captured, converted, checked, verified, and only then put in its place."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from torch import nn

from aaexport.device import Target
from aaexport.errors import FolderError, ParityError
from aaexport.folder import ModelFolder, find_model
from aaexport.graph.beside import require_place
from aaexport.graph.digests import record_digests
from aaexport.graph.metadata import Provenance, record_operators, record_rules, write_metadata
from aaexport.graph.on_cuda import foresee
from aaexport.graph.outside import Room, needs_two_files
from aaexport.graph.parts import operators_by_path
from aaexport.graph.rules import SkewedRelativeAttention
from aaexport.graph.write import new_onnx
from aaexport.nn.attention_maps import attention_outputs
from aaexport.nn.augmented import augmented_layers
from aaexport.nn.choice import Choice
from aaexport.nn.own_settings import own_settings
from aaexport.outcome import verb
from aaexport.overrides import overridden
from aaexport.parity import ParityReport, Truth
from aaexport.pipeline.convert.options import ConvertOptions, ConvertOverrides
from aaexport.pipeline.convert.reduced import asked_for, destination_of, recorded, size_of
from aaexport.pipeline.export.export import Exported, export
from aaexport.pipeline.export.plan import default_opset, plan_attention
from aaexport.pipeline.export.tuned import tuned_choices, tuned_opset
from aaexport.pipeline.reduce.fresh import differs, is_verified, outdated
from aaexport.pipeline.reduce.options import ReduceOptions
from aaexport.pipeline.subject.costs import cost_of, zoo_costs
from aaexport.pipeline.subject.float32_file import why_stale
from aaexport.pipeline.subject.known_truth import keep_truth
from aaexport.pipeline.subject.subject import (
    ImageShape,
    Subject,
    as_subject,
    decompositions_of,
    with_decomposition,
)
from aaexport.pipeline.verify.looked import kept
from aaexport.pipeline.verify.oracles import require_memory_for_float64
from aaexport.pipeline.verify.verify import judge_file
from aaexport.recipe import Batch, DecompositionName
from aaexport.report.machine import parity_json
from aaexport.results import ConvertResult
from aaexport.writing import check_writable, remove, temporary_folder, write_json

Say = Callable[[str], None]
LARGE = 2**28  # bytes of parameters


@verb
@own_settings()
def convert(
    model: nn.Module | str | Path | ModelFolder,
    path: str | Path | None = None,
    *,
    input_shape: ImageShape | None = None,
    size: tuple[int, int] | None = None,
    options: ConvertOptions | None = None,
    say: Say = lambda step: None,
    **overrides: Unpack[ConvertOverrides],
) -> ConvertResult:
    """Writes `model` as one ONNX file of plain `ai.onnx` operators that was verified before it got its name.

    Above protobuf's 2 GiB its large tensors lie in one data file beside it (`aaexport.graph.write`).
    Below opset 23 our own networks use nothing but what every common runtime has (`aaexport.graph.check`). What else
    a module of the user's brings along is exported as it is, and named in the result's notes.

    Args:
        model: a zoo name, a model folder with weights, or a module in float32, which is left as it is.
        path: the file to write; by default the folder's model.onnx, or its model.fp16.onnx or model.int8.onnx.
        input_shape: (C, H, W) of one image; needed for a module, the recipe's for a folder.
        size: (H, W) of the images instead of the recipe's: trained relative tables are brought to it, exactly for a
            smaller size, by interpolation for a larger one, and the result's notes say so.
        options: how it is written.
        say: is told each step as it begins, and its parts as lines that begin with a blank.
        overrides: fields of `ConvertOptions` that are to be other than in `options`, or than their defaults.

    Raises:
        ArgumentError: an argument breaks its rule.
        NoWeightsError: the folder has not been trained yet.
        ExportError, GraphError: PyTorch cannot capture or convert the module, or not into plain ONNX.
        ParityError: the file computes something else, or loses more than its dtype may; an older file at `path` is
            untouched.
        DataError: there are no images that an int8 file could be calibrated on, or they do not fit.
        FolderError: `path` cannot be written, or the folder's tuning.json is not whole.
    """
    options = overridden(options or ConvertOptions(), overrides, convert)
    options.check()
    if options.reduction is not None and not isinstance(model, nn.Module):
        model = model if isinstance(model, ModelFolder) else find_model(model)
        size = size or size_of(model)
    subject = as_subject(model, input_shape, size)
    if subject.golden is not None and options.reduction is None:
        raise _of_a_module(subject)
    destination = destination_of(subject, path, options.dtype)
    if options.reduction is not None:
        return _reduced(subject, destination, options, options.reduction, say)
    if subject.folder is not None and destination == subject.folder.onnx_path:
        result, notes = _own_file(subject, subject.folder, options, say)
        return dataclasses.replace(result, notes=(*result.notes, *notes))
    return convert_subject(subject, destination, options, say=say)


def _own_file(
    subject: Subject, folder: ModelFolder, options: ConvertOptions, say: Say
) -> tuple[ConvertResult, tuple[str, ...]]:
    """Writes the folder's model.onnx and what the folder keeps of its conversion; with notes on other files."""
    known: list[Truth] = []
    result = convert_subject(
        subject, folder.onnx_path, options, before=lambda path, truths, warnings: known.extend(truths), say=say
    )
    keep_truth(folder, subject, known)
    return result, record_conversion(folder, result.parity)


def convert_subject(
    subject: Subject,
    destination: Path,
    options: ConvertOptions,
    *,
    before: Callable[[Path, tuple[Truth, ...], tuple[str, ...]], None] = lambda path, truths, warnings: None,
    say: Say = lambda step: None,
) -> ConvertResult:
    """As `convert`, for a subject at hand.

    `before` is called once the file is right, before it gets its name, with where it is, what the verification knows
    to be right, and its warnings.
    """
    began = time.perf_counter()
    options.check()
    if options.with_attention:
        subject = subject.observed()
    if options.verify:
        require_memory_for_float64(subject)
    _check_destination(destination, subject.module)
    settings = _settled(subject, options)

    module, plan_notes = _planned(subject, settings, say)
    parity: ParityReport | None = None
    truths: list[Truth] = []
    with Room.beside(destination) as room:
        exported = _exported(subject, module, settings, room, say)
        operators = dict(Counter(node.op_type for node in exported.model.graph.node).most_common())
        rules, remarks, left = exported.rules, exported.notes, exported.left
        on_cuda = foresee(exported.model) if settings.target == "cuda" else None
        with new_onnx(destination) as new:
            new.write(exported.model)
            written, data = new.bytes, new.data
            # Of a large model a third and a fourth copy are not kept for a diagnosis: it exports again if it must.
            at_hand = exported if _bytes_of(module) < LARGE and not room.is_used else None
            del exported
            room.close()
            if options.verify:
                parity, truths = judge_file(
                    subject, new.path, options.verification, named=destination, exported=at_hand, say=say
                )
                if not parity.passed:
                    raise ParityError(f"parity failed and {destination} was not written: {parity.complaint}", parity)
            before(new.path, tuple(truths), () if parity is None else parity.warnings)
    return ConvertResult(
        path=destination,
        opset=settings.opset,
        decomposition=decompositions_of(module),
        batch=settings.batch,
        operators=operators,
        bytes=written,
        seconds=time.perf_counter() - began,
        parity=parity,
        notes=(*subject.notes, *_recognition(subject, rules), *plan_notes, *remarks, *new.notes),
        attention_outputs=attention_outputs(module) if options.with_attention else (),
        rules=rules,
        replaced={} if subject.adaptation is None else dict(subject.adaptation.replaced),
        kept=left if subject.adaptation is None else left | subject.adaptation.kept,
        data_file=data,
        on_cuda=on_cuda,
    )


def _check_destination(destination: Path, module: nn.Module) -> None:
    """FolderError before the work where it cannot be written, or not with what the module's weights will need."""
    check_writable(destination)
    if needs_two_files(_bytes_of(module)):
        require_place(destination)


def _exported(subject: Subject, module: nn.Module, settings: _Settings, room: Room, say: Say) -> Exported:
    """What is to be written, with all that it says of itself."""
    exported = export(
        subject,
        module,
        opset=settings.opset,
        batch=settings.batch,
        target=settings.target,
        max_attention_memory=settings.max_attention_memory,
        room=room,
        say=say,
    )
    _record_provenance(exported, subject, module, settings)
    return exported


@dataclass(frozen=True)
class _Settings:
    """What is wanted of the file, with a default in the place of whatever nobody asked for."""

    opset: int
    batch: Batch
    decomposition: DecompositionName | None
    max_attention_memory: float | None
    with_attention: bool
    target: Target


def _settled(subject: Subject, options: ConvertOptions) -> _Settings:
    """What was asked for, then the recipe's defaults, then the general ones."""
    opset, decomposition, batch = options.opset, options.decomposition, options.batch
    if subject.recipe is not None:
        export = subject.recipe.export
        opset = export.opset if opset is None else opset
        decomposition = export.decomposition if decomposition is None else decomposition
        batch = export.batch if batch is None else batch
    if opset is None and not options.with_attention:
        opset = tuned_opset(subject, decomposition, "dynamic" if batch is None else batch, options.target)
    if opset is None:
        opset = default_opset(subject.module, options.target, decomposition, with_attention=options.with_attention)
    return _Settings(
        opset,
        "dynamic" if batch is None else batch,
        decomposition,
        options.max_attention_memory,
        options.with_attention,
        options.target,
    )


def _planned(subject: Subject, settings: _Settings, say: Say) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of the module whose layers know how they are written out, and what a user should know of that."""
    tuned, remarks = tuned_choices(subject, settings.decomposition, settings.opset, settings.batch, settings.target)
    for remark in remarks:
        say(remark)
    # Parameters that want no gradient are traced with fewer steps; the copy is thrown away afterwards.
    module = with_decomposition(subject.module, None).requires_grad_(False)
    notes = plan_attention(module, tuned=tuned, **dataclasses.asdict(settings))
    return module, (*remarks, *notes)


def _of_a_module(subject: Subject) -> FolderError:
    """Whose folder cannot be converted by itself."""
    assert subject.folder is not None
    assert subject.folder.module_recipe is not None
    folder, module = subject.folder, subject.folder.module_recipe.module
    shape = "x".join(map(str, module.input_shape))
    kwargs = "".join(f" --kwargs {shlex.quote(each)}" for each in module.kwargs)
    again = f"aaexport convert {module.source}{kwargs} --input-shape {shape}"
    if not module.source.endswith(".pt2"):
        again += f" --checkpoint {folder.weights_path}"
    remedy = f"convert it anew with `{again} --out {folder.path}`"
    return FolderError(f"{folder.path} was made of {module.source}, whose code is needed for this; {remedy}")


def _bytes_of(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def _record_provenance(exported: Exported, subject: Subject, module: nn.Module, settings: _Settings) -> None:
    provenance = Provenance(
        subject.weights_digest,
        None if subject.folder is None or subject.recipe is None else subject.folder.recipe.digest(),
        decompositions_of(module),
        settings.opset,
        subject.own_size,
        subject.notes,
        settings.with_attention,
        settings.batch,
        settings.target,
        {path: str(Choice(layer.decomposition, layer.blocks)) for path, layer in augmented_layers(module).items()},
        settings.max_attention_memory,
    )
    write_metadata(exported.model, provenance, None if subject.recipe is None else subject.recipe.input)
    record_rules(exported.model, exported.rules)
    record_operators(exported.model, operators_by_path(exported.written_by_torch))
    record_digests(exported.model)


def _recognition(subject: Subject, rules: Mapping[str, int]) -> tuple[str, ...]:
    """A note where nothing of somebody's module is ours now; what was left although it looked so says why itself."""
    found = subject.adaptation
    if found is None or found.replaced or SkewedRelativeAttention.title in rules:
        return ()
    return ("no augmented layer of a known kind was found: the module was exported as it is",)


def _reduced(
    subject: Subject, destination: Path, options: ConvertOptions, reduction: ReduceOptions, say: Say
) -> ConvertResult:
    """A file in fewer bits, of the folder's model.onnx; that is written first where it is not up to date.

    A file of another opset, size or the like than model.onnx is made of a float32 file that is not kept.
    """
    from aaexport.pipeline.reduce.reduce import reduce_file  # what a file in float32 needs nothing of

    folder = subject.folder
    asked = asked_for(subject, options)
    stale = None if folder is None else why_stale(folder, subject)
    other = None if folder is None or stale is not None else differs(folder, asked)
    if folder is not None and subject.golden is not None and (stale or other):
        say(str(stale or other))
        raise _of_a_module(subject)
    if folder is None or other is not None:
        say("converting to float32 first" + ("" if other is None else f", as model.onnx has {other}"))
        with temporary_folder(destination.parent) as room:
            source = room / destination.name
            convert_subject(subject, source, options.in_float32, say=say)
            result = reduce_file(subject, source, destination, reduction, say, stays=False)
    else:
        if stale is not None:
            say(f"converting to float32 first: {stale}")
            for note in _own_file(subject, folder, options.in_float32, say)[1]:
                say(note)
        elif not is_verified(folder):
            _verify_first(folder, subject, options, say)
        result = reduce_file(subject, folder.onnx_path, destination, reduction, say)
    return recorded(result, folder, options)


def _verify_first(folder: ModelFolder, subject: Subject, options: ConvertOptions, say: Say) -> None:
    """ParityError if the float32 file is not right: nothing is made of such a file."""
    parity, truths = judge_file(subject, folder.onnx_path, options.verification, say=say)
    if not parity.passed:
        rule = f"parity of {folder.onnx_path} failed, and nothing was made of it"
        raise ParityError(f"{rule}: {parity.complaint}", parity)
    keep_truth(folder, subject, truths)
    kept(parity, folder)


def record_conversion(folder: ModelFolder, parity: ParityReport | None) -> tuple[str, ...]:
    """A new model.onnx outdates the old verification, which is replaced or removed, and the old measurement.

    Returns:
        A note for each file in fewer bits that was made of the old one.
    """
    remove(folder.bench_path)
    notes = outdated(folder)
    if parity is None:
        remove(folder.parity_path)
    else:
        write_json(folder.parity_path, parity_json(parity))
    is_ours = folder.module_recipe is None
    folder.write_manifest(cost_of(folder, zoo_costs()) if is_ours else None)  # so that `inspect` need not count
    return notes
