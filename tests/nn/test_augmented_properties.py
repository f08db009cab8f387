"""Whole layers of any shape equal the definition in float64, and so do the gradients of input and parameters."""

import pytest
import torch
from definition import attention, attention_at_once, reference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from aaexport.nn import AugmentedConv2d
from aaexport.nn.augmented import HEAD_LAYOUTS
from aaexport.nn.relative import DECOMPOSITIONS

EXACT = {"rtol": 1e-12, "atol": 1e-12}
GRADIENTS = {"rtol": 1e-10, "atol": 1e-10}
LARGEST = 16
# (height, width, stride, attention_downsample): the corners that drawn sizes seldom hit.
CORNERS = {
    "largest": (16, 16, 1, 1),
    "wider than high": (15, 16, 1, 1),
    "one row": (1, 16, 1, 1),
    "one column": (16, 1, 1, 1),
    "one pixel": (1, 1, 2, 2),
    "pooled": (16, 16, 1, 2),
    "pooled, odd": (15, 13, 1, 2),
    "pooled and strided": (16, 15, 2, 2),
}
every_decomposition = pytest.mark.parametrize("decomposition", DECOMPOSITIONS)


def layer_of(seed, decomposition, blocks, *, heads, key_depth, value_depth, plain_channels, in_channels, **options):
    """A layer in float64 with `heads` heads of those depths beside `plain_channels` channels of convolution."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        depths = {"dk": heads * key_depth, "dv": heads * value_depth, "num_heads": heads}
        out_channels = plain_channels + heads * value_depth
        layer = AugmentedConv2d(in_channels, out_channels, **depths, **options, decomposition=decomposition)
    layer.blocks = blocks
    return layer.double()


def images(layer, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, layer.in_channels, layer.height, layer.width)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


sides = st.integers(1, LARGEST)
layers = st.fixed_dictionaries(
    {
        "heads": st.integers(1, 8),
        "key_depth": st.integers(1, 6),
        "value_depth": st.integers(1, 4),
        "plain_channels": st.integers(0, 3),
        "in_channels": st.integers(1, 3),
        "height": sides,
        "width": sides,
        "kernel_size": st.sampled_from([1, 3, 5]),
        "qkv_kernel_size": st.sampled_from([1, 3]),
        "stride": st.sampled_from([1, 2]),
        "attention_downsample": st.sampled_from([1, 2]),
        "relative": st.booleans(),
        "bias": st.booleans(),
        "head_layout": st.sampled_from(HEAD_LAYOUTS),
    }
)
any_layer = given(options=layers, blocks=st.integers(1, 9), batch=st.integers(1, 2), seed=st.integers(0, 2**32))


def gradients(forward, layer, x):
    """By name, of a fixed weighting of the output; weights keep softmax's symmetries from hiding errors."""
    leaves = {"x": x.clone().requires_grad_(), **dict(layer.named_parameters())}
    out = forward(leaves["x"])
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)
    return dict(zip(leaves, torch.autograd.grad((out * weights).sum(), list(leaves.values())), strict=True))


def assert_equal_gradients(layer, x):
    found = gradients(layer, layer, x)
    for name, wanted in gradients(lambda leaf: reference(layer, leaf, attention_at_once), layer, x).items():
        assert_close(found[name], wanted, **GRADIENTS, msg=lambda text, name=name: f"gradient of {name}: {text}")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)),
    relative=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_definition_at_once_is_the_one_in_loops(shape, relative, seed):
    count, key_depth, value_depth, height, width = shape
    sizes = [(count, key_depth, height, width)] * 2 + [(count, value_depth, height, width)]
    sizes += [(2 * height - 1, key_depth), (2 * width - 1, key_depth)] if relative else []
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    assert_close(attention_at_once(*inputs), attention(*inputs), **EXACT)


def assert_equals_the_definition(decomposition, options, blocks, batch, seed):
    layer = layer_of(seed, decomposition, blocks, **options)
    x = images(layer, batch, seed)
    assert_close(layer(x), reference(layer, x, attention_at_once), **EXACT)


def assert_has_the_gradients_of_the_definition(decomposition, options, blocks, batch, seed):
    layer = layer_of(seed, decomposition, blocks, **options)
    assert_equal_gradients(layer, images(layer, batch, seed))


@every_decomposition
@settings(max_examples=50, deadline=None, derandomize=True)
@any_layer
def test_a_layer_of_any_shape_equals_the_definition(decomposition, options, blocks, batch, seed):
    assert_equals_the_definition(decomposition, options, blocks, batch, seed)


@pytest.mark.slow
@every_decomposition
@settings(max_examples=400, deadline=None, derandomize=True)
@any_layer
def test_a_layer_of_many_more_shapes_equals_the_definition(decomposition, options, blocks, batch, seed):
    assert_equals_the_definition(decomposition, options, blocks, batch, seed)


@every_decomposition
@settings(max_examples=20, deadline=None, derandomize=True)
@any_layer
def test_a_layer_of_any_shape_has_the_gradients_of_the_definition(decomposition, options, blocks, batch, seed):
    assert_has_the_gradients_of_the_definition(decomposition, options, blocks, batch, seed)


@pytest.mark.slow
@every_decomposition
@settings(max_examples=200, deadline=None, derandomize=True)
@any_layer
def test_a_layer_of_many_more_shapes_has_the_gradients_of_the_definition(decomposition, options, blocks, batch, seed):
    assert_has_the_gradients_of_the_definition(decomposition, options, blocks, batch, seed)


@every_decomposition
@pytest.mark.parametrize("corner", CORNERS.values(), ids=CORNERS.keys())
@pytest.mark.parametrize("blocks", [1, 3])
def test_a_layer_of_eight_heads_has_the_gradients_of_the_definition(decomposition, corner, blocks):
    height, width, stride, downsample = corner
    sizes = {"height": height, "width": width, "stride": stride, "attention_downsample": downsample}
    depths = {"heads": 8, "key_depth": 3, "value_depth": 2, "plain_channels": 2, "in_channels": 2}
    layer = layer_of(0, decomposition, blocks, **depths, **sizes)
    assert_equal_gradients(layer, images(layer, 1, 0))
