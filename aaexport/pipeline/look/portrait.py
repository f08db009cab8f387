"""(model folder or ONNX file) → all that a page draws of it: its parts, its records, and where its heads attend."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from aaexport.device import Target
from aaexport.errors import AaexportError
from aaexport.folder import ModelFolder, find_model
from aaexport.graph.files import OnnxModel, read_onnx
from aaexport.graph.metadata import Provenance, operators_before, provenance_of, rules_applied
from aaexport.graph.parts import graph_parts, names_modules
from aaexport.nn.augmented import AugmentedConv2d, augmented_layers
from aaexport.nn.build import build_network
from aaexport.nn.choice import Choice, read_choice
from aaexport.nn.described import described_layers
from aaexport.nn.own_settings import own_settings
from aaexport.outcome import called
from aaexport.parts import Part, Written
from aaexport.pipeline.export.plan import default_opset, plan_attention
from aaexport.pipeline.export.reasons import Circumstances, why_written
from aaexport.pipeline.export.tuned import tuned_for
from aaexport.pipeline.look.attention import attend
from aaexport.pipeline.look.inspect import inspect
from aaexport.pipeline.look.of_file import FileParts, rejoined
from aaexport.pipeline.look.options import Pixel, check_attention
from aaexport.pipeline.look.records import kept_records
from aaexport.recipe import Recipe
from aaexport.report.attention_picture import Attended
from aaexport.report.model.portrait import Portrait
from aaexport.results import InspectResult

SAMPLE = "sample:0"  # what is looked at where nobody names an image
OF_A_FILE = "a file alone has no PyTorch model to run; give the model's folder"


@own_settings()
def portray(
    model: str | Path | ModelFolder,
    image: str | Path | None = None,
    *,
    layers: Sequence[str] = (),
    queries: Sequence[Pixel] = (),
    heads: Sequence[int] = (),
) -> Portrait:
    """What `aaexport inspect --page` draws.

    Args:
        model: a zoo name, a model folder, or any ONNX file.
        image: what the attention is drawn in, as of `draw_attention`; None takes the first held-out image, and tells
            why where that cannot be.
        layers, queries, heads: as of `draw_attention`.

    Raises:
        As `inspect`; of `image`, `layers`, `queries` and `heads` as `draw_attention`.
    """
    if image is not None:
        check_attention(model, image, queries)
    with called("aaexport.inspect"):
        inspected = inspect(model)
    if inspected.recipe is None and inspected.module is None:
        return _of_file(inspected, OF_A_FILE)
    folder = model if isinstance(model, ModelFolder) else find_model(model)
    attended, why_not = _attention(folder, image, layers, queries, heads)
    verified, measured, notes = kept_records(folder)
    portrait = _of_file(inspected, "") if inspected.recipe is None else _of_folder(folder, inspected)
    return dataclasses.replace(
        portrait, attended=attended, why_not=why_not, verified=verified, measured=measured, notes=notes
    )


def _attention(
    folder: ModelFolder,
    image: str | Path | None,
    layers: Sequence[str],
    queries: Sequence[Pixel],
    heads: Sequence[int],
) -> tuple[Attended | None, str]:
    """What it attends to, or why that is not drawn; an image that somebody names must be drawn."""
    if image is not None:
        return attend(folder, image, layers=layers, queries=queries, heads=heads), ""
    if folder.module_recipe is not None:
        return None, f"{folder.name} was made of {folder.module_recipe.module.source}, whose code is not run here"
    try:
        check_attention(folder, SAMPLE, queries)
        return attend(folder, SAMPLE, layers=layers, queries=queries, heads=heads), ""
    except AaexportError as error:
        if layers or queries or heads:
            raise
        return None, str(error)


def _of_file(inspected: InspectResult, why_not: str) -> Portrait:
    """Of what a file tells of itself; nothing of a folder without one."""
    if inspected.graph is None:
        return Portrait(inspected, (), named=True, rules=None, why_not=why_not)
    model = read_onnx(inspected.graph.path)
    provenance = provenance_of(model)
    written = {} if provenance is None else provenance.layers
    parts = FileParts.of(graph_parts(model), operators_before(inspected.graph.metadata), written)
    named = names_modules(model)
    own = tuple(
        parts.part(path, kind="augmented convolution", written=Written(written[path], "as the file tells"))
        if path in written
        else parts.part(path, kind="" if named else parts.after[path][0].anchor)
        for path in parts.paths
    )
    return Portrait(inspected, own, named, _rules(inspected), why_not=why_not)


def _of_folder(folder: ModelFolder, inspected: InspectResult) -> Portrait:
    """Of the recipe's network, with what the file has of each layer where there is a file."""
    model = None if inspected.graph is None else read_onnx(inspected.graph.path)
    provenance = None if model is None else provenance_of(model)
    recipe = folder.recipe.for_size(None if provenance is None else provenance.size)
    with torch.device("meta"):
        module = build_network(recipe)
    described = described_layers(module, recipe.input.shape)
    augmented = augmented_layers(module)
    written = _written(folder, recipe, module, provenance)
    file = None if model is None else _file_parts(model, inspected, augmented)
    parts = []
    for layer in described:
        own = Part(
            layer.path,
            layer.kind,
            layer.reads,
            layer.writes,
            layer.parameters,
            layer.macs,
            written=written.get(layer.path),
        )
        parts.append(own if file is None else file.with_operators(own))
    if file is not None:
        parts = list(rejoined(parts))
        parts += [file.part(path) for path in file.left({layer.path for layer in described})]
    return Portrait(inspected, tuple(parts), named=True, rules=_rules(inspected), forecast=model is None)


def _file_parts(model: OnnxModel, inspected: InspectResult, augmented: dict[str, AugmentedConv2d]) -> FileParts:
    assert inspected.graph is not None
    return FileParts.of(graph_parts(model), operators_before(inspected.graph.metadata), augmented)


def _written(
    folder: ModelFolder, recipe: Recipe, module: nn.Module, provenance: Provenance | None
) -> dict[str, Written]:
    """How each augmented layer is written out in the file, or would be in a new one."""
    layers = augmented_layers(module)
    if not layers:
        return {}
    known = _circumstances(folder, recipe, module, provenance)
    choices: dict[str, Choice | None] = {}
    if provenance is None:
        plan_attention(module, opset=known.opset, batch=known.batch, tuned=known.tuned)
        choices = {path: Choice(layer.decomposition, layer.blocks) for path, layer in layers.items()}
    else:
        choices = {path: read_choice(provenance.layers.get(path, "")) for path in layers}
    return {path: _of_layer(layers[path], choice, known) for path, choice in choices.items() if choice is not None}


def _of_layer(layer: AugmentedConv2d, choice: Choice, known: Circumstances) -> Written:
    channels = (layer.out_channels - layer.dv, layer.dv)
    return Written(str(choice), why_written(choice, layer.sizes, known), layer.sizes, channels)


def _circumstances(
    folder: ModelFolder, recipe: Recipe, module: nn.Module, provenance: Provenance | None
) -> Circumstances:
    """What the file was converted for, or a new one would be."""
    asked, batch, opset = recipe.export.decomposition, recipe.export.batch, recipe.export.opset
    target: Target = "cpu"
    if provenance is not None:
        opset, target = provenance.opset, "cuda" if provenance.target == "cuda" else "cpu"
        batch = provenance.batch if isinstance(provenance.batch, int) else "dynamic"
    opset = default_opset(module, target) if opset is None else opset
    sizes = [layer.sizes for layer in augmented_layers(module).values()]
    tuned = tuned_for(folder.tuning_path, sizes, opset, batch, target)[0] if asked == "auto" else {}
    return Circumstances(asked, opset, batch, target, tuned)


def _rules(inspected: InspectResult) -> dict[str, int] | None:
    """None where the file does not say who wrote it, and so neither what was done to it."""
    if inspected.graph is None:
        return None
    applied = rules_applied(inspected.graph.metadata)
    is_ours = any(key.startswith("aaexport.") for key in inspected.graph.metadata)
    return applied if is_ours else None
