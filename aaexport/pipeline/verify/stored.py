"""(reduced file, its float32 sibling, images) → what each tensor loses by itself, and which should not be in 8 bits.

The answers show what all roundings do together, and a fault in one of them may drown in what the others do. A tensor
by itself shows it: its numbers are known from the float32 file, and so is the finest grid that would hold them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from aaexport.errors import GraphError, RunnerError
from aaexport.graph.files import OnnxModel
from aaexport.graph.intermediate import exposing, plan_chunks, tensor_bytes
from aaexport.graph.precision.kinds import read_origin
from aaexport.graph.precision.reduced import BY_REQUEST
from aaexport.graph.precision.stored import (
    Activation,
    Constant,
    activations,
    constants_in_8_bits,
    constants_in_float16,
    holds_float16,
    stored_convolutions,
)
from aaexport.parity import Array
from aaexport.parity.by_tensor import excess_db
from aaexport.parity.guard import TensorLoss
from aaexport.parity.thresholds import ReducedKind
from aaexport.pipeline.verify.feeding import fed
from aaexport.runners.ort import OrtRunner

IMAGES = 64  # of fewer the range is narrower than that of as many others, on which the file was calibrated
MOST_BYTES = 2**29  # of tensors that onnxruntime answers with at once
MOST_HELD = 3 * 2**29  # of those of all images, which are kept to be looked at again
ROUNDING = 1e-3  # of a scale
Extent = tuple[float, float]  # the least and the greatest number of a tensor, 0 between them
LARGEST = float(np.finfo(np.float16).max)
UNIFORM = 12  # the noise of rounding to a unit is unit² / 12


def tensor_losses(
    model: OnnxModel, source: OnnxModel, kind: ReducedKind, images: Sequence[Array]
) -> tuple[TensorLoss, ...]:
    """Of every tensor that both files have; none where the float32 file cannot be compared with.

    Args:
        model: the reduced file.
        source: the float32 file that it was made of.
        kind: what the first one is.
        images: batches that the float32 file takes, whose numbers show what a grid must hold.
    """
    try:
        if kind == "float16":
            return tuple(_of_constant(one) for one in constants_in_float16(model, source))
        constants = [_of_constant(one) for one in constants_in_8_bits(model, source)]
    except GraphError:
        return ()  # it is no float32 file that could have become one in 8 bits
    found = list(activations(model))
    return (*constants, *_of_activations(found, source, images))


def uncompared(model: OnnxModel, kind: ReducedKind, tensors: Sequence[TensorLoss]) -> tuple[str, ...]:
    """What is in fewer bits and has no partner in the float32 file, in words: no loss is known of it."""
    if kind == "float16":
        return () if tensors or not holds_float16(model) else ("all constants in float16",)
    weights = {one.node for one in tensors if one.what == "weight"}
    computed = {one.tensor for one in tensors if one.what == "activation"}
    lone = [f"weight of {layer}" for layer in stored_convolutions(model) if layer.node not in weights]
    unseen = [f"activation {name}" for name in {one.name: None for one in activations(model)} if name not in computed]
    return (*lone, *unseen)


def faults_of(model: OnnxModel) -> tuple[str, ...]:
    """What is in 8 bits and should not be, and what is on another grid than the file says that it was calibrated for.

    Only convolutions are in 8 bits, and not those that were to stay in float32.
    """
    origin, found = read_origin(model), list(activations(model))
    lines = [
        f"tensor {one.name} of {one.layer} must be in float32, got 8 bits: no convolution in 8 bits is beside it"
        for one in found
        if not one.is_of_convolution
    ]
    lines += [
        f"tensor {one.name} of {one.layer} must be read as it was stored, got other scales or zero points"
        for one in found
        if (one.scale, one.zero_point) != (one.read_scale, one.read_zero_point)
    ]
    if origin is None:
        return tuple(lines)
    lines += _on_another_grid(found, _ranges(origin.calibration.get("ranges")))
    stayed = {node: reason for _, node, _, reason in origin.kept}
    for layer in stored_convolutions(model):
        if layer.node in stayed:
            why = "as it was asked to" if stayed[layer.node] == BY_REQUEST else f"because {stayed[layer.node]}"
            lines.append(f"{layer} must stay in float32 {why}, got weights in 8 bits")
    return tuple(lines)


def _ranges(told: object) -> dict[str, Extent]:
    """As the file's metadata have them; anybody may have written those."""
    if not isinstance(told, dict):
        return {}
    pairs = {name: pair for name, pair in told.items() if isinstance(pair, list) and len(pair) == 2}
    return {
        name: (min(pair[0], 0.0), max(pair[1], 0.0))
        for name, pair in pairs.items()
        if all(isinstance(bound, int | float) and math.isfinite(bound) for bound in pair)
    }


def _on_another_grid(found: Sequence[Activation], calibrated: Mapping[str, Extent]) -> Iterator[str]:
    for (scale, zero_point, _), members in _sharing(found).items():
        known = [calibrated[one.name] for one in members if one.name in calibrated]
        if len(known) < len(members):
            continue
        unit, zero = _grid(_union(known), is_signed=members[0].is_signed)
        if unit and (abs(scale / unit - 1) > ROUNDING or abs(zero_point - zero) > 1):
            names = ", ".join(one.name for one in members)
            rule = f"be on the grid of its calibration, of scale {unit:.6g} and zero point {zero}"
            yield f"tensor {names} of {members[0].layer} must {rule}, got {scale:.6g} and {zero_point}"


def _sharing(found: Sequence[Activation]) -> dict[tuple[float, int, int], list[Activation]]:
    """Grid → the tensors on it: where numbers are moved from one to another, both share a grid."""
    shared: dict[tuple[float, int, int], list[Activation]] = {}
    for one in found:
        shared.setdefault(one.grid, []).append(one)
    return shared


def _union(extents: Iterable[Extent]) -> Extent:
    lows, highs = zip(*extents, strict=True)
    return min(lows), max(highs)


def _grid(extent: Extent, *, is_signed: bool) -> tuple[float, int]:
    """Scale and zero point of the finest grid that holds it; a scale of 0 if that is nothing."""
    low, high = extent
    unit = max(-low, high) / 127 if is_signed else (high - low) / 255
    return unit, 0 if is_signed or not unit else round(-low / unit)


def _of_constant(one: Constant) -> TensorLoss:
    """Channel by channel: a grid that is right for the whole may be far too coarse for one."""
    expected = one.expected.astype(np.float64)
    noise = _by_channel(_squared_errors(one.held, expected))
    if one.unit is None:
        best = np.clip(expected, -LARGEST, LARGEST).astype(np.float16).astype(np.float64)
        least = _by_channel(_squared_errors(best, expected))
    else:
        unit = np.where(one.unit > 0, one.unit, 1.0).reshape(-1, *[1] * (expected.ndim - 1))
        least = _by_channel(np.square(np.rint(expected / unit) * unit - expected))
        least = np.maximum(least, _by_chance(expected.size // max(len(least), 1)) * np.square(one.unit))
    return TensorLoss(
        one.layer.path,
        one.layer.node,
        one.what,
        "bias" if one.what == "bias" else "weight",
        _db(float(np.square(expected[np.isfinite(expected)]).sum()), float(noise.sum())),
        excess_db(noise, least),
    )


def _squared_errors(held: Array, expected: Array) -> Array:
    """0 where both are the same infinity or NaN, infinity where they are not."""
    with np.errstate(invalid="ignore"):
        errors = np.square(held - expected)
    same = (held == expected) | (np.isnan(held) & np.isnan(expected))
    return np.where(same, 0.0, np.where(np.isnan(errors), np.inf, errors))


def _by_chance(count: int) -> float:
    """The noise of so many numbers rounded to a unit of 1 that chance does not exceed: of one up to 1/4, not 1/12."""
    return min(count / 4, count / UNIFORM + 3 * math.sqrt(count / 180))


def _by_channel(numbers: Array) -> Array:
    channels = numbers if numbers.ndim else numbers[None]
    return np.asarray(channels.sum(axis=tuple(range(1, channels.ndim))))


def _finite(numbers: Array) -> Array:
    """No grid holds infinity and NaN: what becomes of them, the answers tell."""
    finite = np.isfinite(numbers)
    return numbers if finite.all() else numbers[finite]


def _of_activations(found: Sequence[Activation], source: OnnxModel, images: Sequence[Array]) -> list[TensorLoss]:
    """Those that share a grid, because numbers are moved from one to another, share the range that it must hold."""
    tensors = _seen(found, source, images)
    seen: dict[str, Extent] = {}
    for name, numbers in tensors():
        low, high = seen.get(name, (0.0, 0.0))
        finite = _finite(numbers)
        seen[name] = min(low, float(finite.min(initial=0.0))), max(high, float(finite.max(initial=0.0)))
    known = [one for one in found if one.name in seen]
    held = {grid: _union(seen[one.name] for one in members) for grid, members in _sharing(known).items()}
    noises = [_Noise(one, held[one.grid]) for one in known]
    for name, numbers in tensors():
        for noise in noises:
            if noise.one.name == name:
                noise.add(_finite(numbers).astype(np.float64))
    return [noise.loss() for noise in noises]


@dataclass
class _Noise:
    """What the rounding of a tensor costs, and what it would cost on the finest grid that holds `held`."""

    one: Activation
    held: Extent
    signal: float = 0.0
    noise: float = 0.0
    least: float = 0.0

    def add(self, expected: Array) -> None:
        """Takes some more of its numbers into account."""
        is_signed = self.one.is_signed
        unit, zero = _grid(self.held, is_signed=is_signed)
        limits = (-127, 127) if is_signed else (0, 255)
        best = (np.clip(np.rint(expected / unit) + zero, *limits) - zero) * unit if unit else expected
        self.signal += float(np.square(expected).sum())
        self.noise += float(np.square(self.one.rounded(expected) - expected).sum())
        # Many of them may be 0, which every grid holds.
        self.least += max(float(np.square(best - expected).sum()), np.count_nonzero(expected) * unit**2 / UNIFORM / 2)

    def loss(self) -> TensorLoss:
        """Of all numbers so far."""
        layer = self.one.layer
        excess = excess_db(self.noise, self.least)
        return TensorLoss(layer.path, layer.node, self.one.name, "activation", _db(self.signal, self.noise), excess)


def _seen(
    found: Sequence[Activation], source: OnnxModel, images: Sequence[Array]
) -> Callable[[], Iterable[tuple[str, Array]]]:
    """What gives the tensors as float32 has them, each as often as there are batches of images.

    They are looked at twice, and computed once if there is room for all.
    """
    written = {name for node in source.graph.node for name in node.output}
    names = list(dict.fromkeys(one.name for one in found if one.name in written))
    if any(one.name == source.graph.input[0].name for one in found):
        names.append(source.graph.input[0].name)
    sizes = tensor_bytes(source, len(images[0]))
    whole = len(images) * sum(sizes.get(name, MOST_HELD) for name in names if name in written)
    once = partial(_computed, names, source, images, sizes)
    if whole > MOST_HELD:
        return once
    held = list(once())
    return lambda: held


def _computed(
    names: Sequence[str], source: OnnxModel, images: Sequence[Array], sizes: Mapping[str, int]
) -> Iterator[tuple[str, Array]]:
    """The tensors by name, a part of the file's at a time."""
    given = source.graph.input[0].name
    if given in names:
        yield from ((given, batch) for batch in images)
    for part in plan_chunks([name for name in names if name != given], sizes, MOST_BYTES):
        try:
            with OrtRunner(exposing(source, part)) as runner:
                for batch in images:
                    yield from fed(runner, batch).items()
        except RunnerError:
            continue  # a tensor that a runtime does not give away is not looked at


def _db(signal: float, noise: float) -> float | None:
    if noise == 0:
        return None
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else -math.inf
