"""Tensors that were seen on images → the least and the greatest number of each, over all images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aaexport.errors import GraphError
from aaexport.graph.precision.reduced import Layer

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Range:
    """The least and the greatest number of a tensor."""

    low: float
    high: float

    @property
    def largest(self) -> float:
        """The greatest magnitude; NaN if either bound is."""
        return float(np.maximum(abs(self.low), abs(self.high)))

    def joined(self, other: Range) -> Range:
        """What holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


Ranges = Mapping[str, Range]


class RangeCollector:
    """What has been seen of tensors so far; each batch adds to it.

    Args:
        layers: who writes each tensor, in their order: of several that are not finite the first is complained of. A
            tensor that is not among them is an input of the model.
        infinite: whether infinity is right: who masks by it means it, and such a tensor stays in float32.
        called: what the image of a number is called.
    """

    def __init__(
        self, layers: Mapping[str, Layer], *, infinite: bool = False, called: Callable[[int], str] = "image {}".format
    ) -> None:
        self._layers, self._infinite, self._called = layers, infinite, called
        self._order = {name: place for place, name in enumerate(layers)}
        self._ranges: dict[str, Range] = {}

    @property
    def ranges(self) -> Ranges:
        """Of every tensor that was seen and is not empty."""
        return dict(self._ranges)

    def add(self, tensors: Mapping[str, Array], *, first: int, images: int) -> None:
        """Takes tensors, by name, of so many images, of which the first is number `first`; a few of them or all.

        Raises:
            GraphError: NaN, or infinity unless that is right; the text names the node, its module and the image.
        """
        for name in sorted(tensors, key=lambda name: self._order.get(name, -1)):
            numbers = tensors[name]
            if not numbers.size:
                continue
            seen = Range(float(numbers.min()), float(numbers.max()))  # both pass NaN on
            wrong = math.isnan if self._infinite else _is_not_finite
            if wrong(seen.low) or wrong(seen.high):
                raise GraphError(self._complaint(name, numbers, first, images))
            self._ranges[name] = seen.joined(self._ranges[name]) if name in self._ranges else seen

    def _complaint(self, name: str, numbers: Array, first: int, images: int) -> str:
        kind = "NaN" if np.isnan(numbers).any() else "infinity"
        layer = self._layers.get(name)
        where = f"input {name}" if layer is None else f"the output of {layer}"
        return f"{where} must be finite on calibration, got {kind} for {self._image(numbers, first, images)}"

    def _image(self, numbers: Array, first: int, images: int) -> str:
        """Which image is not finite, by the first axis where that is the batch's."""
        if images == 1:
            return self._called(first)
        if numbers.ndim and numbers.shape[0] == images:
            rows = numbers.reshape(images, -1)
            wrong = np.isnan(rows) if np.isnan(rows).any() else np.isinf(rows)
            return self._called(first + int(wrong.any(axis=1).argmax()))
        return f"one of {images} images from {self._called(first)} to {self._called(first + images - 1)}"


def _is_not_finite(number: float) -> bool:
    return not math.isfinite(number)
