"""(model folder or ONNX file) → what is in it."""

from __future__ import annotations

from pathlib import Path

import torch

from aaexport.folder import ModelFolder, find_model, zoo_models
from aaexport.graph.files import summarize
from aaexport.nn.build import Cost, build_network, measure_cost
from aaexport.recipe import Recipe
from aaexport.results import InspectResult


def inspect(model: str | Path | ModelFolder) -> InspectResult:
    """Looks into a zoo model, a model folder, or any ONNX file.

    Raises:
        GraphError: the file is not a whole ONNX model.
        ModelNotFoundError, FolderError, RecipeError: there is no such model, or its recipe breaks a rule.
    """
    if not isinstance(model, ModelFolder):
        if Path(model).suffix == ".onnx" or Path(model).is_file():
            return InspectResult(Path(model), None, None, has_weights=False, graph=summarize(Path(model)))
        model = find_model(model)
    graph = summarize(model.onnx_path) if model.onnx_path.is_file() else None
    if model.module_recipe is not None:
        return InspectResult(model.path, None, None, model.weights_path.is_file(), graph, model.module_recipe.module)
    cost = cost_of(model.recipe)
    return InspectResult(model.path, model.recipe, cost, model.weights_path.is_file(), graph)


def inspect_zoo() -> dict[str, InspectResult]:
    """Every zoo model by name."""
    return {name: inspect(folder) for name, folder in zoo_models().items()}


def cost_of(recipe: Recipe) -> Cost:
    """Parameters and MACs, counted on tensors without storage."""
    with torch.device("meta"):
        module = build_network(recipe)
    return measure_cost(module, recipe.input.shape)
