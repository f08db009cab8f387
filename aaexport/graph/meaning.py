"""ONNX model → numbers for its inputs that mean something to the operators that read them.

An axis, a size or the number of a row is not any integer: at random, most models that take one cannot run. What reads
an input tells what it may be. Inputs of whose readers nothing is known here are left to whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, shape_inference

from aaexport.graph.files import model_inputs
from aaexport.graph.light import light

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
PASSING = ("Cast", "Identity", "Unsqueeze", "Squeeze")  # what reads these reads the input
MOST = 4  # of sizes that are made up


@dataclass(frozen=True)
class Reading:
    """An input of `shape` that a node reads, whose first input has the shape `data`; None where it is not known."""

    shape: Shape
    data: Shape | None
    axis: int
    rng: np.random.Generator

    @property
    def count(self) -> int:
        """How many numbers the input has."""
        return int(np.prod(self.shape, dtype=np.int64))

    def below(self, most: int, least: int = 0) -> Array:
        """At random, `least` to `most` − 1."""
        return self.rng.integers(least, max(most, least + 1), self.shape)


Maker = Callable[[Reading], Array | None]


def meaningful_inputs(
    model: onnx.ModelProto, shapes: Mapping[str, Shape], rng: np.random.Generator
) -> dict[str, Array]:
    """Numbers for those inputs, of the given shapes, whose readers want certain ones; as int64 or float64."""
    names = {tensor.name for tensor in model_inputs(model)}
    known = _known_shapes(model, shapes)
    passed = {name: name for name in names}
    found: dict[str, Array] = {}
    for node in model.graph.node:
        if node.op_type in PASSING and node.input and node.input[0] in passed:
            passed[node.output[0]] = passed[node.input[0]]
        for place, read in enumerate(node.input):
            name = passed.get(read)
            make = MAKERS.get(node.op_type, {}).get(place)
            if name is None or make is None or name in found or name not in shapes:
                continue
            made = make(Reading(shapes[name], known.get(node.input[0]), _axis(node), rng))
            if made is not None:
                found[name] = np.asarray(made).reshape(shapes[name])
    return found


def _known_shapes(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    copy = light(model)
    for value in copy.graph.input:
        if value.name in shapes and value.type.WhichOneof("value") == "tensor_type":
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, shapes[value.name]))
    try:
        graph = shape_inference.infer_shapes(copy, data_prop=True).graph
    except shape_inference.InferenceError:
        graph = copy.graph
    found: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(size.HasField("dim_value") for size in tensor.shape.dim):
            found[value.name] = tuple(size.dim_value for size in tensor.shape.dim)
    return found


def _axis(node: onnx.NodeProto) -> int:
    default = -1 if node.op_type == "TopK" else 0
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), default)


# What the readers want.


def _along_axis(reading: Reading) -> Array | None:
    """Places along an axis."""
    return None if not reading.data else reading.below(reading.data[reading.axis])


def _of_first_axes(reading: Reading) -> Array | None:
    """Places along the first axes, of which there are as many as numbers in a place."""
    if not reading.data or not reading.shape:
        return None
    sizes = reading.data[: reading.shape[-1]]
    if len(sizes) < reading.shape[-1] or not all(sizes):
        return None
    return np.stack([reading.rng.integers(0, size, reading.shape[:-1]) for size in sizes], axis=-1)


def _up_to_axis(reading: Reading) -> Array | None:
    """How many of an axis: at least one."""
    return None if not reading.data else reading.below(reading.data[reading.axis] + 1, 1)


def _sizes(reading: Reading) -> Array:
    """Sizes of what is new."""
    return reading.below(MOST, 1)


def _all_in_last_axis(reading: Reading) -> Array | None:
    """A shape in which the data fits: all in the last axis."""
    return None if not reading.count else np.array([1] * (reading.count - 1) + [-1])


def _own_sizes(reading: Reading) -> Array | None:
    """The sizes that the data has."""
    return np.array(reading.data) if reading.data is not None and len(reading.data) == reading.count else None


def _first_axes(reading: Reading) -> Array:
    """Axes, each another one."""
    return np.arange(reading.count)


def _axes_of_one(reading: Reading) -> Array | None:
    """Axes along which there is one number."""
    places = [place for place, size in enumerate(reading.data or ()) if size == 1]
    return np.array(places[: reading.count]) if len(places) >= reading.count else None


def _even_parts(reading: Reading) -> Array | None:
    """Sizes that are together the size of the axis."""
    if not reading.data or not reading.count:
        return None
    size, rest = divmod(reading.data[reading.axis], reading.count)
    return np.array([size + (place < rest) for place in range(reading.count)])


def _all(number: int) -> Maker:
    return lambda reading: np.full(reading.shape, number)


REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
# Operator → which of its inputs wants what.
MAKERS: Mapping[str, Mapping[int, Maker]] = {
    "CenterCropPad": {1: _sizes}, "ConstantOfShape": {0: _sizes}, "CumSum": {1: _all(0)}, "Expand": {1: _all(1)},
    "Gather": {1: _along_axis}, "GatherElements": {1: _along_axis}, "GatherND": {1: _of_first_axes},
    "Loop": {0: _sizes}, "NonMaxSuppression": {2: _sizes}, "OneHot": {1: _all(MOST)},
    "Pad": {1: _all(1), 3: _first_axes}, "Range": {0: _all(0), 1: _all(MOST), 2: _all(1)},
    "Reshape": {1: _all_in_last_axis}, "Resize": {2: _all(1), 3: _own_sizes}, "Scatter": {1: _along_axis},
    "ScatterElements": {1: _along_axis}, "ScatterND": {1: _of_first_axes},
    "Slice": {1: _all(0), 2: _all(MOST), 3: _first_axes, 4: _all(1)}, "Split": {1: _even_parts},
    "SplitToSequence": {1: _all(1)}, "Squeeze": {1: _axes_of_one}, "Tile": {1: _sizes}, "TopK": {1: _up_to_axis},
    "Trilu": {1: _all(0)}, "Unsqueeze": {1: _first_axes},
    **{f"Reduce{name}": {1: _first_axes} for name in REDUCTIONS},
}  # fmt: skip
