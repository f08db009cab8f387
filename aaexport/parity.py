"""outputs × outputs → ParityReport: is what a runtime computed the function that the model defines?

Every output is judged against the definition in float64, twice: by its absolute distance, and by how much larger
that distance is than the one PyTorch's own float32 run has. The first catches what is wrong by any measure, the
second what is wrong although small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Tolerance:
    """What an output may differ by from float64.

    Attributes:
        atol, rtol: largest |error| ≤ atol + rtol · largest |expected|.
        ratio, floor_ulps: largest |error| ≤ the larger of ratio · PyTorch's own, in the model's precision, and
            `floor_ulps` units in the last place of the largest |expected|; PyTorch may have been lucky.
        reason: why these numbers.
    """

    atol: float
    rtol: float
    ratio: float
    floor_ulps: float
    reason: str


TOLERANCES: dict[tuple[str, str], Tolerance] = {
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
}


@dataclass(frozen=True)
class OutputParity:
    """One output of one case. Errors are against float64; `error_ratio` is the largest divided by PyTorch's own.

    The numbers are None where the arrays cannot be subtracted (another shape or type, or NaN), the ratio also where
    PyTorch's own error is zero.
    """

    case: str
    output: str
    failure: str | None
    max_abs_error: float | None = None
    mean_abs_error: float | None = None
    baseline_max_abs_error: float | None = None
    error_ratio: float | None = None
    max_abs_expected: float | None = None
    top1_agreement: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the output is within the tolerance."""
        return self.failure is None


@dataclass(frozen=True)
class Accuracy:
    """The share of `images` labelled images classified rightly, by PyTorch in float32 and by the runner."""

    images: int
    torch: float
    runner: float


@dataclass(frozen=True)
class ParityReport:
    """The verdict on one ONNX file, with every statistic it rests on.

    Attributes:
        onnx: the file, as it was named.
        runner: what ran it.
        tolerance: what was allowed.
        outputs: one entry a case and output.
        structure: failures of the file itself: a stale digest, a wrong signature.
        notes: what could not be checked, and why.
        accuracy: None without labelled images.
        baseline: whose error in the model's own precision the file's is compared with.
    """

    onnx: str
    runner: str
    tolerance: Tolerance
    outputs: tuple[OutputParity, ...]
    structure: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    baseline: str = "PyTorch"

    @property
    def failures(self) -> tuple[str, ...]:
        """Everything that is wrong, a line each."""
        wrong = [f"{o.output} of {o.case}: {o.failure}" for o in self.outputs if o.failure is not None]
        return (*self.structure, *wrong)

    @property
    def passed(self) -> bool:
        """True if at least one output was compared and nothing is wrong."""
        return bool(self.outputs) and not self.failures

    @property
    def max_abs_error(self) -> float | None:
        """The largest absolute error of all; None if one could not be computed."""
        errors = [o.max_abs_error for o in self.outputs]
        return None if not errors or None in errors else max(e for e in errors if e is not None)

    @property
    def max_error_ratio(self) -> float | None:
        """The largest ratio to PyTorch's own error, of those that could be computed; None if none could."""
        return max((o.error_ratio for o in self.outputs if o.error_ratio is not None), default=None)


def compare(
    case: str,
    expected: Mapping[str, Array],
    baseline: Mapping[str, Array],
    actual: Mapping[str, Array],
    tolerance: Tolerance,
    *,
    whose: str = "PyTorch",
) -> tuple[OutputParity, ...]:
    """Judges `actual` output by output; a missing or additional output is a failure of its own.

    Args:
        case: the name of the inputs, for the report.
        expected: the definition's outputs, float64.
        baseline: PyTorch's outputs in the model's precision, for the same inputs.
        actual: the runner's outputs.
        tolerance: what is allowed.
        whose: who computed `expected` and `baseline`, for the report.
    """
    results = []
    for name in expected:
        if name not in actual:
            results.append(OutputParity(case, name, f"must be an output, got {sorted(actual)}"))
        else:
            results.append(_judge(case, name, expected[name], baseline[name], actual[name], tolerance, whose))
    unknown = sorted(actual.keys() - expected.keys())
    results += [OutputParity(case, name, f"must not be an output: {whose} has none of that name") for name in unknown]
    return tuple(results)


def _judge(
    case: str, name: str, expected: Array, baseline: Array, actual: Array, tolerance: Tolerance, whose: str
) -> OutputParity:
    if actual.shape != expected.shape:
        return OutputParity(case, name, f"shape must be {expected.shape}, got {actual.shape}")
    if actual.dtype != baseline.dtype:
        return OutputParity(case, name, f"dtype must be {baseline.dtype}, got {actual.dtype}")
    if not expected.size:
        return OutputParity(case, name, f"must hold numbers to compare, got the shape {expected.shape}")
    for array, source in ((expected, f"{whose} in {expected.dtype}"), (baseline, whose), (actual, "the runner")):
        broken = int(array.size - np.isfinite(array).sum())
        if broken:
            return OutputParity(case, name, f"{source} gave {broken} values that are NaN or infinite")
    expected = expected.astype(np.float64)
    error = np.abs(actual.astype(np.float64) - expected)
    own = float(np.abs(baseline.astype(np.float64) - expected).max(initial=0.0))
    scale = float(np.abs(expected).max(initial=0.0))
    largest = float(error.max(initial=0.0))
    floor = tolerance.floor_ulps * _unit_in_the_last_place(baseline.dtype) * scale
    return OutputParity(
        case,
        name,
        _verdict(largest, scale, own, floor, tolerance, whose),
        max_abs_error=largest,
        mean_abs_error=float(error.mean()),
        baseline_max_abs_error=own,
        error_ratio=largest / own if own > 0 else None,
        max_abs_expected=scale,
        top1_agreement=_top1_agreement(expected, actual),
    )


def _unit_in_the_last_place(dtype: np.dtype[Any]) -> float:
    """Of 1.0; integers and booleans, such as an argmax, must be exactly right."""
    return float(np.finfo(dtype).eps) if np.issubdtype(dtype, np.floating) else 0.0


def _verdict(largest: float, scale: float, own: float, floor: float, tolerance: Tolerance, whose: str) -> str | None:
    limit = tolerance.atol + tolerance.rtol * scale
    if largest > limit:
        return f"largest error must be at most {limit:.3g}, got {largest:.3g}"
    if largest > max(tolerance.ratio * own, floor):
        rule = f"at most {tolerance.ratio:g} times {whose}'s own ({own:.3g}), or {floor:.3g}"
        return f"largest error must be {rule}, got {largest:.3g}"
    return None


def _top1_agreement(expected: Array, actual: Array) -> float | None:
    """The share of rows with the same largest entry; None for outputs that are not (batch, classes)."""
    if expected.ndim != 2 or not expected.size:
        return None
    return float((expected.argmax(axis=1) == actual.argmax(axis=1)).mean())
