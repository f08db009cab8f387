"""A zoo name, a model folder or a module → the one thing the verbs work on."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aaexport.adapters import Adaptation, adapt
from aaexport.capture.at_work import evaluating
from aaexport.capture.failures import why_it_cannot_run
from aaexport.capture.input_name import INPUT_NAME
from aaexport.capture.saved_program import SavedProgram
from aaexport.capture.source import Source
from aaexport.capture.user_module import build_module
from aaexport.capture.wrappers import compile_notes, inside, unwrapped
from aaexport.errors import AaexportError, ArgumentError, ModuleError, RunnerError, broken_rule
from aaexport.folder import ModelFolder, find_model
from aaexport.nn.attention_maps import WithAttention, attention_outputs, require_augmented_layers
from aaexport.nn.augmented import augmented_layers, set_decomposition
from aaexport.nn.build import build_network, calibrate_normalization
from aaexport.nn.choice import Choice
from aaexport.nn.copies import copied
from aaexport.nn.outputs import Flattened, names_of, needs_flattening, tensors_of
from aaexport.nn.own_settings import own_settings
from aaexport.pipeline.subject.faithful import (
    answers_of,
    leaving_weights_alone,
    own_copy,
    require_copyable,
    require_evaluation,
    require_faithful,
    why_not_the_copy,
)
from aaexport.pipeline.subject.golden import Golden, read_golden
from aaexport.recipe import DecompositionName, ModuleRecipe, Recipe, parse_kwargs
from aaexport.weights import load_checkpoint
from aaexport.weights.safetensors import load_weights, save_weights, weights_digest

ImageShape = tuple[int, int, int]
log = logging.getLogger("aaexport")


@dataclass(frozen=True)
class Subject:
    """A module in evaluation mode with what the verbs must know of it.

    `folder` and `recipe` are None for a bare module. The recipe's input is of the size that the module was built
    for, which need not be the one in model.toml.

    Attributes:
        module: whose layers are written out; of somebody's module a copy with its augmented layers replaced by ours.
        original: somebody's module as it was, which says what is right; None for a network of ours.
        golden: the original's answers, where a folder has nothing else of it; `module` is then an empty one.
        adaptation: what became of somebody's layers.
    """

    module: nn.Module
    input_shape: ImageShape
    output_names: tuple[str, ...]
    folder: ModelFolder | None = None
    recipe: Recipe | None = None
    notes: tuple[str, ...] = ()
    with_attention: bool = False  # whether attention weights are outputs too, named after the module's own
    original: nn.Module | None = None
    golden: Golden | None = None
    adaptation: Adaptation | None = None
    flattens: bool = False  # whether what it returns is of a kind that torch.export does not know

    @cached_property
    def weights_digest(self) -> str:
        """Of the weights as their owner has them: an adapted copy may keep them otherwise."""
        if self.golden is not None:
            return self.golden.weights_digest
        return weights_digest(self.module if self.original is None else self.original)

    @property
    def own_size(self) -> tuple[int, int] | None:
        """(H, W) if it is not the one in model.toml."""
        return None if self.folder is None or self.recipe is None else self.folder.other_size(self.recipe)

    def as_converted(self, *, with_attention: bool) -> Subject:
        """The same with attention weights among its outputs, if its file has them there."""
        if not with_attention or self.with_attention or not augmented_layers(self.module):
            return self
        return self.observed()

    def whole(self) -> Subject:
        """Itself, which has its module."""
        return self

    def observed(self) -> Subject:
        """The same with attention weights as outputs too; ArgumentError without augmented layers."""
        require_augmented_layers(self.module)
        names = (*self.output_names, *attention_outputs(self.module))
        return replace(self, output_names=names, with_attention=True)

    def runnable(self, module: nn.Module) -> nn.Module:
        """What returns the tensors of `output_names`, for `module`, which is this one's or a variant of it."""
        if self.with_attention:
            return WithAttention(module)
        return Flattened(module) if self.flattens else module


@own_settings()
def build_model(
    model: str | Path | ModelFolder, *, size: tuple[int, int] | None = None, seed: int | None = None
) -> nn.Module:
    """The network of a zoo model or model folder, in evaluation mode, with the folder's weights.

    `size` is (H, W) of the images, the recipe's by default; weights that were trained at another size are
    retargeted (`aaexport.nn.retarget`), and a warning in the log says so. A folder without weights gives a network
    with fresh ones, drawn from `seed` (the recipe's by default), and a warning too; `seed` counts only there.
    It is float32 on the CPU, whatever torch's defaults are: weights that are loaded lie somewhere.

    Raises:
        ModelNotFoundError, FolderError, RecipeError: there is no such model, or its recipe breaks a rule.
        WeightsError: the folder's weights do not fit.
    """
    folder = model if isinstance(model, ModelFolder) else find_model(model)
    module = build_network(folder.recipe.for_size(size), seed=seed)
    if folder.weights_path.is_file():
        for note in load_weights(module, folder.weights_path):
            log.warning("%s: %s", folder.name, note)
    else:
        log.warning("%s has no weights yet: built with fresh random ones", folder.name)
    return module


def write_random_weights(folder: ModelFolder, *, seed: int | None = None) -> None:
    """Gives a folder without weights random ones that behave like trained ones, for measuring before training."""
    if not folder.weights_path.is_file():
        module = build_network(folder.recipe, seed=seed)
        calibrate_normalization(module, folder.recipe.input.shape, seed or 0)
        save_weights(module, folder.weights_path, random=True)


def as_subject(
    model: nn.Module | str | Path | ModelFolder,
    input_shape: ImageShape | None = None,
    size: tuple[int, int] | None = None,
    *,
    source: Source | None = None,
) -> Subject:
    """What `convert` and `verify` work on.

    `source` is where the module of a folder of that kind comes from; without it the folder's golden vectors stand in.

    Raises:
        ArgumentError: a bare module without `input_shape` or not in float32, a shape that is not the recipe's, or a
            size that the network cannot take.
        ModuleError: the module cannot be imported or built, is not whole, draws random numbers, or cannot be copied
            faithfully.
        RunnerError: the module cannot run on an image of that shape.
        NoWeightsError, WeightsError: the folder's weights are missing or do not fit.
        ModelNotFoundError, FolderError, RecipeError: as `build_model`.
    """
    if isinstance(model, nn.Module):
        if size is not None:
            raise ArgumentError(broken_rule("size", "be given for a recipe's network", size, "use input_shape"))
        return module_subject(model, input_shape)
    folder = model if isinstance(model, ModelFolder) else find_model(model)
    if folder.module_recipe is not None:
        _require_own_size(size, folder.module_recipe)
        return _brought_along(folder, folder.module_recipe, source)
    if source is not None:
        raise ArgumentError(broken_rule("module", "be given for a folder that was made of one", source.text))
    recipe = folder.recipe.for_size(size)
    shape = recipe.input.shape
    if input_shape is not None and tuple(input_shape) != shape:
        raise ArgumentError(broken_rule("input_shape", f"be the recipe's {shape}", tuple(input_shape)))
    module = build_network(recipe)
    notes = load_weights(module, folder.require_weights())
    # Our networks name what they return: they need not be run for it, which takes seconds.
    return Subject(module, shape, _own_names(module) or _output_names(module, shape), folder, recipe, notes)


def with_decomposition(module: nn.Module, name: DecompositionName | None) -> nn.Module:
    """A copy of `module` whose augmented layers use that decomposition; None leaves each layer's own."""
    module = copied(module)
    module.eval()  # which need not return the module
    if name is not None:
        set_decomposition(module, name)
    return module


def decompositions_of(module: nn.Module) -> str:
    """The decompositions in use, comma-separated, as `table/8` in blocks; `none` without augmented layers."""
    names = {str(Choice(layer.decomposition, layer.blocks)) for layer in augmented_layers(module).values()}
    return ",".join(sorted(names)) or "none"


def module_subject(
    module: nn.Module, input_shape: Sequence[int] | None, *, example_batch: int = 1, is_ours: bool = False
) -> Subject:
    """Somebody's module, and a copy of it whose augmented layers are ours; `as_subject` says what it raises.

    `example_batch` is a number of images that it takes; `is_ours`: nobody else has it, so that a copy may share the
    memory of its weights.
    """
    shape = image_shape(input_shape)
    _require_numbers(module)
    dtypes = {p.dtype for p in module.parameters()}
    if dtypes - {torch.float32}:
        names = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise ArgumentError(broken_rule("module", "have float32 parameters", names, "call module.float()"))
    # The caller's stays as it is, wherever it is: what follows is done with a copy.
    original, taken_off = unwrapped(own_copy(module, shares=is_ours))
    notes = tuple(dict.fromkeys((*compile_notes(module), *taken_off)))
    original.eval()
    original.cpu()
    require_evaluation(original)
    unused = own_copy(original, shares=True)
    try:
        with evaluating(original), leaving_weights_alone(original):
            first = _first_output(original, shape, example_batch)
    except RunnerError as error:
        if error.__cause__ is None:  # it did run, and returned what no file can
            raise
        raise why_not_the_copy(module, error, torch.zeros(example_batch, *shape)) from error
    outputs, flattens = names_of(first, _own_names(original), (INPUT_NAME,)), needs_flattening(first)
    answers = answers_of(original, shape, example_batch)
    require_copyable(answers, original)
    require_faithful(answers, module, original, unused, wrapped=bool(taken_off))
    adaptation = adapt(original, torch.zeros(example_batch, *shape))
    if augmented_layers(original) and not adaptation.replaced:  # written with our layer, which is its own definition
        return Subject(original, shape, outputs, notes=notes, flattens=flattens)
    return Subject(
        adaptation.module, shape, outputs, notes=notes, original=original, adaptation=adaptation, flattens=flattens
    )


def _require_numbers(module: nn.Module) -> None:
    """ArgumentError for a module that was built on the device `meta`, and never filled."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            remedy = "build it outside of torch.device('meta'), or load its weights with assign=True"
            raise ArgumentError(broken_rule("module", "have numbers in its tensors", f"none in {name}", remedy))


def image_shape(input_shape: Sequence[int] | None) -> ImageShape:
    """(C, H, W); ArgumentError if it is none."""
    if input_shape is None:
        raise ArgumentError("input_shape must be given for a module, got None; pass (C, H, W)")
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ArgumentError(broken_rule("input_shape", "be (C, H, W), each at least 1", input_shape))
    return (input_shape[0], input_shape[1], input_shape[2])


def _brought_along(folder: ModelFolder, recipe: ModuleRecipe, source: Source | None) -> Subject:
    """The folder's module with the folder's weights if its source is given, else its golden vectors."""
    shape, names = recipe.module.image_shape, recipe.module.outputs
    if source is None:
        golden = read_golden(folder.golden_path)
        note = f"judged by the golden vectors that {recipe.module.source} gave when it was converted"
        return Subject(nn.Module(), shape, names, folder, notes=(note,), golden=golden)
    from aaexport.graph.files import converted_batch  # and with it onnx, which nobody else here needs

    module = build_module(source, parse_kwargs(recipe.module.kwargs))
    batch = module.batch if isinstance(module, SavedProgram) else converted_batch(folder.onnx_path)
    if module.state_dict():  # a module without a single tensor has no weights to load
        load_checkpoint(inside(module), folder.require_weights())
    example = batch if isinstance(batch, int) else 1
    return replace(module_subject(module, shape, example_batch=example, is_ours=True), folder=folder)


def _require_own_size(size: tuple[int, int] | None, recipe: ModuleRecipe) -> None:
    own = recipe.module.image_shape[1:]
    if size not in (None, own):
        rule = f"be that of the module, {own[0]} {own[1]}"
        raise ArgumentError(broken_rule("size", rule, size, "convert the module anew with another --input-shape"))


def _own_names(module: nn.Module) -> tuple[str, ...]:
    """What the module itself says its outputs are called; empty if it says nothing."""
    own = getattr(module, "output_names", ())
    return own if isinstance(own, tuple) and all(isinstance(name, str) for name in own) else ()


def _output_names(module: nn.Module, shape: ImageShape, batch: int = 1) -> tuple[str, ...]:
    """Names for what the module returns: its own `output_names` if it has such (our networks do), the keys of a
    dict, `output`, or `output_0`, `output_1` …; of what is nested the way to it, `boxes.scores`.
    """
    return names_of(_first_output(module, shape, batch), _own_names(module), (INPUT_NAME,))


def _first_output(module: nn.Module, shape: ImageShape, batch: int = 1) -> Any:
    """What it returns for images of zeros; RunnerError unless these are tensors."""
    _require_one_input(module)
    try:
        with torch.no_grad():
            outputs = module(torch.zeros(batch, *shape))
    except ModuleError as error:  # of what a copy has instead of a part of it
        raise ModuleError(why_it_cannot_run(module, error)) from error
    except AaexportError:
        raise  # our layers' own complaint about the shape is the clearest there is
    # Whatever the user's module raises.
    except Exception as error:
        raise RunnerError(
            f"{type(module).__name__} cannot run on an image of shape {shape}: {why_it_cannot_run(module, error)}"
        ) from error
    tensors = tensors_of(outputs)
    if not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        kinds = (
            ", ".join(sorted({type(tensor).__name__ for tensor in tensors})) or f"an empty {type(outputs).__name__}"
        )
        raise RunnerError(f"the module must return tensors, got {kinds}")
    return outputs


def _require_one_input(module: nn.Module) -> None:
    """ModuleError, with the wrapper to write, for a forward that needs more than one batch of images."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    keywords = [one for one in parameters if one.kind is one.KEYWORD_ONLY]
    by_name = not positional and all(one.kind is not one.VAR_POSITIONAL for one in parameters) and bool(keywords)
    # A keyword that must be given comes before one that has a default, whatever their order is.
    keywords.sort(key=lambda one: one.default is not one.empty)
    images = next(iter(keywords if by_name else positional), None)
    needed = [one.name for one in (*positional, *keywords) if one.default is one.empty and one is not images]
    if not needed and not by_name:
        return
    name, first = type(module).__name__, "images" if images is None else images.name
    given = ", ".join([f"{first}={first}" if by_name else first, *(f"{other}=…" for other in needed)])
    wants = ", ".join([f"{first} by its name" if by_name else first, *needed])
    raise ModuleError(
        f"{name} must take one batch of images, got a forward that needs {wants}; "
        f"convert a class that gives it {'so' if not needed else 'the others'}:\n"
        f"    class Images({name}):\n"
        f"        def forward(self, {first}):\n"
        f"            return super().forward({given})"
    )
