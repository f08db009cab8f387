"""(`FILE.py:NAME`, arguments, checkpoint) → a model folder: the module's ONNX file, weights and golden vectors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from aaexport.capture.saved_program import SavedProgram
from aaexport.capture.user_module import Source, build_module, require_source
from aaexport.errors import ArgumentError, FolderError, broken_rule
from aaexport.folder import ModelFolder, require_outside_zoo
from aaexport.outcome import verb
from aaexport.parity import Truth, made_up_cases
from aaexport.pipeline.convert.convert import ConvertOptions, convert_subject, record_conversion
from aaexport.pipeline.subject.golden import Golden, worth_keeping, write_golden
from aaexport.pipeline.subject.subject import ImageShape, Subject, image_shape, module_subject
from aaexport.pipeline.verify.computations import Judge
from aaexport.recipe import Module, ModuleRecipe, module_toml, parse_kwargs
from aaexport.recipe.model import SCHEMA
from aaexport.results import ConvertResult
from aaexport.weights import load_checkpoint
from aaexport.weights.safetensors import write_tensors
from aaexport.writing import atomic_path, new_files, temporary_folder

GOLDEN_BATCHES = (2, 1)  # without a verification, whose cases are kept otherwise
Say = Callable[[str], None]


@verb
def convert_source(
    source: str,
    out: str | Path | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    kwargs: Sequence[str] = (),
    checkpoint: str | Path | None = None,
    options: ConvertOptions | None = None,
    say: Say = lambda step: None,
) -> ConvertResult:
    """Imports a module, loads a checkpoint, and makes a model folder of it.

    Augmented layers of a known kind (`aaexport.adapters`) are written as ours; the file must compute what the module
    itself computes, untouched. The folder works without the user's code from then on: its golden vectors stand in.

    Args:
        source: `FILE.py:NAME`, `package.module:NAME` (a class, a function that makes a module, or an instance), or
            `FILE.pt2`, a program that torch.export saved.
        out: the folder, new or one that was made so before; `./NAME` by default.
        input_shape: (C, H, W) of one image; a program knows its own.
        kwargs: `NAME=VALUE`, each value in TOML: what the class or function is called with.
        checkpoint: a file of weights; without one the module's own are taken, and a note says so.
        options: as of `aaexport.convert`.
        say: is told each step as it begins.

    Raises:
        ArgumentError: an option breaks its rule.
        ModuleError: the module cannot be imported or built.
        WeightsError: the checkpoint cannot be read or does not fit.
        RunnerError: the module does not run on an image of that shape.
        FolderError: `out` holds something else, or cannot be written.
        Others as `aaexport.convert`.
    """
    options = options or ConvertOptions()
    options.check()
    if options.with_attention:
        remedy = "the module itself gives no attention weights to judge them by"
        raise ArgumentError(broken_rule("with_attention", "be off for a module that is brought along", True, remedy))
    named, arguments = require_source(source), parse_kwargs(tuple(kwargs))
    shape = None if input_shape is None else image_shape(input_shape)
    folder = ModelFolder(Path(named.folder_name) if out is None else Path(out))
    _require_free(folder, named)
    if checkpoint is not None and named.is_program:
        remedy = "a program has its weights in it; export it again with others"
        raise ArgumentError(broken_rule("checkpoint", "be left out for a program", str(checkpoint), remedy))

    with redirect_stdout(sys.stderr):  # the user's code may print whenever it runs, and stdout is for results
        result, notes = _brought(named, arguments, shape, checkpoint, folder, tuple(kwargs), options, say)
    record_conversion(folder, result.parity)
    return replace(result, notes=(*notes, *result.notes))


def _brought(
    source: Source,
    arguments: Mapping[str, Any],
    shape: ImageShape | None,
    checkpoint: str | Path | None,
    folder: ModelFolder,
    kwargs: tuple[str, ...],
    options: ConvertOptions,
    say: Say,
) -> tuple[ConvertResult, tuple[str, ...]]:
    """The conversion, and notes on the weights."""
    say(f"importing {source.text}")
    module = build_module(source, arguments)
    notes = _weights_notes(checkpoint)
    if checkpoint is not None:
        say(f"loading {checkpoint}")
        notes = load_checkpoint(module, Path(checkpoint))
    if isinstance(module, SavedProgram) and options.batch is None:
        options = replace(options, batch=module.batch)
    example = 1 if options.batch in (None, "dynamic") else int(options.batch)
    subject = module_subject(module, shape or _own_shape(module), example_batch=example, is_ours=True)
    recipe = _recipe(source, kwargs, subject)

    def write_rest(truths: tuple[Truth, ...], warnings: tuple[str, ...]) -> None:
        """All but the file itself, which comes last: a folder that has one is whole."""
        say("writing the folder")
        if not truths:
            truths, warnings = _made_up_truths(subject, options)
        _write(folder, recipe, subject, truths, warnings)

    with new_files((folder.recipe_path, folder.weights_path, folder.golden_path, folder.onnx_path)):
        return convert_subject(subject, folder.onnx_path, options, before=write_rest, say=say), notes


def _require_free(folder: ModelFolder, source: Source) -> None:
    """FolderError if the folder holds anything but a former conversion of the same source."""
    path = folder.path
    require_outside_zoo(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    former = folder.module_recipe if folder.recipe_path.is_file() else None
    if former is None or former.module.source != source.text:
        rule = f"be new, empty, or a former conversion of {source.text}"
        raise FolderError(broken_rule("out", rule, str(path), "name another folder with --out"))


def _weights_notes(checkpoint: str | Path | None) -> tuple[str, ...]:
    note = "no --checkpoint was given: the weights are those that the module was built with"
    return (note,) if checkpoint is None else ()


def _own_shape(module: nn.Module) -> ImageShape:
    if not isinstance(module, SavedProgram):
        raise ArgumentError(broken_rule("input_shape", "be given for a module", "none", "pass --input-shape CxHxW"))
    return module.input_shape


def _recipe(source: Source, kwargs: tuple[str, ...], subject: Subject) -> ModuleRecipe:
    module = Module(source=source.text, kwargs=kwargs, input_shape=subject.input_shape, outputs=subject.output_names)
    return ModuleRecipe(schema=SCHEMA, description=f"{source.text}, as `aaexport convert` found it", module=module)


def _write(
    folder: ModelFolder,
    recipe: ModuleRecipe,
    subject: Subject,
    truths: tuple[Truth, ...],
    warnings: tuple[str, ...],
) -> None:
    """Weights, golden vectors and model.toml, all beside the folder's first: a former conversion stays whole."""
    owner = subject.module if subject.original is None else subject.original
    tensors = {name: value for name, value in owner.state_dict().items() if isinstance(value, Tensor)}
    try:
        with temporary_folder(folder.path) as room:
            new = ModelFolder(room)
            write_tensors(tensors, new.weights_path)
            write_golden(Golden(worth_keeping(truths), subject.weights_digest, warnings), new.golden_path)
            with atomic_path(new.recipe_path) as temporary:
                temporary.write_text(module_toml(recipe), encoding="utf-8")
            for path in (new.weights_path, new.golden_path, new.recipe_path):
                path.replace(folder.path / path.name)
    except OSError as error:
        raise FolderError(f"{folder.path} cannot be written: {error.strerror or error}") from error


def _made_up_truths(subject: Subject, options: ConvertOptions) -> tuple[tuple[Truth, ...], tuple[str, ...]]:
    """The answers to a few inputs, where no verification has asked for them."""
    sizes = GOLDEN_BATCHES if options.batch in (None, "dynamic") else (int(options.batch),)
    cases = made_up_cases(subject.input_shape, sizes, 1, options.seed)
    judge = Judge(subject)
    truths = tuple(judge.truth(case) for case in cases if case.kind == "ordinary" and not case.degenerate)
    return truths, tuple(judge.warnings)
