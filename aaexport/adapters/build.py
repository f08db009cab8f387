"""The parts of somebody's layer → an AugmentedConv2d of the very same tensors."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from aaexport.adapters.adapter import DeclinedError, Parts
from aaexport.errors import ArgumentError
from aaexport.nn import AugmentedConv2d

# What a convolution computes depends on, beside its weights.
CONVOLUTION = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)


def replacement_of(parts: Parts, size: tuple[int, int], memo: dict[int, Any]) -> nn.Module:
    """The layer of these parts for an input of (height, width), copied by `memo`, in evaluation mode.

    Raises:
        DeclinedError: no AugmentedConv2d has such parts, or none for this size.
    """
    layer = _empty(parts, size)
    for role in ("conv", "qkv", "projection"):
        _require_convolution(role, getattr(parts, role), getattr(layer, role))
        setattr(layer, role, copy.deepcopy(getattr(parts, role), memo))
    for role in ("rel_height", "rel_width"):
        _require_table(getattr(parts, role), getattr(layer, role), layer.attention_size)
        setattr(layer, role, copy.deepcopy(getattr(parts, role), memo))
    whole = layer if parts.pool is None else nn.Sequential(layer, copy.deepcopy(parts.pool, memo))
    return whole.eval()


def _empty(parts: Parts, size: tuple[int, int]) -> AugmentedConv2d:
    """The layer on the meta device, where tensors take neither memory nor time."""
    conv = parts.conv
    strides = {side for part in (parts.qkv, conv) if part is not None for side in part.stride}
    try:
        with torch.device("meta"):
            return AugmentedConv2d(
                parts.qkv.in_channels,
                parts.dv + (0 if conv is None else conv.out_channels),
                1 if conv is None else conv.kernel_size[0],
                dk=parts.dk,
                dv=parts.dv,
                num_heads=parts.num_heads,
                height=size[0],
                width=size[1],
                stride=max(strides),
                relative=parts.rel_height is not None,
                qkv_kernel_size=parts.qkv.kernel_size[0],
                head_layout=parts.head_layout,
                projection=parts.projection is not None,
            )
    except ArgumentError as error:
        raise DeclinedError(f"AugmentedConv2d has no such layer: {error}") from error


def _require_convolution(role: str, found: nn.Conv2d | None, wanted: nn.Conv2d | None) -> None:
    if found is None:
        return
    if wanted is None:
        raise DeclinedError(f"its {role} has no output channels")
    for name in CONVOLUTION:
        got, rule = getattr(found, name), getattr(wanted, name)
        if got != rule:
            raise DeclinedError(f"the {name} of its {role} is {got}, where an AugmentedConv2d has {rule}")


def _require_table(found: Tensor | None, wanted: Tensor | None, size: tuple[int, int]) -> None:
    if found is None or wanted is None or found.shape == wanted.shape:
        return
    rows, depth = found.shape
    if depth != wanted.shape[1]:
        raise DeclinedError(f"its relative tables have {depth} columns, not the {wanted.shape[1]} of a head's keys")
    raise DeclinedError(
        f"its relative tables do not fit its map: one has {rows} rows, not the {len(wanted)} of a map of "
        f"{size[0]}×{size[1]}"
    )
