"""The networks of the paper and of the reference implementation: counts, placement of attention, shapes."""

import dataclasses
import math
import re

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from aaexport.errors import RecipeError
from aaexport.folder import zoo_models
from aaexport.nn import AugmentedConv2d, set_decomposition
from aaexport.nn.build import build_network, calibrate_normalization, measure_cost
from aaexport.recipe import Attention, Cnn3, Input, MnasNet, ResNet, WideResNet

ZOO = zoo_models()
# In millions, as Bello et al. 2019 print them; the plain ones are those networks' own.
MILLIONS = {
    "resnet34": 21.8,
    "aa_resnet34": 20.7,
    "resnet50": 25.6,
    "aa_resnet50": 25.8,
    "resnet101": 44.5,
    "aa_resnet101": 45.4,
    "resnet152": 60.2,
    "aa_resnet152": 61.6,
    "aa_resnet50_kv025": 24.3,
    "aa_resnet50_kv050": 22.3,
    "aa_resnet50_kv075": 20.7,
    "aa_resnet50_kv100": 19.4,
}
# To the unit: the reference implementation's own count, and MnasNet-A1's as its public weights have it.
EXACT = {"aa_wrn28_10_reference": 206_229_580, "mnasnet_1_0": 3_887_038}
# Beside the figures that the paper prints or should (docs/explanation/paper.md).
OURS = {"wrn28_10_cifar100": 36_536_884, "aa_wrn28_10_cifar100": 36_312_660, "aa_mnasnet_1_0": 4_115_646}
SMALL = Attention(kappa=0.5, upsilon=0.5, num_heads=2, min_dkh=2)
IMAGE = Input(channels=3, height=33, width=47, mean=(0.0,) * 3, std=(1.0,) * 3, labels=5)
NETWORKS = {
    "cnn3": Cnn3(family="cnn3", channels=(4, 8, 8)),
    "basic": ResNet(family="resnet", block="basic", blocks=(1, 2), width=4, stem="3x3"),
    "bottleneck": ResNet(family="resnet", block="bottleneck", blocks=(2, 1, 1), width=4),
    "wide": WideResNet(family="wide_resnet", depth=10, dropout=0.1),
    "reference": WideResNet(family="wide_resnet", depth=10, style="reference"),
    "mnasnet": MnasNet(family="mnasnet", blocks=(1, 1, 1, 1, 1, 1), width_multiplier=0.25),
}


def recipe(network, attention=None, image=IMAGE):
    """A zoo recipe with other tables."""
    base = ZOO["resnet50_features"].recipe if not network.classifies else ZOO["resnet50"].recipe
    return dataclasses.replace(base, network=network, attention=attention, input=image)


def augmented(module):
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, AugmentedConv2d)}


def on_meta(name):
    with torch.device("meta"):
        return build_network(ZOO[name].recipe)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


# Counts


@pytest.mark.parametrize(("name", "millions"), MILLIONS.items(), ids=MILLIONS.keys())
def test_parameters_are_the_papers_to_the_printed_digit(name, millions):
    assert round(parameters(on_meta(name)) / 1e6, 1) == millions


@pytest.mark.parametrize(("name", "count"), (EXACT | OURS).items(), ids=(EXACT | OURS).keys())
def test_parameters_are_the_known_ones_to_the_unit(name, count):
    assert parameters(on_meta(name)) == count


def test_the_wide_resnet_has_the_papers_parameters_within_a_hundredth():
    assert parameters(on_meta("aa_wrn28_10_cifar100")) == pytest.approx(36.2e6, rel=0.01)


def test_the_products_of_attention_are_counted_apart():
    recipe = ZOO["aa_resnet50"].recipe
    cost = measure_cost(on_meta("aa_resnet50"), recipe.input.shape)
    products = 0
    for layer in augmented(on_meta("aa_resnet50")).values():
        rows, columns = layer.attention_size
        positions = rows * columns
        products += positions * (positions * (layer.dk + layer.dv) + (rows + 2 * columns - 1) * layer.dk)
    assert cost.attention_macs == products
    assert cost.macs > measure_cost(on_meta("resnet50"), recipe.input.shape).macs


# Where attention is

PLACES = {
    "aa_resnet34": (13, "conv1", "the first 3×3 of a block"),
    "aa_resnet50": (13, "conv2", "the 3×3 of a bottleneck"),
    "aa_wrn28_10_cifar100": (12, "conv1", "the first convolution of a block"),
    "aa_mnasnet_1_0": (13, "expand.0", "the expansion"),
}


@pytest.mark.parametrize(("name", "place"), PLACES.items(), ids=PLACES.keys())
def test_one_layer_a_block_is_augmented(name, place):
    count, suffix, _ = place
    layers = augmented(on_meta(name))
    assert len(layers) == count
    assert all(layer.endswith(suffix) for layer in layers)


def test_the_reference_augments_every_convolution_and_shortcut():
    module = on_meta("aa_wrn28_10_reference")
    layers = augmented(module)
    assert len(layers) == 1 + 12 * 2 + 3
    own = {id(part) for layer in layers.values() for part in layer.modules()}
    assert not [name for name, m in module.named_modules() if isinstance(m, nn.Conv2d) and id(m) not in own]


@pytest.mark.parametrize("name", ["aa_resnet34", "aa_resnet50", "aa_mnasnet_1_0", "aa_wrn16_2_cifar100"])
def test_attention_is_downsampled_in_the_first_augmented_stage_only(name):
    layers = augmented(on_meta(name))
    first = next(iter(layers)).split(".")[:2]
    for place, layer in layers.items():
        assert layer.attention_downsample == (2 if place.split(".")[:2] == first else 1), place


def test_the_first_stage_of_an_imagenet_resnet_is_plain():
    assert not [name for name in augmented(on_meta("aa_resnet50")) if name.startswith("stages.0.")]


def test_full_attention_leaves_no_convolution_in_an_augmented_layer():
    assert all(layer.conv is None for layer in augmented(on_meta("aa_resnet50_kv100")).values())


def test_a_head_has_at_least_one_value_in_the_narrowest_expansion():
    narrowest = next(iter(augmented(on_meta("aa_mnasnet_1_0")).values()))
    assert (narrowest.out_channels, narrowest.dv) == (72, 4)  # υ·72 = 3.6 would leave three of four heads without


def test_the_papers_depths_hold_in_the_narrowest_layer():
    narrowest = next(iter(augmented(on_meta("aa_resnet50")).values()))
    assert (narrowest.out_channels, narrowest.dk, narrowest.dv, narrowest.num_heads) == (128, 160, 8, 8)


# The zoo

NAMES = """
aa_cnn3_digits conv_cnn3_digits aa_cnn3_cifar100 conv_cnn3_cifar100
aa_resnet34 aa_resnet50 aa_resnet101 aa_resnet152 resnet34 resnet50 resnet101 resnet152
aa_resnet50_kv025 aa_resnet50_kv050 aa_resnet50_kv075 aa_resnet50_kv100 aa_resnet50_features resnet50_features
aa_wrn28_10_cifar100 aa_wrn28_10_cifar10 wrn28_10_cifar100 wrn28_10_cifar10 aa_wrn28_10_reference wrn28_10_reference
aa_mnasnet_1_0 mnasnet_1_0
aa_resnet20_cifar10 resnet20_cifar10 aa_wrn16_2_cifar100 wrn16_2_cifar100 aa_wrn10_1_digits wrn10_1_digits
"""


def test_the_zoo_is_complete():
    assert set(ZOO) == set(NAMES.split())


# Deeper than one that stays, or with another share of attention, or for other classes.
ALIKE = re.compile("resnet1|kv0[257]|wrn28_10_cifar10$")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if ALIKE.search(name) else []) for name in sorted(ZOO)]
)
def test_every_zoo_network_maps_images_to_its_outputs(name):
    recipe, module = ZOO[name].recipe, on_meta(name)
    outputs = module(torch.empty(2, *recipe.input.shape, device="meta"))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert len(outputs) == len(module.output_names)
    if recipe.network.classifies:
        assert [tuple(output.shape) for output in outputs] == [(2, recipe.input.classes)]


def twin_of(name):
    plain = name.removeprefix("aa_")
    return f"conv_{plain}" if plain.startswith("cnn3") else plain.partition("_kv")[0]


@pytest.mark.parametrize("name", [name for name in ZOO if name.startswith("aa_")])
def test_every_augmented_network_has_a_twin_that_differs_in_attention_alone(name):
    recipe, twin = ZOO[name].recipe, ZOO[twin_of(name)].recipe
    assert recipe.attention is not None
    assert dataclasses.replace(recipe, attention=None, description=twin.description) == twin


def test_a_pyramids_maps_have_their_strides():
    recipe, module = ZOO["aa_resnet50_features"].recipe, on_meta("aa_resnet50_features")
    maps = module(torch.empty(1, *recipe.input.shape, device="meta"))
    assert module.output_names == ("c3", "c4", "c5")
    assert [tuple(m.shape[1:]) for m in maps] == [(512, 40, 56), (1024, 20, 28), (2048, 10, 14)]


# Any recipe


@pytest.mark.parametrize("attention", [None, SMALL], ids=["plain", "augmented"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_a_network_takes_images_of_any_size(network, attention):
    module = build_network(recipe(network, attention))
    with torch.no_grad():
        assert module(torch.randn(2, *IMAGE.shape)).shape == (2, 5)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_every_parameter_is_trained(network):
    module = build_network(recipe(network, SMALL)).train()
    module(torch.randn(2, *IMAGE.shape)).square().sum().backward()
    assert not [name for name, parameter in module.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_a_network_is_the_same_with_every_decomposition(network):
    module = build_network(recipe(network, SMALL), seed=3).double()
    x = torch.randn(2, *IMAGE.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = module(x)
        assert set_decomposition(module, "skew") > 0
        assert_close(module(x), expected, atol=1e-10 * float(expected.abs().max()), rtol=0)


def test_other_depths_and_widths_need_only_another_recipe():
    deeper = ResNet(family="resnet", block="bottleneck", blocks=(1, 2, 3, 2, 1), width=8)
    module = build_network(recipe(deeper, SMALL, dataclasses.replace(IMAGE, height=64, width=96)))
    assert [len(blocks) for blocks in module.stages] == [1, 2, 3, 2, 1]
    assert module.classifier.in_features == 8 * 16 * 4


def test_stages_that_are_not_named_stay_plain():
    chosen = dataclasses.replace(SMALL, stages=(2,))
    layers = augmented(build_network(recipe(NETWORKS["bottleneck"], chosen)))
    assert list(layers) == ["stages.1.0.conv2"]


def test_the_width_multiplier_scales_channels_to_multiples_of_8():
    module = build_network(recipe(dataclasses.replace(NETWORKS["mnasnet"], width_multiplier=1.3)))
    assert [blocks[-1].project[0].out_channels for blocks in module.stages] == [32, 56, 104, 144, 208, 416]


def test_attention_that_does_not_fit_the_channels_is_refused_with_the_table():
    with pytest.raises(RecipeError, match=r": \[network\] and \[attention\] must fit: upsilon must give each"):
        build_network(recipe(NETWORKS["basic"], dataclasses.replace(SMALL, upsilon=0.1)))


@pytest.mark.parametrize("features", [(2, 3), (1, 2), (1,)], ids=str)
def test_a_backbone_returns_the_maps_of_its_classifier(features):
    network = NETWORKS["bottleneck"]
    classifier = build_network(recipe(network, SMALL), seed=1)
    image = dataclasses.replace(IMAGE, labels=())
    backbone = build_network(recipe(dataclasses.replace(network, features=features), SMALL, image), seed=2)
    kept = {n: t for n, t in classifier.state_dict().items() if not n.startswith(backbone.ignored_weights)}
    assert len(backbone.stages) == max(features)
    backbone.load_state_dict(kept)
    x = torch.randn(1, *IMAGE.shape)
    seen = []
    for stage in classifier.stages:
        stage.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        classifier(x)
        for got, stage in zip(backbone(x), features, strict=True):
            assert torch.equal(got, seen[stage - 1])


# Fresh weights


def test_convolutions_start_by_their_fan_out():
    module = build_network(recipe(ResNet(family="resnet", block="basic", blocks=(1,), width=64, stem="3x3")))
    weight = module.stages[0][0].conv1.weight.detach()
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)


def test_calibration_gives_normal_activations():
    network = ResNet(family="resnet", block="basic", blocks=(8, 8), width=8, stem="3x3")
    module = build_network(recipe(network))
    x = torch.randn(8, *IMAGE.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wild = float(module(x).abs().max())
        calibrate_normalization(module, IMAGE.shape, seed=0)
        tame = float(module(x).abs().max())
    assert tame < 10 < wild


def test_calibration_leaves_everything_else_as_it_was():
    module = build_network(recipe(NETWORKS["wide"]))
    before = {name: p.clone() for name, p in module.named_parameters()}
    state = torch.get_rng_state()
    calibrate_normalization(module, IMAGE.shape, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert not module.training
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
    assert {m.momentum for m in module.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_calibration_is_decided_by_its_seed():
    first, second, third = (build_network(recipe(NETWORKS["wide"])) for _ in range(3))
    for module, seed in ((first, 1), (second, 1), (third, 2)):
        calibrate_normalization(module, IMAGE.shape, seed=seed)
    assert torch.equal(first.norm.running_var, second.norm.running_var)
    assert not torch.equal(first.norm.running_var, third.norm.running_var)


def test_a_calibrated_network_means_the_same_in_float32_and_float64():
    """Random weights must not turn rounding into noise: parity could not be judged then."""
    module = build_network(recipe(NETWORKS["basic"], SMALL))
    calibrate_normalization(module, IMAGE.shape, seed=0)
    x = torch.randn(2, *IMAGE.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        single = module(x)
        assert_close(single.double(), module.double()(x.double()), atol=1e-5, rtol=1e-5)
