"""Convolutions padded by half their kernel, and the size of the map that they leave."""

from __future__ import annotations

from torch import nn

Size = tuple[int, int]


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *, bias: bool = False, groups: int = 1
) -> nn.Conv2d:
    """A convolution that leaves ⌈size/stride⌉ positions."""
    padding = kernel_size // 2
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias, groups=groups)


def shrunk(size: Size, stride: int) -> Size:
    """What a layer of that stride leaves of a map of that size."""
    return -(-size[0] // stride), -(-size[1] // stride)
