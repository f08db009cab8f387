"""(`FILE.py:NAME`, arguments, checkpoint) → a model folder: the module's ONNX file, weights and golden vectors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

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
    named = require_source(source)
    brought = _Brought(
        named,
        tuple(kwargs),
        None if checkpoint is None else Path(checkpoint),
        None if input_shape is None else image_shape(input_shape),
        ModelFolder(Path(named.folder_name) if out is None else Path(out)),
    )
    brought.check()

    with redirect_stdout(sys.stderr):  # the user's code may print whenever it runs, and stdout is for results
        result, notes = _converted(brought, options, say)
    record_conversion(brought.folder, result.parity)
    return replace(result, notes=(*notes, *result.notes))


@dataclass(frozen=True)
class _Brought:
    """What is brought along, and the folder that is made of it."""

    source: Source
    kwargs: tuple[str, ...]
    checkpoint: Path | None
    shape: ImageShape | None
    folder: ModelFolder

    def check(self) -> None:
        """ArgumentError or FolderError for what can be seen to be wrong before any work."""
        parse_kwargs(self.kwargs)
        _require_free(self.folder, self.source)
        if self.checkpoint is not None and self.source.is_program:
            remedy = "a program has its weights in it; export it again with others"
            raise ArgumentError(broken_rule("checkpoint", "be left out for a program", str(self.checkpoint), remedy))

    def module(self, say: Say) -> tuple[nn.Module, tuple[str, ...]]:
        """The module with its weights, and notes on these."""
        say(f"importing {self.source.text}")
        module = build_module(self.source, parse_kwargs(self.kwargs))
        if self.checkpoint is None:
            return module, ("no --checkpoint was given: the weights are those that the module was built with",)
        say(f"loading {self.checkpoint}")
        return module, load_checkpoint(module, self.checkpoint)

    def recipe(self, subject: Subject) -> ModuleRecipe:
        """The folder's model.toml."""
        text, outputs = self.source.text, subject.output_names
        module = Module(source=text, kwargs=self.kwargs, input_shape=subject.input_shape, outputs=outputs)
        return ModuleRecipe(schema=SCHEMA, description=f"{text}, as `aaexport convert` found it", module=module)


def _converted(brought: _Brought, options: ConvertOptions, say: Say) -> tuple[ConvertResult, tuple[str, ...]]:
    """The conversion, and notes on the weights."""
    module, notes = brought.module(say)
    if isinstance(module, SavedProgram) and options.batch is None:
        options = replace(options, batch=module.batch)
    example = 1 if options.batch in (None, "dynamic") else int(options.batch)
    subject = module_subject(module, brought.shape or _own_shape(module), example_batch=example, is_ours=True)
    folder, recipe = brought.folder, brought.recipe(subject)

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
