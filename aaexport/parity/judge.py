"""outputs × outputs → OutputParity: is what was computed the function that the model defines?

Every output is judged against the definition in float64, twice: by its absolute distance, and by how much larger
that distance is than the one PyTorch's own float32 run has. The first catches what is wrong by any measure, the
second what is wrong although small. Then every channel is judged by its own size: a small one must not hide behind
a large one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from aaexport.parity.cases import Array, Case
from aaexport.parity.finiteness import FINITE, MINUS, NAN, NOT_FINITE, PLUS, kinds, largest_finite
from aaexport.parity.report import OutputParity
from aaexport.parity.tolerance import Tolerance, Tolerances

FLOAT32 = np.finfo(np.float32)
BEYOND_DOUBT = 3  # an error this many times PyTorch's own is no longer its own, however large that is
CHANNEL_RATIO, CHANNEL_RTOL = 3, 1e-3  # beside the tolerance's own ratio, and ten times its rtol
MOST_OF_KERNELS = 0.01  # of the largest number of an output, beyond which a kernel is no excuse for the file
NEVER_COMPARED = "must hold numbers to compare in some case, got none; give images for which it does by --inputs"
NEAR_TIES = 1e-4  # the share of an integer output's numbers that may differ: an argmax of nearly equal scores


@dataclass(frozen=True)
class Own:
    """What PyTorch's own error in float32 is known to be: the largest, and each channel's with its size."""

    largest: float = 0.0
    by_channel: Array = field(default_factory=lambda: np.zeros(0))
    channel_sizes: Array = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Scores:
    """What an output of positions points at: of equal scores, any is right.

    Attributes:
        numbers: PyTorch's scores in float32, from which it chose.
        axis: along which.
        keeps: whether the positions still have that axis; they may be several in it, each another one.
        moves: how far each score moves when the inputs are rounded otherwise; None where that is not known.
    """

    numbers: Array
    axis: int
    keeps: bool
    moves: Array | None = None


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
            error, scale = _distance(own, array), _largest(array)
            if scale > 0:
                self._relative[name] = max(self._relative.get(name, 0.0), _largest(error) / scale)
            channels = _by_channel(error), _by_channel(array)
            known = self._channels.get(name, channels)
            if known[0].shape == channels[0].shape:
                self._channels[name] = (np.maximum(known[0], channels[0]), np.maximum(known[1], channels[1]))

    def of(self, expected: Mapping[str, Array]) -> dict[str, Own]:
        """What may be expected of PyTorch in a case with those outputs."""
        return {
            name: Own(self._relative.get(name, 0.0) * _in_float32(array), *self._channels.get(name, ()))
            for name, array in expected.items()
        }


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
            judging = _Judging(truth, name, tolerances.of(name), tolerances.is_by_hand(name), whose, may_lose_nan)
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
        if _not_finite(expected) + _not_finite(baseline):
            return self._beside_infinity(expected, baseline, actual)
        if _not_finite(actual):
            return self._failed(f"the runner gave {_not_finite(actual)} values that are NaN or infinite")
        return self._measured(expected, baseline, actual, by_channel=True)

    def _beside_infinity(self, expected: Array, baseline: Array, actual: Array) -> OutputParity:
        """Infinities of one sign in one place are equal, as where log(0) is meant; NaN is warned of at the best."""
        ours, theirs = kinds(expected), kinds(baseline)
        if not self.truth.case.made_up:
            # Of images that somebody means the network for: NaN, and what rounding alone does not make infinite.
            unlike = (ours != theirs) & ((self._seen(ours.shape) & (ours | theirs)) != ours | theirs)
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
        if wrong > allowed and not self._points_at_equals(expected, actual):
            return self._failed(f"at most {allowed} of {expected.size} numbers must be others, got {wrong}")
        return OutputParity(self.truth.case.name, self.name, None, top1_agreement=None)

    def _points_at_equals(self, expected: Array, actual: Array) -> bool:
        """Whether positions point at scores that are equal, but for rounding, to those that they should point at.

        But for the rounding of these very scores: beside a mask of −1e9 every other one would be a tie.
        """
        scores = self.truth.scores.get(self.name)
        if scores is None or actual.dtype.kind not in "iu":
            return False
        axis, numbers = scores.axis, scores.numbers
        if not scores.keeps:
            expected, actual = np.expand_dims(expected, axis), np.expand_dims(actual, axis)
        if actual.min() < 0 or actual.max() >= numbers.shape[axis]:
            return False
        ordered = np.sort(actual, axis=axis)
        if (np.diff(ordered, axis=axis) == 0).any():
            return False  # one position twice is no set of positions
        found, wanted = (np.take_along_axis(numbers, positions, axis) for positions in (actual, expected))
        if numbers.dtype.kind != "f":
            return bool(np.all(found == wanted))
        slack = 2 * self.tolerance.floor_ulps * np.finfo(numbers.dtype).eps * np.minimum(abs(found), abs(wanted))
        if scores.moves is not None:
            moved = (np.take_along_axis(scores.moves, positions, axis) for positions in (actual, expected))
            slack = np.maximum(slack, self.tolerance.ratio * sum(moved))
        with np.errstate(invalid="ignore", over="ignore"):  # infinity − infinity, and a mask of the least number
            near = np.isfinite(found) & np.isfinite(wanted) & (np.abs(found - wanted) <= slack)
        return bool(np.all((found == wanted) | near))

    def _spread(self, expected: Array, baseline: Array, actual: Array) -> OutputParity:
        """What is not finite must be so where PyTorch's is not; the rest is judged like every other output."""
        allowed, got = self._allowed(expected, baseline), kinds(actual)
        lost = allowed != FINITE
        wrong = self._wrongly_spread(allowed, got)
        # What is infinite for ordinary inputs is meant to be: there, only the numbers that are NaN may be others.
        is_ordinary = self.truth.case.kind == "ordinary"
        told = _undecided(allowed)
        if wrong is not None and self.may_lose_nan and is_ordinary:
            told = wrong
            wrong = self._wrongly_spread(np.where(allowed & NAN, FINITE | NOT_FINITE, allowed), got)
        if wrong is not None and (is_ordinary or not self.may_lose_nan):
            return self._failed(wrong)
        if wrong is None and lost.all():
            return self._all_lost(allowed, told)
        measured = None
        if wrong is None:
            measured = self._measured(expected, baseline, actual, by_channel=True, where=~lost)
            if is_ordinary or not self.may_lose_nan or measured.passed:
                return replace(measured, warning=told)
        clean = self._clean_images(lost)
        if clean is not None:
            others = self._measured(expected[clean], baseline[clean], actual[clean], by_channel=False)
            if others.failure or _not_finite(actual[clean]):
                return self._failed(f"of the images without NaN: {others.failure or wrong}")
        warning = wrong or f"beside NaN, {measured.failure if measured else wrong}"
        return OutputParity(self.truth.case.name, self.name, None, warning=warning, compared=False)

    def _allowed(self, expected: Array, baseline: Array) -> Array:
        """What each number may be: as PyTorch in both precisions has it, and as rounding was seen to make it."""
        ours, theirs = kinds(expected), kinds(baseline)
        both = np.where(ours == theirs, ours, (ours | theirs) & NOT_FINITE)
        seen = self._seen(both.shape)
        if self.truth.case.kind == "ordinary":  # NaN is what PyTorch's is, and no matter of rounding
            return np.asarray(np.where(both & NAN, both, both | (seen & ~np.uint8(NAN))))
        both |= seen
        both[(both & NOT_FINITE) > 0] |= NOT_FINITE  # where float32 itself fails, and kernels make NaN of ∞ − ∞
        return both

    def _wrongly_spread(self, allowed: Array, got: Array) -> str | None:
        others = (got & allowed) == 0
        if not others.any():
            return None
        lost, found = allowed != FINITE, got != FINITE
        if (others & (lost != found)).any():
            rule = (
                f"NaN and infinity must spread to the {int(lost.sum())} numbers that they spread to in {self.whose}"
            )
            return f"{rule}, got {int(found.sum())}, {int((found & ~lost).sum())} of them others"
        return f"NaN, and infinity of either sign, must be as in {self.whose}, got {int(others.sum())} other ones"

    def _all_lost(self, allowed: Array, told: str | None) -> OutputParity:
        """Nothing to subtract; but where it is decided that a number is infinite, and of which sign, was compared."""
        case = self.truth.case
        if case.kind == "poisoned" or not ((allowed == PLUS) | (allowed == MINUS)).any():
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
        self, expected: Array, baseline: Array, actual: Array, *, by_channel: bool, where: Array | None = None
    ) -> OutputParity:
        """Every statistic of arrays that can be subtracted, of the numbers `where`, and the verdict on them."""
        unit = float(np.finfo(actual.dtype).eps)
        whole = [array.astype(np.float64) for array in (expected, baseline, actual)]
        if where is not None:
            whole = [np.where(where, array, 0.0) for array in whole]
            expected, baseline, actual = expected[where], baseline[where], actual[where]
        given, expected = actual.astype(np.float64), expected.astype(np.float64)
        error, size = np.abs(given - expected), np.abs(expected)
        largest, scale = float(error.max()), float(size.max())
        known = self.truth.own.get(self.name, Own())
        own = max(_largest(_distance(baseline, expected)), known.largest)
        relative = error / np.maximum(size, max(unit * scale, np.finfo(np.float64).tiny))
        beyond = _beyond_a_rounding(error, size, actual)
        failure = self._verdict(float(beyond.max()), scale, own, unit)
        if failure is None and by_channel and self.truth.case.kind == "ordinary" and not self.truth.doubted:
            beyond = _beyond_a_rounding(_distance(whole[2], whole[0]), np.abs(whole[0]), actual)
            failure = self._verdict_on_channels(beyond, np.abs(whole[0]), _distance(whole[1], whole[0]), known)
        return OutputParity(
            self.truth.case.name,
            self.name,
            failure,
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

    def _verdict(self, largest: float, scale: float, own: float, unit: float) -> str | None:
        excused = self.truth.kernels.get(self.name, 0.0)
        if self.name not in self.truth.shown:
            excused = min(excused, MOST_OF_KERNELS * scale)
        limit = self.tolerance.atol + self.tolerance.rtol * scale
        if not self.by_hand:
            limit = max(limit, BEYOND_DOUBT * own, excused)
        is_steady = self.truth.case.kind == "ordinary" and not self.truth.doubted
        if is_steady and largest > limit:
            return f"largest error must be at most {limit:.3g}, got {largest:.3g}"
        if self.by_hand and largest <= limit:
            return None  # who sets a bound knows that the file is coarser than float32
        floor = self.tolerance.floor_ulps * unit * scale + excused
        if largest > max(self.tolerance.ratio * own, floor):
            rule = f"at most {self.tolerance.ratio:g} times {self.whose}'s own ({own:.3g}), or {floor:.3g}"
            if excused < self.truth.kernels.get(self.name, 0.0):
                rule += " (a kernel excuses no more than a hundredth of the largest number)"
            return f"largest error must be {rule}, got {largest:.3g}"
        return None

    def _verdict_on_channels(self, error: Array, size: Array, own: Array, known: Own) -> str | None:
        """By each channel's own size and error, over all cases; a channel is an index of the second axis."""
        errors = _by_channel(error)
        if known.by_channel.shape != errors.shape:
            return None
        sizes, owns = (
            np.maximum(_by_channel(size), known.channel_sizes),
            np.maximum(_by_channel(own), known.by_channel),
        )
        rtol = max(CHANNEL_RTOL, 10 * self.tolerance.rtol)
        limits = np.maximum(CHANNEL_RATIO * self.tolerance.ratio * owns, self.tolerance.atol) + rtol * sizes
        worst = int(np.argmax(errors - limits))
        if errors[worst] <= limits[worst]:
            return None
        return f"largest error of channel {worst} must be at most {limits[worst]:.3g}, got {errors[worst]:.3g}"


def _beyond_a_rounding(error: Array, size: Array, actual: Array) -> Array:
    """Of an output in fewer bits than float32, what an error has beside one unit in the last place of its number.

    Float32's own error decides which of two neighbours it is rounded to.
    """
    numbers = np.finfo(actual.dtype)
    if numbers.eps <= FLOAT32.eps:
        return error
    rounding = np.maximum(float(numbers.eps) * size, float(numbers.smallest_subnormal))
    return np.asarray(np.maximum(error - rounding, 0.0))


def _by_channel(array: Array) -> Array:
    """The largest size of each index of the second axis; of the whole, where there is none."""
    if array.ndim < 2:
        return np.asarray([_largest(array)])
    others = tuple(axis for axis in range(array.ndim) if axis != 1)
    return np.asarray(np.abs(array).max(axis=others, initial=0.0))


@np.errstate(over="ignore")
def _of_the_shape(shape: tuple[int, ...], expected: Array, baseline: Array) -> tuple[Array, Array]:
    """Whichever has the shape, as both; an output of that shape is held to it alone."""
    if baseline.shape == shape:
        return baseline.astype(expected.dtype), baseline
    return expected, expected.astype(baseline.dtype)


def _where_finite(one: Array, other: Array) -> tuple[Array, Array]:
    """Both, with zeros where either is not finite."""
    finite = np.isfinite(one) & np.isfinite(other)
    return (one, other) if finite.all() else (np.where(finite, one, 0), np.where(finite, other, 0))


def _in_float32(array: Array) -> float:
    """The size of the largest number that is finite in float32 too."""
    with np.errstate(over="ignore"):
        return largest_finite(array.astype(np.float32))


def _undecided(allowed: Array) -> str | None:
    """A warning of numbers that are finite or infinite by their rounding; None without any."""
    count = int(((allowed & FINITE > 0) & (allowed != FINITE)).sum())
    return f"whether {count} of its numbers are finite is a matter of rounding: not compared" if count else None


def _distance(one: Array, other: Array) -> Array:
    return np.abs(one.astype(np.float64) - other.astype(np.float64))


def _cosine(expected: Array, actual: Array) -> float | None:
    norms = float(np.linalg.norm(expected) * np.linalg.norm(actual))
    return float(np.vdot(expected, actual)) / norms if norms > 0 and np.isfinite(norms) else None


def _sqnr_db(expected: Array, error: Array) -> float | None:
    signal, noise = float(np.square(expected).sum()), float(np.square(error).sum())
    return 10 * float(np.log10(signal / noise)) if 0 < signal < np.inf and 0 < noise < np.inf else None


def _agreement(expected: Array, actual: Array, count: int) -> float | None:
    """The mean share of the `count` largest entries of a row that are the same."""
    if expected.ndim != 2 or expected.shape[1] < count:
        return None
    ours, theirs = (np.argsort(-array, axis=1, kind="stable")[:, :count] for array in (expected, actual))
    return float((ours[:, :, None] == theirs[:, None, :]).any(axis=2).mean())


def _not_finite(array: Array) -> int:
    return int(array.size - np.isfinite(array).sum())


def _largest(array: Array) -> float:
    return float(np.abs(array).max(initial=0.0))
