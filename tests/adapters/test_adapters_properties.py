"""Every adapter: a layer of any sizes and its replacement compute the same, in float64, for any batch."""

import copy

import look_alikes
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from aaexport.adapters import adapt
from aaexport.nn.augmented import augmented_layers

EXACT = {"rtol": 1e-10, "atol": 1e-10}
SINGLE = {"rtol": 1e-4, "atol": 1e-5}
few = settings(max_examples=12, deadline=None, derandomize=True)
sides, heads, depths, channels = st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)
kernels, strides, batches, seeds = (
    st.sampled_from([1, 3, 5]),
    st.sampled_from([1, 2]),
    st.integers(1, 3),
    st.integers(0),
)


def assert_replaced(layer, title, in_channels, size, batch):
    """The whole layer is replaced, and keeps its numbers."""
    x = torch.randn(batch, in_channels, *size)
    adaptation = adapt(layer.eval(), x)
    assert (adaptation.replaced, adaptation.kept) == ({"": title}, {})
    assert len(augmented_layers(adaptation.module)) == 1
    double = copy.deepcopy(layer).double()
    with torch.no_grad():
        assert_close(adaptation.module(x), layer(x), **SINGLE)
        assert_close(adapt(double, x.double()).module(x.double()), double(x.double()), **EXACT)


def seeded(seed):
    torch.manual_seed(seed % 2**32)


@few
@given(
    size=st.tuples(sides, sides), heads=heads, key_depth=depths, value_depth=depths, in_channels=channels,
    plain_channels=channels, kernel_size=kernels, stride=strides, relative=st.booleans(), batch=batches, seed=seeds,
)  # fmt: skip
def test_the_reference_implementation(
    size, heads, key_depth, value_depth, in_channels, plain_channels, kernel_size, stride, relative, batch, seed
):
    seeded(seed)
    if relative:  # one table length serves both axes, and a stride divides the map
        size = (size[0] * stride, size[0] * stride)
    dk, dv = heads * key_depth, heads * value_depth
    layer = look_alikes.ReferenceConv(
        in_channels, plain_channels + dv, kernel_size, dk, dv, heads, size[0] // stride, relative, stride
    )
    assert_replaced(layer, "the PyTorch reference implementation's AugmentedConv", in_channels, size, batch)


@few
@given(
    size=st.tuples(sides, sides), heads=heads, key_depth=depths, value_depth=depths, in_channels=channels,
    plain_channels=channels, batch=batches, seed=seeds,
)  # fmt: skip
def test_the_copy_of_it_with_small_queries(
    size, heads, key_depth, value_depth, in_channels, plain_channels, batch, seed
):
    seeded(seed)
    dk, dv = heads * key_depth, heads * value_depth
    layer = look_alikes.InPaperConv(in_channels, plain_channels + dv, 3, dk, dv, heads, relative=False)
    assert_replaced(layer, "the PyTorch reference implementation's AugmentedConv", in_channels, size, batch)


@few
@given(
    size=st.tuples(sides, sides), heads=heads, key_depth=depths, value_depth=depths, in_channels=channels,
    plain_channels=channels, kernel_size=kernels, relative=st.booleans(), batch=batches, seed=seeds,
)  # fmt: skip
def test_legendong(
    size, heads, key_depth, value_depth, in_channels, plain_channels, kernel_size, relative, batch, seed
):
    seeded(seed)
    dk, dv = heads * key_depth, heads * value_depth
    layer = look_alikes.AugmentedLayer(
        in_channels, plain_channels + dv, kernel_size, kernel_size // 2, dk, dv, heads, relative, *size
    )
    assert_replaced(layer, "LegenDong's AugmentedLayer", in_channels, size, batch)


@few
@given(
    size=st.tuples(sides, sides), heads=heads, key_depth=depths, value_depth=depths, in_channels=channels,
    plain_channels=channels, kernel_size=kernels, stride=strides, relative=st.booleans(), batch=batches, seed=seeds,
)  # fmt: skip
def test_d_li14(
    size, heads, key_depth, value_depth, in_channels, plain_channels, kernel_size, stride, relative, batch, seed
):
    seeded(seed)
    if relative:
        size = (size[0], size[0])
    dk, dv = heads * key_depth, heads * value_depth
    layer = look_alikes.SelfAttention2d(
        in_channels, plain_channels + dv, kernel_size, dk, dv, heads, -(-size[0] // stride), relative, stride
    )
    assert_replaced(layer, "d-li14's SelfAttention2d", in_channels, size, batch)


@few
@given(
    size=st.tuples(st.integers(2, 6), st.integers(2, 6)), heads=heads, key_depth=depths, value_depth=depths,
    in_channels=channels, stride=strides, bias=st.booleans(), scaled=st.booleans(), batch=batches, seed=seeds,
)  # fmt: skip
def test_timm(size, heads, key_depth, value_depth, in_channels, stride, bias, scaled, batch, seed):
    seeded(seed)
    layer = look_alikes.BottleneckAttn(
        in_channels, heads * value_depth, size, stride, heads, key_depth, qkv_bias=bias, scale_pos_embed=scaled
    )
    assert_replaced(layer, "timm's BottleneckAttn", in_channels, size, batch)


@few
@given(
    size=st.tuples(sides, sides), heads=heads, depth=depths, in_channels=channels, batch=batches, seed=seeds
)  # fmt: skip
def test_lucidrains(size, heads, depth, in_channels, batch, seed):
    seeded(seed)
    layer = look_alikes.BottleAttention(
        dim=in_channels, fmap_size=size, heads=heads, dim_head=depth, rel_pos_emb=True
    )
    assert_replaced(layer, "lucidrains' BottleStack attention", in_channels, size, batch)
