"""(`FILE.py:NAME`, arguments, checkpoint) → a model folder: the module's ONNX file, weights and golden vectors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from torch import Tensor, nn

from aaexport.capture.saved_program import SavedProgram
from aaexport.capture.user_module import build_module
from aaexport.capture.wrappers import inside
from aaexport.errors import ArgumentError, FolderError, broken_rule
from aaexport.folder import ModelFolder
from aaexport.nn.own_settings import own_settings
from aaexport.outcome import verb
from aaexport.overrides import overridden
from aaexport.parity import Truth
from aaexport.pipeline.convert.convert import convert, convert_subject, record_conversion
from aaexport.pipeline.convert.options import Brought, ConvertOptions, ConvertOverrides, check_source
from aaexport.pipeline.subject.golden import Golden, worth_keeping, write_golden
from aaexport.pipeline.subject.subject import ImageShape, Subject, image_shape, module_subject
from aaexport.pipeline.verify.kept import answers_to_keep
from aaexport.recipe import Module, ModuleRecipe, module_toml, parse_kwargs
from aaexport.recipe.model import SCHEMA
from aaexport.results import ConvertResult
from aaexport.weights import load_checkpoint
from aaexport.weights.safetensors import write_tensors
from aaexport.writing import new_files, temporary_folder, write_text

Say = Callable[[str], None]


@verb
@own_settings()
def convert_source(
    source: str,
    out: str | Path | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    kwargs: Sequence[str] = (),
    checkpoint: str | Path | None = None,
    options: ConvertOptions | None = None,
    say: Say = lambda step: None,
    **overrides: Unpack[ConvertOverrides],
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
        say: is told each step as it begins, and its parts as lines that begin with a blank.
        overrides: fields of `ConvertOptions` that are to be other than in `options`, or than their defaults.

    Raises:
        ArgumentError: an option breaks its rule.
        ModuleError: the module cannot be imported or built.
        WeightsError: the checkpoint cannot be read or does not fit.
        RunnerError: the module does not run on an image of that shape.
        FolderError: `out` holds something else, or cannot be written.
        Others as `aaexport.convert`.
    """
    options = overridden(options or ConvertOptions(), overrides, convert_source)
    brought = check_source(
        source, out, input_shape=input_shape, kwargs=kwargs, checkpoint=checkpoint, options=options
    )

    with redirect_stdout(sys.stderr):  # the user's code may print whenever it runs, and stdout is for results
        result, notes = _converted(brought, options.in_float32, say)
        notes = (*notes, *record_conversion(brought.folder, result.parity))
        if options.reduction is not None:
            result = convert(brought.folder, options=_as_converted(options, result), say=say)
    return replace(result, notes=tuple(dict.fromkeys((*notes, *result.notes))))


def _as_converted(options: ConvertOptions, result: ConvertResult) -> ConvertOptions:
    """What is asked of a file in fewer bits, of the float32 file that is just there."""
    return replace(options, opset=result.opset, batch=result.batch, decomposition=None)


def _module(brought: Brought, say: Say) -> tuple[nn.Module, tuple[str, ...]]:
    """The module with its weights, in the wrappers that it may have come in, and notes on the weights."""
    say(f"importing {brought.source.text}")
    module = build_module(brought.source, parse_kwargs(brought.kwargs))
    if brought.checkpoint is None:
        return module, ("no --checkpoint was given: the weights are those that the module was built with",)
    say(f"loading {brought.checkpoint}")
    return module, load_checkpoint(inside(module), brought.checkpoint)


def _recipe(brought: Brought, subject: Subject) -> ModuleRecipe:
    """The folder's model.toml."""
    text, outputs = brought.source.text, subject.output_names
    module = Module(source=text, kwargs=brought.kwargs, input_shape=subject.input_shape, outputs=outputs)
    return ModuleRecipe(schema=SCHEMA, description=f"{text}, as `aaexport convert` found it", module=module)


def _converted(brought: Brought, options: ConvertOptions, say: Say) -> tuple[ConvertResult, tuple[str, ...]]:
    """The conversion, and notes on the weights."""
    module, notes = _module(brought, say)
    if isinstance(module, SavedProgram) and options.batch is None:
        options = replace(options, batch=module.batch)
    example = 1 if options.batch in (None, "dynamic") else int(options.batch)
    shape = _own_shape(module) if brought.shape is None else image_shape(brought.shape)
    subject = module_subject(module, shape, example_batch=example, is_ours=True)
    folder, recipe = brought.folder, _recipe(brought, subject)

    def write_rest(path: Path, truths: tuple[Truth, ...], warnings: tuple[str, ...]) -> None:
        """All but the file itself, which comes last: a folder that has one is whole."""
        nonlocal notes
        if not truths:
            say("asking the module for golden vectors")
            kept = answers_to_keep(subject, path, options.verification, say)
            truths, warnings, notes = kept.truths, kept.warnings, (*notes, *kept.notes)
        say("writing the folder")
        _write(folder, recipe, subject, truths, warnings)

    with new_files((folder.recipe_path, folder.weights_path, folder.golden_path, folder.onnx_path)):
        result = convert_subject(subject, folder.onnx_path, options, before=write_rest, say=say)
    return result, notes


def _own_shape(module: nn.Module) -> ImageShape:
    if not isinstance(module, SavedProgram):
        raise ArgumentError(broken_rule("input_shape", "be given for a module", "none", "pass --input-shape CxHxW"))
    return module.input_shape


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
            write_text(new.recipe_path, module_toml(recipe))
            for path in (new.weights_path, new.golden_path, new.recipe_path):
                path.replace(folder.path / path.name)
    except OSError as error:
        raise FolderError(f"{folder.path} cannot be written: {error.strerror or error}") from error
