"""outputs × outputs → OutputParity: is what was computed the function that the model defines?

Every output is judged against the definition in float64, twice: by its absolute distance, and by how much larger
that distance is than the one PyTorch's own float32 run has. The first catches what is wrong by any measure, the
second what is wrong although small.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aaexport.parity.cases import Array, Case, Kind
from aaexport.parity.report import OutputParity
from aaexport.parity.tolerance import Tolerance, Tolerances


@dataclass(frozen=True)
class Truth:
    """What must come out for a case, and how near PyTorch itself comes in float32.

    Attributes:
        case: what is fed.
        expected: the definition's outputs, float64.
        baseline: PyTorch's outputs in float32 for the same inputs.
        own: the largest error that PyTorch makes in each output, where more is known than `baseline` shows: one run
            may be lucky.
    """

    case: Case
    expected: Mapping[str, Array]
    baseline: Mapping[str, Array]
    own: Mapping[str, float]


class OwnError:
    """PyTorch's own error in each output, relative to its largest number, over all ordinary cases seen so far."""

    def __init__(self) -> None:
        self._relative: dict[str, float] = {}

    def learn(self, expected: Mapping[str, Array], baseline: Mapping[str, Array]) -> None:
        """Takes one more ordinary case into account."""
        for name in expected.keys() & baseline.keys():
            scale = _largest(expected[name])
            if scale > 0 and expected[name].shape == baseline[name].shape:
                error = _largest(baseline[name].astype(np.float64) - expected[name]) / scale
                self._relative[name] = max(self._relative.get(name, 0.0), error if np.isfinite(error) else 0.0)

    def of(self, expected: Mapping[str, Array]) -> dict[str, float]:
        """What may be expected of PyTorch in a case with those outputs."""
        return {n: self._relative.get(n, 0.0) * _largest(array) for n, array in expected.items()}


def compare(
    truth: Truth,
    actual: Mapping[str, Array],
    tolerances: Tolerances,
    *,
    whose: str = "PyTorch",
    may_lose_nan: bool = False,
) -> tuple[OutputParity, ...]:
    """Judges `actual` output by output; a missing or additional output is a failure of its own.

    Args:
        truth: what must come out.
        actual: what came out.
        tolerances: what is allowed.
        whose: who computed the truth, for the report.
        may_lose_nan: whether NaN and infinity that do not spread as they do in the truth are a warning only.
    """
    results, case = [], truth.case.name
    for name in truth.expected:
        if name not in actual:
            results.append(OutputParity(case, name, f"must be an output, got {sorted(actual)}"))
        else:
            results.append(_judge(truth, name, actual[name], tolerances.of(name), whose, may_lose_nan))
    unknown = sorted(actual.keys() - truth.expected.keys())
    results += [OutputParity(case, name, f"must not be an output: {whose} has none of that name") for name in unknown]
    extreme = truth.case.kind != "ordinary"
    return tuple(replace(result, extreme=extreme) for result in results)


def failed(case: str, outputs: Iterable[str], failure: str) -> tuple[OutputParity, ...]:
    """What is to be said of a case that could not be run."""
    return tuple(OutputParity(case, name, failure) for name in outputs)


def _judge(
    truth: Truth, name: str, actual: Array, tolerance: Tolerance, whose: str, may_lose_nan: bool
) -> OutputParity:
    case, expected, baseline = truth.case.name, truth.expected[name], truth.baseline[name]
    if actual.shape != expected.shape:
        return OutputParity(case, name, f"shape must be {expected.shape}, got {actual.shape}")
    if actual.dtype != baseline.dtype:
        return OutputParity(case, name, f"dtype must be {baseline.dtype}, got {actual.dtype}")
    if not expected.size:
        return OutputParity(case, name, f"must hold numbers to compare, got the shape {expected.shape}")
    if truth.case.kind == "poisoned":
        return _judge_spread(truth, name, actual, tolerance, whose, may_lose_nan)
    for array, source in ((expected, f"{whose} in {expected.dtype}"), (baseline, whose), (actual, "the runner")):
        broken = _not_finite(array)
        if broken:
            return OutputParity(case, name, f"{source} gave {broken} values that are NaN or infinite")
    own = max(_largest(baseline.astype(np.float64) - expected.astype(np.float64)), truth.own.get(name, 0.0))
    return _measured(case, name, expected, actual, own, tolerance, truth.case.kind, whose)


def _judge_spread(
    truth: Truth, name: str, actual: Array, tolerance: Tolerance, whose: str, may_lose_nan: bool
) -> OutputParity:
    """What is not finite must be so where PyTorch's is not; the rest is judged like every other output."""
    expected, baseline, case = truth.expected[name], truth.baseline[name], truth.case.name
    lost = ~np.isfinite(baseline) | ~np.isfinite(expected)
    got = ~np.isfinite(actual)
    if not np.array_equal(lost, got):
        rule = f"NaN and infinity must spread to the {int(lost.sum())} numbers that they spread to in {whose}"
        wrong = f"{rule}, got {int(got.sum())}, {int((got & ~lost).sum())} of them others"
        return OutputParity(case, name, None if may_lose_nan else wrong, warning=wrong if may_lose_nan else None)
    if lost.all():
        return OutputParity(case, name, None)
    expected, baseline, actual = expected[~lost], baseline[~lost], actual[~lost]
    own = max(_largest(baseline.astype(np.float64) - expected.astype(np.float64)), truth.own.get(name, 0.0))
    return _measured(case, name, expected, actual, own, tolerance, truth.case.kind, whose)


def _measured(
    case: str, name: str, expected: Array, actual: Array, own: float, tolerance: Tolerance, kind: Kind, whose: str
) -> OutputParity:
    """Every statistic of two arrays that can be subtracted, and the verdict on them."""
    unit = _unit_in_the_last_place(actual.dtype)
    given, expected = actual.astype(np.float64), expected.astype(np.float64)
    error, size = np.abs(given - expected), np.abs(expected)
    largest, scale = float(error.max()), float(size.max())
    relative = error / np.maximum(size, max(unit * scale, np.finfo(np.float64).tiny))
    return OutputParity(
        case,
        name,
        _verdict(largest, scale, own, unit, tolerance, kind, whose),
        max_abs_error=largest,
        mean_abs_error=float(error.mean()),
        max_rel_error=float(relative.max()),
        mean_rel_error=float(relative.mean()),
        baseline_max_abs_error=own,
        error_ratio=largest / own if own > 0 else None,
        max_abs_expected=scale,
        cosine=_cosine(expected, given),
        sqnr_db=_sqnr_db(expected, error),
        top1_agreement=_agreement(expected, given, 1),
        top5_agreement=_agreement(expected, given, 5),
    )


def _unit_in_the_last_place(dtype: np.dtype[Any]) -> float:
    """Of 1.0; integers and booleans, such as an argmax, must be exactly right."""
    return float(np.finfo(dtype).eps) if np.issubdtype(dtype, np.floating) else 0.0


def _verdict(
    largest: float, scale: float, own: float, unit: float, tolerance: Tolerance, kind: Kind, whose: str
) -> str | None:
    limit = tolerance.atol + tolerance.rtol * scale
    if kind == "ordinary" and largest > limit:
        return f"largest error must be at most {limit:.3g}, got {largest:.3g}"
    floor = tolerance.floor_ulps * unit * scale
    if largest > max(tolerance.ratio * own, floor):
        rule = f"at most {tolerance.ratio:g} times {whose}'s own ({own:.3g}), or {floor:.3g}"
        return f"largest error must be {rule}, got {largest:.3g}"
    return None


def _cosine(expected: Array, actual: Array) -> float | None:
    norms = float(np.linalg.norm(expected) * np.linalg.norm(actual))
    return float(np.vdot(expected, actual)) / norms if norms > 0 and np.isfinite(norms) else None


def _sqnr_db(expected: Array, error: Array) -> float | None:
    signal, noise = float(np.square(expected).sum()), float(np.square(error).sum())
    return 10 * float(np.log10(signal / noise)) if signal > 0 and noise > 0 else None


def _agreement(expected: Array, actual: Array, count: int) -> float | None:
    """The mean share of the `count` largest entries of a row that are the same."""
    if expected.ndim != 2 or expected.shape[1] < count:
        return None
    rows = range(len(expected))
    ranked = [np.argsort(-array, axis=1, kind="stable")[:, :count] for array in (expected, actual)]
    return float(np.mean([len(np.intersect1d(ranked[0][row], ranked[1][row])) / count for row in rows]))


def _not_finite(array: Array) -> int:
    return int(array.size - np.isfinite(array).sum())


def _largest(array: Array) -> float:
    return float(np.abs(array).max(initial=0.0))
