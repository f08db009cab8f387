"""(folder, its model) → whether its model.onnx is the float32 file that others are made of and compared with."""

from __future__ import annotations

from aaexport.errors import GraphError
from aaexport.folder import ModelFolder
from aaexport.graph.digests import digests_of, read_digests
from aaexport.graph.files import read_onnx
from aaexport.graph.metadata import provenance_of
from aaexport.graph.precision.kinds import kind_of
from aaexport.pipeline.subject.facts import Facts


def why_stale(folder: ModelFolder, facts: Facts) -> str | None:
    """Why model.onnx must be written anew; None if it is whole, of this recipe and these weights, and in float32."""
    path = folder.onnx_path
    if not path.is_file():
        return f"{folder.path} has no {path.name} yet"
    try:
        model = read_onnx(path)
    except GraphError as error:
        return str(error)
    provenance = provenance_of(model)
    if provenance is None:
        return f"{path} is not of aaexport"
    if provenance.weights_digest != facts.weights_digest:
        return f"{path} is of other weights"
    is_ours = facts.folder is not None and facts.recipe is not None
    if is_ours and provenance.recipe_digest != folder.recipe.digest():
        return f"{path} is of another recipe"
    recorded = read_digests(model)
    now = digests_of(model)
    if recorded is None or recorded.graph != now.graph or now.changed_since(recorded):
        return f"{path} was written to since it was converted"
    return None if kind_of(model) == "float32" else f"{path} is not in float32"
