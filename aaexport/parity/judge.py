"""outputs × outputs → OutputParity: is what was computed the function that the model defines?

Every output is judged against the definition in float64, twice: by its absolute distance, and by how much larger
that distance is than the one PyTorch's own float32 run has. The first catches what is wrong by any measure, the
second what is wrong although small. Then every channel is judged by its own size: a small one must not hide behind
a large one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from aaexport.parity.cases import Array
from aaexport.parity.distances import agreement, beyond_a_rounding, by_channel, cosine, distance, largest, sqnr_db
from aaexport.parity.finiteness import (
    FINITE,
    NAN,
    NOT_FINITE,
    allowed_kinds,
    is_decided_infinite,
    kinds,
    not_by_rounding,
    not_finite,
    undecided,
    why_spread_wrongly,
)
from aaexport.parity.positions import point_at_equals
from aaexport.parity.report import OutputParity
from aaexport.parity.tolerance import Tolerance, Tolerances
from aaexport.parity.truth import MOST_OF_KERNELS, Own, Truth

BEYOND_DOUBT = 3  # an error this many times PyTorch's own is no longer its own, however large that is
CHANNEL_RATIO, CHANNEL_RTOL = 3, 1e-3  # beside the tolerance's own ratio, and ten times its rtol
NEVER_COMPARED = "must hold numbers to compare in some case, got none; give images for which it does by --inputs"
NEAR_TIES = 1e-4  # the share of an integer output's numbers that may differ: an argmax of nearly equal scores


def compare(
    truth: Truth,
    actual: Mapping[str, Array],
    tolerances: Tolerances,
    *,
    whose: str = "PyTorch",
    may_lose_nan: Collection[str] = (),
) -> tuple[OutputParity, ...]:
    """Judges `actual` output by output; a missing or additional output is a failure of its own.

    Args:
        truth: what must come out.
        actual: what came out.
        tolerances: what is allowed.
        whose: who computed the truth, for the report.
        may_lose_nan: the outputs of which NaN and infinity that do not spread as in the truth are a warning only.
    """
    results, case = [], truth.case.name
    for name in truth.expected:
        if name not in actual:
            results.append(OutputParity(case, name, f"must be an output, got {sorted(actual)}"))
        else:
            allowed = tolerances.of(name), tolerances.is_by_hand(name)
            judging = _Judging(truth, name, *allowed, whose, name in may_lose_nan)
            results.append(judging.judged(actual[name]))
    unknown = sorted(actual.keys() - truth.expected.keys())
    results += [OutputParity(case, name, f"must not be an output: {whose} has none of that name") for name in unknown]
    extreme = truth.case.kind in ("extreme", "poisoned")
    return tuple(replace(result, extreme=extreme) for result in results)


def required(outputs: Iterable[OutputParity]) -> tuple[OutputParity, ...]:
    """What one computation gave, where an output that had a number in none of its cases is a failure.

    An output without numbers is right where PyTorch's has none, but one that never had any was not judged.
    """
    outputs = tuple(outputs)
    judged = {output.output for output in outputs if output.compared}
    return tuple(
        replace(output, failure=NEVER_COMPARED) if output.output not in judged and _is_empty(output) else output
        for output in outputs
    )


def _is_empty(output: OutputParity) -> bool:
    """Whether it was right and without numbers: whatever else was not compared is warned of, or extreme."""
    return output.passed and not output.compared and output.warning is None and not output.extreme


def failed(case: str, outputs: Iterable[str], failure: str) -> tuple[OutputParity, ...]:
    """What is to be said of a case that could not be run."""
    return tuple(OutputParity(case, name, failure) for name in outputs)


@dataclass(frozen=True)
class _Judging:
    """One output of one case."""

    truth: Truth
    name: str
    tolerance: Tolerance
    by_hand: bool
    whose: str
    may_lose_nan: bool

    def judged(self, actual: Array) -> OutputParity:
        """The verdict on what came out, with every statistic that there is."""
        expected, baseline = self.truth.expected[self.name], self.truth.baseline[self.name]
        if actual.dtype != baseline.dtype:
            return self._failed(f"dtype must be {baseline.dtype}, got {actual.dtype}")
        if actual.shape not in (expected.shape, baseline.shape):
            other = f"shape must be {expected.shape}, got {actual.shape}"
            if self.may_lose_nan and self.truth.case.kind == "poisoned":  # as many numbers as differ, say
                return OutputParity(self.truth.case.name, self.name, None, warning=other, compared=False)
            return self._failed(other)
        if baseline.shape != expected.shape:  # as many numbers as differ, say, which float32 rounds together
            other = f"{self.whose} gives the shape {expected.shape} in {expected.dtype}, else {baseline.shape}"
            result = self._of_one_shape(*_of_the_shape(actual.shape, expected, baseline), actual)
            return replace(result, warning=result.warning or other)
        return self._of_one_shape(expected, baseline, actual)

    def _of_one_shape(self, expected: Array, baseline: Array, actual: Array) -> OutputParity:
        if not expected.size:  # as many numbers as lie above a threshold, say
            return OutputParity(self.truth.case.name, self.name, None, compared=False)
        if not np.issubdtype(actual.dtype, np.floating):
            return self._exact(expected, baseline, actual)
        if self.truth.case.kind == "poisoned":
            return self._spread(expected, baseline, actual)
        if not_finite(expected) + not_finite(baseline):
            return self._beside_infinity(expected, baseline, actual)
        if not_finite(actual):
            return self._failed(f"the runner gave {not_finite(actual)} values that are NaN or infinite")
        return self._measured(expected, baseline, actual, by_channels=True)

    def _beside_infinity(self, expected: Array, baseline: Array, actual: Array) -> OutputParity:
        """Infinities of one sign in one place are equal, as where log(0) is meant; NaN is warned of at the best."""
        ours, theirs = kinds(expected), kinds(baseline)
        if not self.truth.case.made_up:
            # Of images that somebody means the network for: NaN, and what rounding alone does not make infinite.
            unlike = not_by_rounding(ours, theirs, self._seen(ours.shape))
            for which, source in ((ours, f"{self.whose} in {expected.dtype}"), (theirs, self.whose)):
                wrong = int(((which == NAN) | (unlike & (which != FINITE))).sum())
                if wrong:
                    return self._failed(f"{source} gave {wrong} values that are NaN or infinite")
        result = self._spread(expected, baseline, actual)
        if result.failure or result.warning or not ((ours | theirs) & NAN).any():
            return result
        return replace(result, warning=f"{self.whose} itself gives numbers that are not finite for such inputs")

    def _seen(self, shape: tuple[int, ...]) -> Array:
        """What rounding makes of each number, as far as that was asked for."""
        found = self.truth.seen.get(self.name)
        return np.zeros(shape, np.uint8) if found is None or found.shape != shape else found

    def _failed(self, failure: str) -> OutputParity:
        return OutputParity(self.truth.case.name, self.name, failure)

    def _exact(self, expected: Array, baseline: Array, actual: Array) -> OutputParity:
        """Classes, masks, positions: the same, but for as many near ties as PyTorch itself decides otherwise."""
        if self.truth.case.kind == "poisoned":
            return OutputParity(self.truth.case.name, self.name, None, compared=False)  # what is the largest of NaN?
        differs = actual != expected
        if self.name in self.truth.undecided:
            differs = differs & ~self.truth.undecided[self.name]
        wrong, own = int(differs.sum()), int((baseline != expected).sum())
        allowed = max(int(self.tolerance.ratio * own), int(NEAR_TIES * expected.size))
        scores = self.truth.scores.get(self.name)
        if wrong > allowed and not point_at_equals(scores, expected, actual, self.tolerance):
            return self._failed(f"at most {allowed} of {expected.size} numbers must be others, got {wrong}")
        return OutputParity(self.truth.case.name, self.name, None, top1_agreement=None)

    def _spread(self, expected: Array, baseline: Array, actual: Array) -> OutputParity:
        """What is not finite must be so where PyTorch's is not; the rest is judged like every other output."""
        is_ordinary = self.truth.case.kind == "ordinary"
        ours, theirs, got = kinds(expected), kinds(baseline), kinds(actual)
        allowed = allowed_kinds(ours, theirs, self._seen(expected.shape), is_ordinary=is_ordinary)
        lost = allowed != FINITE
        wrong = why_spread_wrongly(got, allowed, self.whose)
        told = undecided(allowed)
        # What is infinite for ordinary inputs is meant to be: there, only the numbers that are NaN may be others.
        if wrong is not None and self.may_lose_nan and is_ordinary:
            told = wrong
            wrong = why_spread_wrongly(got, np.where(allowed & NAN, FINITE | NOT_FINITE, allowed), self.whose)
        if wrong is not None and (is_ordinary or not self.may_lose_nan):
            return self._failed(wrong)
        if wrong is None and lost.all():
            return self._all_lost(allowed, told)
        measured = None
        if wrong is None:
            measured = self._measured(expected, baseline, actual, by_channels=True, where=~lost)
            if is_ordinary or not self.may_lose_nan or measured.passed:
                return replace(measured, warning=told)
        clean = self._clean_images(lost)
        if clean is not None:
            others = self._measured(expected[clean], baseline[clean], actual[clean], by_channels=False)
            if others.failure or not_finite(actual[clean]):
                return self._failed(f"of the images without NaN: {others.failure or wrong}")
        warning = wrong or f"beside NaN, {measured.failure if measured else wrong}"
        return OutputParity(self.truth.case.name, self.name, None, warning=warning, compared=False)

    def _all_lost(self, allowed: Array, told: str | None) -> OutputParity:
        """Nothing to subtract; but where it is decided that a number is infinite, and of which sign, was compared."""
        case = self.truth.case
        if case.kind == "poisoned" or not is_decided_infinite(allowed):
            return OutputParity(case.name, self.name, None, warning=told, compared=False)
        return OutputParity(case.name, self.name, None, warning=told, max_abs_error=0.0, mean_abs_error=0.0)

    def _clean_images(self, lost: Array) -> Array | None:
        """Which images of the batch are finite, and all that comes of them; None if there are none."""
        batch = self.truth.case.batch
        if not lost.ndim or len(lost) != len(batch):
            return None
        finite = np.isfinite(batch).reshape(len(batch), -1).all(axis=1) & ~lost.reshape(len(lost), -1).any(axis=1)
        return np.asarray(finite) if finite.any() else None

    @np.errstate(over="ignore")  # the squares of numbers of 1e200: what is infinite then is left out
    def _measured(
        self, expected: Array, baseline: Array, actual: Array, *, by_channels: bool, where: Array | None = None
    ) -> OutputParity:
        """Every statistic of arrays that can be subtracted, of the numbers `where`, and the verdict on them."""
        unit = float(np.finfo(actual.dtype).eps)
        if where is not None:
            expected, baseline, actual = expected[where], baseline[where], actual[where]
        given, expected = actual.astype(np.float64), expected.astype(np.float64, copy=False)
        error, size, own_error = np.abs(given - expected), np.abs(expected), distance(baseline, expected)
        known = self.truth.own.get(self.name, Own())
        worst, scale, own = float(error.max()), float(size.max()), max(largest(own_error), known.largest)
        relative = error / np.maximum(size, max(unit * scale, np.finfo(np.float64).tiny))
        beyond = beyond_a_rounding(error, size, actual)
        failure = self._verdict(float(beyond.max()), scale, own, unit)
        if failure is None and by_channels and self.truth.case.kind == "ordinary" and not self.truth.doubted:
            errors, sizes, owns = (by_channel(_laid_back(numbers, where)) for numbers in (beyond, size, own_error))
            failure = self._verdict_on_channels(errors, sizes, owns, known)
        return OutputParity(
            self.truth.case.name,
            self.name,
            failure,
            max_abs_error=worst,
            mean_abs_error=float(error.mean()),
            max_rel_error=float(relative.max()),
            mean_rel_error=float(relative.mean()),
            baseline_max_abs_error=own,
            error_ratio=worst / own if own > 0 else None,
            max_abs_expected=scale,
            cosine=cosine(expected, given),
            sqnr_db=sqnr_db(expected, error),
            top1_agreement=agreement(expected, given, 1),
            top5_agreement=agreement(expected, given, 5),
        )

    def _verdict(self, worst: float, scale: float, own: float, unit: float) -> str | None:
        excused = self.truth.kernels.get(self.name, 0.0)
        if self.name not in self.truth.shown:
            excused = min(excused, MOST_OF_KERNELS * scale)
        limit = self.tolerance.atol + self.tolerance.rtol * scale
        if not self.by_hand:
            limit = max(limit, BEYOND_DOUBT * own, excused)
        is_steady = self.truth.case.kind == "ordinary" and not self.truth.doubted
        if is_steady and worst > limit:
            return f"largest error must be at most {limit:.3g}, got {worst:.3g}"
        if self.by_hand and worst <= limit:
            return None  # who sets a bound knows that the file is coarser than float32
        floor = self.tolerance.floor_ulps * unit * scale + excused
        if worst > max(self.tolerance.ratio * own, floor):
            rule = f"at most {self.tolerance.ratio:g} times {self.whose}'s own ({own:.3g}), or {floor:.3g}"
            if excused < self.truth.kernels.get(self.name, 0.0):
                rule += " (a kernel excuses no more than a hundredth of the largest number)"
            return f"largest error must be {rule}, got {worst:.3g}"
        return None

    def _verdict_on_channels(self, errors: Array, sizes: Array, owns: Array, known: Own) -> str | None:
        """By each channel's own size and error, over all cases; a channel is an index of the second axis."""
        if known.by_channel.shape != errors.shape:
            return None
        sizes, owns = np.maximum(sizes, known.channel_sizes), np.maximum(owns, known.by_channel)
        rtol = max(CHANNEL_RTOL, 10 * self.tolerance.rtol)
        limits = np.maximum(CHANNEL_RATIO * self.tolerance.ratio * owns, self.tolerance.atol) + rtol * sizes
        worst = int(np.argmax(errors - limits))
        if errors[worst] <= limits[worst]:
            return None
        return f"largest error of channel {worst} must be at most {limits[worst]:.3g}, got {errors[worst]:.3g}"


@np.errstate(over="ignore")
def _of_the_shape(shape: tuple[int, ...], expected: Array, baseline: Array) -> tuple[Array, Array]:
    """Whichever has the shape, as both; an output of that shape is held to it alone."""
    if baseline.shape == shape:
        return baseline.astype(expected.dtype), baseline
    return expected, expected.astype(baseline.dtype)


def _laid_back(numbers: Array, where: Array | None) -> Array:
    """The numbers of `where` in their places, zeros elsewhere; all of them, if they are all there are."""
    if where is None:
        return numbers
    whole = np.zeros(where.shape, numbers.dtype)
    whole[where] = numbers
    return whole
