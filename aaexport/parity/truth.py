"""What must come out for a case: the definition in float64, and how near PyTorch itself comes to it in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from aaexport.parity.cases import Array, Case
from aaexport.parity.distances import by_channel, distance, largest
from aaexport.parity.finiteness import largest_finite
from aaexport.parity.positions import Scores

MOST_OF_KERNELS = 0.01  # of the largest number of an output, beyond which a kernel is no excuse for the file


@dataclass(frozen=True)
class Own:
    """What PyTorch's own error in float32 is known to be: the largest, and each channel's with its size."""

    largest: float = 0.0
    by_channel: Array = field(default_factory=lambda: np.zeros(0))
    channel_sizes: Array = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Truth:
    """What must come out for a case, and how near PyTorch itself comes in float32.

    Attributes:
        case: what is fed.
        expected: the definition's outputs, float64.
        baseline: PyTorch's outputs in float32 for the same inputs.
        own: PyTorch's own error in each output, where more is known than `baseline` shows: one run may be lucky.
        doubted: whether the absolute bound is to be left out: `own` is what rounding makes of such inputs.
        kernels: how far each output moves where kernels are as accurate as is known of them (`KERNELS`).
        scores: what outputs of positions point at, where that is known.
        undecided: where an output without fractions is another one as soon as the inputs are rounded otherwise.
        shown: outputs of which the file was shown to be right without its kernels: `kernels` holds in full.
        seen: of each number of an output what float32 makes of it where inputs are rounded otherwise, or kernels are
            as accurate as is known of them: finite, infinite or NaN (`finiteness`). What only float64 makes of it is
            no part of it.
    """

    case: Case
    expected: Mapping[str, Array]
    baseline: Mapping[str, Array]
    own: Mapping[str, Own] = field(default_factory=dict)
    doubted: bool = False
    kernels: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, Scores] = field(default_factory=dict)
    undecided: Mapping[str, Array] = field(default_factory=dict)
    shown: frozenset[str] = frozenset()
    seen: Mapping[str, Array] = field(default_factory=dict)

    def drowned(self) -> frozenset[str]:
        """Outputs of which kernels may make more than a hundredth: then nearly anything would be near enough."""
        sizes = {name: largest_finite(self.expected[name]) for name in self.kernels}
        return frozenset(name for name, size in sizes.items() if self.kernels[name] > MOST_OF_KERNELS * size)


class OwnErrors:
    """PyTorch's own error in each output over all ordinary cases seen so far."""

    def __init__(self) -> None:
        self._relative: dict[str, float] = {}
        self._channels: dict[str, tuple[Array, Array]] = {}

    def learn(self, expected: Mapping[str, Array], baseline: Mapping[str, Array]) -> None:
        """Takes one more ordinary case into account; numbers that are not finite teach nothing."""
        for name, given in expected.items():
            own = baseline.get(name)
            if own is None or own.shape != given.shape or own.dtype.kind != "f":
                continue
            array, own = _where_finite(given, own)
            error, scale = distance(own, array), largest(array)
            if scale > 0:
                self._relative[name] = max(self._relative.get(name, 0.0), largest(error) / scale)
            channels = by_channel(error), by_channel(array)
            known = self._channels.get(name, channels)
            if known[0].shape == channels[0].shape:
                self._channels[name] = (np.maximum(known[0], channels[0]), np.maximum(known[1], channels[1]))

    def of(self, expected: Mapping[str, Array]) -> dict[str, Own]:
        """What may be expected of PyTorch in a case with those outputs."""
        return {
            name: Own(self._relative.get(name, 0.0) * _in_float32(array), *self._channels.get(name, ()))
            for name, array in expected.items()
        }

    def or_more(self, own: Mapping[str, Own], expected: Mapping[str, Array]) -> dict[str, Own]:
        """What was known when a case was computed, or what is known by now where that is more."""
        now = self.of(expected)
        return {**now, **{name: known for name, known in own.items() if known.largest >= now[name].largest}}


def _where_finite(one: Array, other: Array) -> tuple[Array, Array]:
    """Both, with zeros where either is not finite."""
    finite = np.isfinite(one) & np.isfinite(other)
    return (one, other) if finite.all() else (np.where(finite, one, 0), np.where(finite, other, 0))


def _in_float32(array: Array) -> float:
    """The size of the largest number that is finite in float32 too."""
    with np.errstate(over="ignore"):
        return largest_finite(array.astype(np.float32))
