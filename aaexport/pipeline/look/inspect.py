"""(model folder or ONNX file) → what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aaexport.folder import ModelFolder, find_model, zoo_models
from aaexport.graph.there import require_readable
from aaexport.outcome import verb
from aaexport.pipeline.subject.costs import cost_of, zoo_costs
from aaexport.recipe import Cost
from aaexport.results import InspectResult

if TYPE_CHECKING:  # and with it onnx, which is not needed where there is no file
    from aaexport.graph.files import GraphSummary


@verb
def inspect(model: str | Path | ModelFolder) -> InspectResult:
    """Looks into a zoo model, a model folder, or any ONNX file.

    Raises:
        GraphError: the file is not a whole ONNX model.
        ModelNotFoundError, FolderError, RecipeError: there is no such model, or its recipe breaks a rule.
    """
    if not isinstance(model, ModelFolder):
        if Path(model).suffix == ".onnx" or Path(model).is_file():
            return InspectResult(Path(model), None, None, has_weights=False, graph=_summary(Path(model)))
        model = find_model(model)
    return _inspect_folder(model, zoo_costs())


def inspect_zoo() -> dict[str, InspectResult]:
    """Every zoo model by name."""
    known = zoo_costs()
    return {name: _inspect_folder(folder, known) for name, folder in zoo_models().items()}


def _inspect_folder(folder: ModelFolder, known: Mapping[str, Cost]) -> InspectResult:
    graph = _summary(folder.onnx_path) if folder.onnx_path.is_file() else None
    has_weights = folder.weights_path.is_file()
    if folder.module_recipe is not None:
        return InspectResult(folder.path, None, None, has_weights, graph, folder.module_recipe.module)
    return InspectResult(folder.path, folder.recipe, cost_of(folder, known), has_weights, graph)


def _summary(path: Path) -> GraphSummary:
    require_readable(path)
    from aaexport.graph.files import summarize

    return summarize(path)
