"""The layers of a network as they run: every parameter and every MAC once."""

import torch
from torch import nn

from aaexport.folder import zoo_models
from aaexport.nn import AugmentedConv2d
from aaexport.nn.build import build_network, measure_cost
from aaexport.nn.described import described_layers


def built(name):
    recipe = zoo_models()[name].recipe
    with torch.device("meta"):
        return build_network(recipe), recipe.input.shape


def test_they_cost_together_what_the_network_costs_and_an_augmented_convolution_is_one():
    module, shape = built("aa_cnn3_digits")
    layers, cost = described_layers(module, shape), measure_cost(module, shape)
    assert sum(layer.parameters for layer in layers) == cost.parameters
    assert sum(layer.macs for layer in layers) == cost.macs
    first, *_, last = layers
    assert (first.path, first.kind) == ("features.0", "AugmentedConv2d")
    assert (first.reads, first.writes) == ((1, 1, 8, 8), (1, 64, 8, 8))
    assert (last.path, last.kind, last.writes) == ("classifier", "Linear", (1, 10))


def test_a_layer_that_is_the_whole_network_and_one_that_runs_twice():
    layer = AugmentedConv2d(3, 8, dk=8, dv=4, num_heads=2, height=4, width=5).eval()
    (whole,) = described_layers(layer, (3, 4, 5))
    assert (whole.path, whole.writes) == ("", (1, 8, 4, 5))
    assert whole.macs == measure_cost(layer, (3, 4, 5)).macs
    relu = nn.ReLU()
    layers = described_layers(nn.Sequential(relu, nn.Conv2d(3, 4, 1), relu), (3, 4, 5))
    assert [(each.path, each.writes) for each in layers] == [("0", (1, 3, 4, 5)), ("1", (1, 4, 4, 5))]
