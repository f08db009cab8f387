"""The tolerance table: what an output may differ by from float64, by precision and by what computes it.

Six principles stand beside its numbers, each for a way in which a right file is not the model to the last bit:

- Where a kernel's accuracy is known to be absolute (`KERNELS`), an output may be off by what that error makes of it,
  up to a hundredth of its largest number; and beyond where the file was shown to be right without that kernel.
- Where scores tie, any order of them is right: positions are compared by the scores that they point at, which tie if
  they differ by no more than their own rounding.
- Infinities of one sign in one place are equal. Where it is a matter of rounding whether a number is infinite, a file
  may do as either, and the report says how many numbers were not compared for that.
- Where the model has an operator of which ONNX leaves open what it makes of NaN, other numbers in an image that holds
  NaN are a warning. The other images of the batch are judged as ever.
- One tensor under two names is two outputs: the second is an Identity of the first.
- onnx's evaluator that stands alone against PyTorch and every onnxruntime is a warning, but not in a file that
  computes in a narrower type by casts, which onnxruntime may leave out. What it cannot run is a warning in any case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from aaexport.errors import ArgumentError, broken_rule, parameter

Precision = Literal["float32", "float16", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "bfloat16")
# How many times coarser than float32's a unit in the last place is.
COARSER: dict[Precision, float] = {"float32": 1.0, "float16": 2.0**13, "bfloat16": 2.0**16}


@dataclass(frozen=True)
class Tolerance:
    """What an output may differ by from float64.

    Attributes:
        atol, rtol: largest |error| ≤ atol + rtol · largest |expected|.
        ratio, floor_ulps: largest |error| ≤ the larger of ratio · PyTorch's own in float32, and `floor_ulps` units in
            the last place of the largest |expected|; PyTorch may have been lucky.
        reason: why these numbers.
    """

    atol: float
    rtol: float
    ratio: float
    floor_ulps: float
    reason: str

    def but(self, atol: float | None, rtol: float | None) -> Tolerance:
        """The same with what was set by hand, which its reason says."""
        if atol is None and rtol is None:
            return self
        atol, rtol = self.atol if atol is None else atol, self.rtol if rtol is None else rtol
        return replace(self, atol=atol, rtol=rtol, reason=f"atol or rtol set by hand; {self.reason}")


TOLERANCES: dict[tuple[Precision, str], Tolerance] = {
    ("float32", "cpu"): Tolerance(
        atol=1e-5,
        rtol=1e-5,
        ratio=10,
        floor_ulps=8,
        reason="same arithmetic in another order of summation",
    ),
    ("float32", "cuda"): Tolerance(
        atol=1e-5,
        rtol=1e-4,
        ratio=30,
        floor_ulps=8,
        reason="TF32 off; cuDNN may choose Winograd or FFT convolutions, which round more often",
    ),
    ("float32", "tf32"): Tolerance(
        atol=2e-2,
        rtol=2e-2,
        ratio=30 * 2.0**13,
        floor_ulps=8 * 2.0**13,
        reason="TF32 keeps 10 bits of a factor where float32 keeps 23; sums stay in float32",
    ),
    ("float32", "tensorrt"): Tolerance(
        atol=2e-2,
        rtol=2e-2,
        ratio=30 * 2.0**13,
        floor_ulps=8 * 2.0**13,
        reason="TensorRT takes TF32 where it is faster",
    ),
    ("float32", "openvino"): Tolerance(
        atol=1e-5,
        rtol=1e-4,
        ratio=30,
        floor_ulps=8,
        reason="asked for float32; Winograd convolutions and approximated exponentials round more often",
    ),
    ("float32", "webgpu"): Tolerance(
        atol=1e-5,
        rtol=1e-4,
        ratio=30,
        floor_ulps=8,
        reason="WGSL lets a division be 2.5 units in the last place off, and an exponential more",
    ),
    ("float16", "cpu"): Tolerance(
        atol=2e-2,
        rtol=2e-2,
        ratio=10 * 2.0**13,
        floor_ulps=8 * 2.0**13,
        reason="float16 keeps 10 bits of every number where float32 keeps 23",
    ),
    ("float16", "cuda"): Tolerance(
        atol=2e-2,
        rtol=2e-2,
        ratio=30 * 2.0**13,
        floor_ulps=8 * 2.0**13,
        reason="float16 keeps 10 bits of every number where float32 keeps 23; other algorithms for convolutions",
    ),
    ("bfloat16", "cpu"): Tolerance(
        atol=1e-1,
        rtol=1e-1,
        ratio=10 * 2.0**16,
        floor_ulps=8 * 2.0**16,
        reason="bfloat16 keeps 7 bits of every number where float32 keeps 23",
    ),
    ("bfloat16", "cuda"): Tolerance(
        atol=1e-1,
        rtol=1e-1,
        ratio=30 * 2.0**16,
        floor_ulps=8 * 2.0**16,
        reason="bfloat16 keeps 7 bits of every number where float32 keeps 23; other algorithms for convolutions",
    ),
}

# Operators whose kernels are accurate by the size of 1, or of all their input, not of a small result: how many
# units in its last place each number may be off. Outputs are judged by what such an error does to them, where they
# need it. A Fourier transform's unit is that of √Σ|x|², times the lengths that are no powers of two.
FOURIER = (
    10,
    "times n · √Σ|x|² of n numbers, unless n is a power of two: onnxruntime takes angles of π · k² / n in float32 "
    "there (Bluestein); measured from 3 to 1,021: at most 8.5",
)
KERNELS: dict[str, tuple[float, str]] = {
    "sigmoid": (2, "onnxruntime computes a quotient of two polynomials; at −4.6 it is 9e-8 off, of 0.01"),
    "silu": (2, "written as x · sigmoid(x)"),
    "_fft_r2c": FOURIER,
    "_fft_c2r": FOURIER,
    "_fft_c2c": FOURIER,
}

ALL_OUTPUTS = ""  # the key of a bound that holds for every output without one of its own
Bounds = Mapping[str, float]


@dataclass(frozen=True)
class Tolerances:
    """A row of the table with the bounds that were set by hand, for all outputs or for single ones."""

    row: Tolerance
    atol: Bounds
    rtol: Bounds

    def of(self, output: str) -> Tolerance:
        """What that output is judged by."""
        return self.row.but(
            self.atol.get(output, self.atol.get(ALL_OUTPUTS)), self.rtol.get(output, self.rtol.get(ALL_OUTPUTS))
        )

    def is_by_hand(self, output: str) -> bool:
        """Whether somebody set a bound of that output: then it holds, however far off PyTorch itself is."""
        return any(name in bounds for bounds in (self.atol, self.rtol) for name in (output, ALL_OUTPUTS))

    @property
    def common(self) -> Tolerance:
        """What every output without a bound of its own is judged by."""
        return self.of(ALL_OUTPUTS)

    @property
    def by_hand(self) -> tuple[str, ...]:
        """`atol 0.001 of logits` for every bound that was set by hand."""
        return tuple(
            f"{name} {value:g} of {output or 'every output'}"
            for name, bounds in (("atol", self.atol), ("rtol", self.rtol))
            for output, value in bounds.items()
        )


def tolerances(
    precision: Precision, runtime: str, atol: float | Bounds | None = None, rtol: float | Bounds | None = None
) -> Tolerances:
    """The table's row for `precision` computed by `runtime`: `cpu`, `cuda`, `tf32`, `tensorrt`, `openvino` or
    `webgpu`.

    A precision that the table knows on the CPU and on CUDA only is judged as on the CPU elsewhere.

    Args:
        precision: that the file is meant to have.
        runtime: what computes.
        atol, rtol: for every output, or by output; the key "" is for those not named.

    Raises:
        ArgumentError: a precision that is not in the table, or a bound that is negative or not a number.
    """
    if precision not in PRECISIONS:
        raise ArgumentError(broken_rule("dtype", f"be one of {', '.join(PRECISIONS)}", str(precision)))
    row = TOLERANCES.get((precision, runtime), TOLERANCES[precision, "cpu"])
    return Tolerances(row, _bounds("atol", atol), _bounds("rtol", rtol))


def _bounds(name: str, given: float | Bounds | None) -> Bounds:
    if given is None:
        return {}
    bounds = dict(given) if isinstance(given, Mapping) else {ALL_OUTPUTS: given}
    for output, value in bounds.items():
        if not (math.isfinite(value) and value >= 0):
            raise ArgumentError(
                broken_rule(f"{parameter(name)} of {output}" if output else name, "be at least 0 and finite", value)
            )
    return bounds
