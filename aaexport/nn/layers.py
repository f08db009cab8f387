"""The convolutions of a network: plain, or augmented where [attention] says so."""

from __future__ import annotations

from torch import nn

from aaexport.nn.augmented import AugmentedConv2d, attention_depths
from aaexport.nn.convolution import Size, convolution
from aaexport.recipe import Attention


def augmentable(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int,
    size: Size,
    stage: int,
    attention: Attention | None,
    *,
    bias: bool = False,
    at_least_one_value: bool = False,
) -> nn.Module:
    """The layer that a plain network and its augmented twin differ in.

    `size` is the (H, W) of its input and `stage` the stage it belongs to, from 1. With `at_least_one_value` a head
    gets one channel where υ would leave it none.

    Raises:
        ArgumentError: κ, υ and the heads do not fit `out_channels`.
    """
    if attention is None or not attention.augments(stage):
        return convolution(in_channels, out_channels, kernel_size, stride, bias=bias)
    heads = attention.num_heads
    upsilon = attention.upsilon
    if at_least_one_value and upsilon * out_channels < heads:
        dk, dv = attention_depths(out_channels, attention.kappa, 1.0, heads, attention.min_dkh)[0], heads
    else:
        dk, dv = attention_depths(out_channels, attention.kappa, upsilon, heads, attention.min_dkh)
    return AugmentedConv2d(
        in_channels,
        out_channels,
        kernel_size,
        dk=dk,
        dv=dv,
        num_heads=heads,
        height=size[0],
        width=size[1],
        stride=stride,
        relative=attention.relative,
        bias=bias,
        qkv_kernel_size=attention.qkv_kernel_size,
        attention_downsample=2 if stage in attention.downsample_stages else 1,
        head_layout=attention.head_layout,
    )


def initialise(network: nn.Module) -> None:
    """He et al. 2015 for convolutions that a ReLU follows, by fan-out; queries, keys and values keep torch's own."""
    attended = {
        id(layer)
        for augmented in network.modules()
        if isinstance(augmented, AugmentedConv2d)
        for layer in (augmented.qkv, augmented.projection)
    }
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and id(layer) not in attended:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
