"""Ranges → the scales and zero points by which 8 bits stand for numbers: number = scale · (stored − zero point)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aaexport.graph.precision.ranges import Range
from aaexport.graph.precision.weight_types import LARGEST, WeightType

Array = npt.NDArray[Any]
SMALLEST = float(np.finfo(np.float32).tiny)  # of a scale: runtimes divide by it
MIDDLE = 128  # what stands for 0 in uint8
MOST_BIAS = 2**30  # half of what 32 bits hold: the sum of products is added to it


@dataclass(frozen=True)
class Grid:
    """The numbers that a tensor of 8 bits can hold: unsigned with a zero point, or signed and symmetric around 0."""

    scale: float
    zero_point: int
    is_signed: bool

    @property
    def dtype(self) -> type[np.integer[Any]]:
        """Of what is stored."""
        return np.int8 if self.is_signed else np.uint8

    @property
    def range(self) -> Range:
        """From the least to the greatest number that can be held."""
        limits = np.iinfo(self.dtype)
        return Range(*(self.scale * (bound - self.zero_point) for bound in (int(limits.min), int(limits.max))))


def grid_for(seen: Range, *, symmetric: bool) -> Grid:
    """The finest grid that holds `seen` and 0, which is held exactly: padding and what is not active are 0."""
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if symmetric:
        return Grid(_scale(max(-low, high) / 127), 0, is_signed=True)
    scale = _scale((high - low) / 255)
    return Grid(scale, round(-low / scale), is_signed=False)


def weight_scales(weight: Array, kind: WeightType, bias: Array | None, input_scale: float) -> Array:
    """One for each output channel, the first axis: `finest_scales`, and 1 where that is nothing."""
    scales = finest_scales(weight, LARGEST[kind], bias, input_scale)
    scales[scales == 0] = 1.0
    return np.asarray(scales, np.float32)


def finest_scales(weight: Array, most: int, bias: Array | None, input_scale: float) -> Array:
    """(channels,) in float64: so that the largest weight of each channel is stored as `most`, or less.

    Less where a bias, which is stored in units of input scale · weight scale, would not fit into 32 bits otherwise:
    that of a channel whose weights are next to nothing. 0 where either unit would be smaller than runtimes divide by.
    """
    rows = weight.reshape(len(weight), -1)
    largest = np.maximum(rows.max(axis=1, initial=0.0), -rows.min(axis=1, initial=0.0))
    scales = largest.astype(np.float64) / most
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias.astype(np.float64)) / (input_scale * MOST_BIAS))
    smallest = scales if bias is None else scales * min(input_scale, 1.0)
    return np.asarray(np.where(smallest < SMALLEST, 0.0, scales))


def stored_weight(weight: Array, kind: WeightType, scales: Array) -> tuple[Array, Array]:
    """(in 8 bits, the zero points of its channels)."""
    units = weight / scales.reshape(-1, *[1] * (weight.ndim - 1))
    np.clip(np.rint(units, out=units), -LARGEST[kind], LARGEST[kind], out=units)
    if kind == "uint8":
        return (units + MIDDLE).astype(np.uint8), np.full(len(scales), MIDDLE, np.uint8)
    return units.astype(np.int8), np.zeros(len(scales), np.int8)


def stored_bias(bias: Array, scales: Array) -> Array:
    """In 32 bits, by a scale for each number."""
    return np.rint(bias.astype(np.float64) / scales).astype(np.int32)


def _scale(wanted: float) -> float:
    """As runtimes have it, in float32; 1 for a tensor that is always 0."""
    return float(np.float32(wanted)) if wanted >= SMALLEST else 1.0
