"""recipe → what its network costs: read where it was counted before, counted where it was not.

Costs are facts of a recipe, and telling them takes no PyTorch where they were counted once: those of the zoo lie
beside it, by the digests of its recipes, in a file that `python -m aaexport.pipeline.subject.costs` writes anew; that
of any other recipe lies in its folder's manifest once it was converted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from aaexport.errors import FolderError, broken_rule
from aaexport.folder import ModelFolder, zoo_models, zoo_root
from aaexport.recipe import Cost, Recipe
from aaexport.writing import write_json

COSTS_SCHEMA = "aaexport.costs/1"


def cost_of(folder: ModelFolder, known: Mapping[str, Cost]) -> Cost:
    """What is `known` of its recipe's digest, else what `convert` recorded of it, else what is counted by PyTorch.

    RecipeError if network and attention contradict each other.
    """
    return known.get(folder.recipe.digest()) or folder.recorded_cost() or counted_cost(folder.recipe)


def counted_cost(recipe: Recipe) -> Cost:
    """Parameters and MACs, counted on tensors without storage. RecipeError as `aaexport.nn.build_network`."""
    import torch

    from aaexport.nn.build import build_network, measure_cost
    from aaexport.nn.own_settings import own_settings

    with own_settings():
        with torch.device("meta"):
            module = build_network(recipe)
        return measure_cost(module, recipe.input.shape)


def zoo_costs() -> dict[str, Cost]:
    """What the zoo's networks cost, by the digests of their recipes. FolderError if the file of them is broken."""
    path = costs_path()
    try:
        models = json.loads(path.read_text(encoding="utf-8"))["models"]
        return {entry.pop("recipe_digest"): Cost(**entry) for entry in models.values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        rule, remedy = "hold the costs of the zoo", "install aaexport anew, or run `make costs` in its repository"
        raise FolderError(broken_rule(str(path), rule, repr(error), remedy)) from error


def costs_path() -> Path:
    """costs.json, beside the zoo's folders."""
    return zoo_root() / "costs.json"


def write_zoo_costs() -> None:
    """Counts what every zoo model costs, and writes it beside the zoo."""
    models = {}
    for name, folder in zoo_models().items():
        cost = counted_cost(folder.recipe)
        models[name] = {"recipe_digest": folder.recipe.digest(), **dataclasses.asdict(cost)}
    write_json(costs_path(), {"schema": COSTS_SCHEMA, "models": models})


if __name__ == "__main__":
    write_zoo_costs()
