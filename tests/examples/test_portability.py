"""The default export of every kind of layer and network runs in other runtimes too, and agrees with float64 there.

A runtime that is not installed is skipped with what to do: `pip install openvino`, `make web`.
"""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from runtimes import RUNTIMES

import aaexport
from aaexport.folder import zoo_models
from aaexport.nn import AugmentedConv2d, set_decomposition
from aaexport.nn.build import build_network, calibrate_normalization
from aaexport.parity import Case, Truth, compare, tolerances
from aaexport.recipe import Attention, MnasNet, ResNet

LAYER = {"dk": 8, "dv": 4, "num_heads": 2, "height": 5, "width": 7}
LAYERS = {
    "plain": {},
    "pooled": {"attention_downsample": 2, "height": 6, "width": 8},
    "pooled, strided, odd": {"attention_downsample": 2, "stride": 2, "height": 9, "width": 11, "bias": True},
    "heads not permuted": {"head_layout": "unpermuted", "qkv_kernel_size": 3},
    "attention alone, not relative": {"dv": 8, "relative": False},
    "one pixel": {"height": 1, "width": 1},
    "table, in blocks": {"height": 45, "width": 12, "num_heads": 4},
}
NETWORKS = {
    "features, several outputs": ResNet(
        family="resnet", block="bottleneck", blocks=(1, 1), width=4, stem="3x3", features=(1, 2)
    ),
    "mnasnet": MnasNet(family="mnasnet", blocks=(1, 1, 1, 1, 1, 1), width_multiplier=0.25),
}
EXPORTS = {
    **{name: (name, {}) for name in (*LAYERS, *NETWORKS)},
    "table, in blocks": ("table, in blocks", {"batch": 1}),
    "opset 23, Attention": ("pooled", {"opset": 23}),
}
# The others take seconds each for the export, and have little that these do not have.
QUICK = ("pooled, strided, odd", "opset 23, Attention")


def layer(name):
    options = LAYER | LAYERS[name]
    return AugmentedConv2d(3, 8, **options), (3, options["height"], options["width"])


def network(name):
    attention = Attention(kappa=0.5, upsilon=0.5, num_heads=2, min_dkh=2, stages=(2,), downsample_stages=(2,))
    base = zoo_models()["resnet50" if NETWORKS[name].classifies else "resnet50_features"].recipe
    image = dataclasses.replace(base.input, height=33, width=47)
    recipe = dataclasses.replace(base, network=NETWORKS[name], attention=attention, input=image)
    return build_network(recipe), image.shape


@torch.no_grad()
def attentive(module, shape):
    """With queries and keys large enough that attention chooses: fresh ones average, and would hide a fault in it."""
    for part in module.modules():
        if isinstance(part, AugmentedConv2d):
            part.qkv.weight[: 2 * part.dk] *= 8
            part.projection.weight *= 8
    calibrate_normalization(module, shape, 0)
    return module.eval()


@torch.no_grad()
def outputs(module, images):
    given = module(images)
    tensors = given if isinstance(given, tuple) else (given,)
    return dict(enumerate(tensor.numpy() for tensor in tensors))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(export, id=name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name, export in EXPORTS.items()
    ],
)
def export(request, tmp_path_factory):
    """What `convert` made of a module, with images and what float64 and PyTorch's float32 compute of them."""
    name, options = request.param
    torch.manual_seed(0)
    module, shape = layer(name) if name in LAYERS else network(name)
    module = attentive(module, shape)
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    result = aaexport.convert(module, path, input_shape=shape, verify=False, **options)
    images = torch.randn(options.get("batch", 3), *shape, generator=torch.Generator().manual_seed(1))
    set_decomposition(module, "skew")
    own, truth = outputs(module, images), outputs(module.double(), images.double())
    return SimpleNamespace(result=result, images=images.numpy(), own=own, truth=truth)


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_an_export_agrees_in_another_runtime(export, runtime):
    if runtime.missing:
        pytest.skip(f"{runtime.name} is not installed: {runtime.missing}")
    given = dict(enumerate(runtime.run(export.result.path, {"input": export.images}).values()))
    truth = Truth(Case("random images", export.images), export.truth, export.own, {})
    judged = compare(truth, given, tolerances("float32", "cpu"))
    assert [output.failure for output in judged if not output.passed] == []


def test_an_export_holds_nothing_that_a_runtime_lacks(export):
    assert export.result.notes == ()


def test_attention_is_an_operator_from_opset_23_on_only(export):
    assert ("Attention" in export.result.operators) == (export.result.opset >= 23)
