"""model.toml ↔ frozen dataclasses: what a person writes about a model, checked once and then a value.

`section` parses any table, `network` describes the families of networks, `model` has the other tables and the whole;
`module` is the other kind of model.toml, of a module that was brought along. `words` and
`data_sets` explain the names that a model.toml may use, `cost` is what a network costs.
"""

from aaexport.recipe.cost import Cost
from aaexport.recipe.data_sets import DATA_SETS, check_data_set
from aaexport.recipe.model import (
    DECOMPOSITION_NAMES,
    DEFAULT_DECOMPOSITION,
    DEFAULT_OPSET,
    MAX_BATCH,
    MAX_SEED,
    OPSETS,
    Attention,
    Batch,
    Data,
    DecompositionName,
    Export,
    HeadLayout,
    Input,
    Recipe,
    Training,
    check_opset,
    read_recipe,
)
from aaexport.recipe.module import Module, ModuleRecipe, module_toml, parse_kwargs, read_module_recipe
from aaexport.recipe.network import FAMILIES, Cnn3, MnasNet, Network, ResNet, WideResNet
from aaexport.recipe.words import DECOMPOSITIONS

__all__ = [
    "DATA_SETS",
    "DECOMPOSITIONS",
    "DECOMPOSITION_NAMES",
    "DEFAULT_DECOMPOSITION",
    "DEFAULT_OPSET",
    "FAMILIES",
    "MAX_BATCH",
    "MAX_SEED",
    "OPSETS",
    "Attention",
    "Batch",
    "Cnn3",
    "Cost",
    "Data",
    "DecompositionName",
    "Export",
    "HeadLayout",
    "Input",
    "MnasNet",
    "Module",
    "ModuleRecipe",
    "Network",
    "Recipe",
    "ResNet",
    "Training",
    "WideResNet",
    "check_data_set",
    "check_opset",
    "module_toml",
    "parse_kwargs",
    "read_module_recipe",
    "read_recipe",
]
