"""recipe → nn.Module, and what the module costs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aaexport.errors import ArgumentError, RecipeError
from aaexport.nn.augmented import set_decomposition
from aaexport.nn.cnn import ThreeConvNet
from aaexport.nn.mnasnet import MobileNetwork
from aaexport.nn.resnet import ResidualNetwork
from aaexport.nn.wide_resnet import WideResidualNetwork
from aaexport.recipe import Attention, Cost, Input, Recipe

FAMILIES: dict[str, Callable[[Any, Attention | None, Input], nn.Module]] = {
    "cnn3": ThreeConvNet,
    "resnet": ResidualNetwork,
    "wide_resnet": WideResidualNetwork,
    "mnasnet": MobileNetwork,
}


CALIBRATION_BATCH = 4
PRODUCTS_OF_ATTENTION = ("aten.bmm", "aten.mm")  # a classifier is an addmm


def build_network(recipe: Recipe, *, seed: int | None = None) -> nn.Module:
    """The recipe's network in evaluation mode, with fresh weights drawn from `seed` (the recipe's by default).

    The global random state of torch is left as it was.

    Raises:
        RecipeError: network and attention contradict each other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed if seed is None else seed)
        try:
            module = FAMILIES[recipe.network.family](recipe.network, recipe.attention, recipe.input)
        except ArgumentError as error:
            raise RecipeError(f"{recipe.description!r}: [network] and [attention] must fit: {error}") from error
    set_decomposition(module, recipe.export.decomposition)
    return module.eval()


def calibrate_normalization(module: nn.Module, input_shape: tuple[int, int, int], seed: int) -> None:
    """Sets the running statistics of batch normalization so that one batch of seeded normal numbers keeps its scale.

    With the statistics that a fresh network has, activations grow from block to block, which no trained network does.
    Every layer gets one variance for all its channels, and no mean: with the statistics of each channel, the nearly
    constant outputs of untrained attention would be blown up to noise in which float32 and float64 share no digit.
    """

    def follow(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.zero_()
        norm.running_var.fill_(inputs[0].square().mean())

    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(follow) for norm in norms]
    noise = torch.randn(CALIBRATION_BATCH, *input_shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        module.eval()(noise)
    for hook in hooks:
        hook.remove()


def _leave_normalization_out(module: nn.Module) -> None:
    """It multiplies and adds nothing that is counted, and takes most of the time to count nothing."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())


def measure_cost(module: nn.Module, input_shape: tuple[int, int, int]) -> Cost:
    """Counts parameters, and MACs of one image (C, H, W) by torch's own counter; nothing is computed.

    MACs depend on the decomposition; these are those of `table`, which multiplies the least.
    """
    module = copy.deepcopy(module)
    set_decomposition(module, "table")
    parameters = sum(parameter.numel() for parameter in module.parameters())
    _leave_normalization_out(module)
    counter = FlopCounterMode(display=False)
    device = next(module.parameters()).device
    with torch.no_grad(), counter:
        module(torch.zeros(1, *input_shape, device=device))
    by_operator = counter.get_flop_counts().get("Global", {})
    attention = sum(flops for operator, flops in by_operator.items() if str(operator) in PRODUCTS_OF_ATTENTION)
    return Cost(parameters, counter.get_total_flops() // 2, attention // 2)
