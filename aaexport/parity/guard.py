"""What a reduced file answers × what float32 and float64 do → GuardReport: did it lose no more than its kind may?

A float16 or int8 file is not the function to the last bit, so no tolerance of `tolerance` fits it, and accuracy alone
is blind: the file that taught this scored exactly as float32 did with 17.4 dB of its answers left. What tells good
files from bad ones stands in `thresholds`, a row with its reason for each measure and kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from aaexport.binomial import Interval, exact_interval
from aaexport.parity.cases import Array
from aaexport.parity.thresholds import AT_LEAST, FEW, THRESHOLDS, TIED, Measure, ReducedKind, shown

UNSCORED = "not judged: a score is NaN or infinite, or none is finite"


@dataclass(frozen=True)
class GuardRow:
    """One measure of one output.

    Attributes:
        measure: what was measured: `SQNR` in dB; `KL`, the divergence of softmax in nats; `top-1`, `top-5` and
            `same`, shares; `accuracy`, the share that was lost; `not finite`, a count; `optimizer`, the SQNR between
            two runtimes; `weights`, `worst activation` and `activations`, how much more noise tensors have by
            themselves than they need have, the worst of them or in the mean, in dB.
        output: of which output.
        computation: what computed it.
        against: what it was compared with.
        value: None where there was no signal, no noise, or nothing that can be compared.
        bound: what it must be at least, or at most.
        passed: whether it is, or need not be.
        margin: how far `value` is on the right side of `bound`, in its own unit; None without value.
        images: how many it was measured on.
        detail: counts and intervals behind a share, why it is not judged, or what cannot be compared.
        reason: why that bound.
        judged: whether `value` was held to `bound`; else it is told alone, and `detail` says why.
    """

    measure: Measure
    output: str
    computation: str
    against: str
    value: float | None
    bound: float
    passed: bool
    margin: float | None
    images: int
    detail: str
    reason: str
    judged: bool = True

    def excused(self, why: str) -> GuardRow:
        """The row, which is told and not judged, and why."""
        return replace(self, passed=True, judged=False, detail=why)

    @property
    def complaint(self) -> str | None:
        """What is wrong, in a line; None if it passed."""
        if self.passed:
            return None
        side = "at least" if self.measure in AT_LEAST else "at most"
        where = f"{self.measure} of {self.output} by {self.computation} against {self.against}"
        rule = f"{where} must be {side} {shown(self.measure, self.bound)}"
        if self.value is None:
            return f"{rule}, got {self.detail}"
        return f"{rule}, got {shown(self.measure, self.value)}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class GuardAccuracy:
    """How many of `images` labelled images are classified rightly, with what the true shares may be (95 %)."""

    images: int
    float32: int
    reduced: int
    float32_interval: Interval
    reduced_interval: Interval

    @classmethod
    def of(cls, images: int, float32: int, reduced: int) -> GuardAccuracy:
        """With the exact intervals of both."""
        intervals = (exact_interval(right, images) for right in (float32, reduced))
        return cls(images, float32, reduced, *intervals)


@dataclass(frozen=True)
class TensorLoss:
    """One tensor that is rounded, by itself: what is lost before and behind it does not count.

    Attributes:
        path: of the PyTorch module that it belongs to; "" where the file does not tell.
        node: that holds, writes or reads it.
        tensor: its name.
        what: `weight`, `bias` or `activation`.
        sqnr_db: of its rounding; None where nothing is lost.
        excess_db: how much more noise it has than on the best grid for its numbers; of a weight the worst channel's.
    """

    path: str
    node: str
    tensor: str
    what: Literal["weight", "bias", "activation"]
    sqnr_db: float | None
    excess_db: float


@dataclass(frozen=True)
class GuardReport:
    """The verdict on one reduced file.

    Attributes:
        kind: `float16` or `int8`.
        data: what it was shown, in words.
        rows: everything that was measured; each must pass.
        accuracy: None without labelled images.
        tensors: what each tensor that is rounded has lost, in the file's order; empty without the float32 file.
        faults: tensors that the file holds otherwise than it says, or as it must not, a line each.
    """

    kind: ReducedKind
    data: str
    rows: tuple[GuardRow, ...]
    accuracy: GuardAccuracy | None = None
    tensors: tuple[TensorLoss, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether something was measured and all of it passed."""
        return bool(self.rows) and not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """What did not pass, a line each."""
        return (*(row.complaint for row in self.rows if row.complaint is not None), *self.faults)

    @property
    def sqnr_db(self) -> float | None:
        """The least of all outputs and computations; None where nothing was lost."""
        values = [row.value for row in self.rows if row.measure == "SQNR" and row.value is not None]
        return min(values, default=None)

    @property
    def worst(self) -> dict[Measure, float]:
        """By measure, the worst number of its rows; absent where none is finite, or none is judged at all."""
        found: dict[Measure, float] = {}
        for row in self.rows:
            if row.value is not None and math.isfinite(row.value) and row.judged:
                choose = min if row.measure in AT_LEAST else max
                found[row.measure] = choose(row.value, found.get(row.measure, row.value))
        return found


@dataclass
class _Tally:
    """One output over all images so far."""

    signal: float = 0.0
    noise: float = 0.0
    lost: int = 0  # numbers that are finite on one side alone, or another infinity
    images: int = 0
    scored: int = 0  # of these, whose scores have classes to compare
    unscored: int = 0  # those with NaN or infinity as a score
    ranked: bool = False  # whether there are five
    divergence: float = 0.0
    changed: int = 0  # images with another likeliest class
    tied: int = 0  # of these, where both classes tie
    among: float = 0.0
    numbers: int = 0
    equal: int = 0
    failure: str | None = None


@dataclass
class Losses:
    """What one computation lost of every output against a reference, over all images that both were shown.

    Attributes:
        kind: of the file.
        computation, against: who computed, in words.
        scores: the outputs that are scores of classes, (images, classes).
        between_runtimes: whether both ran the same file, so that only what the optimizer did is between them.
    """

    kind: ReducedKind
    computation: str
    against: str
    scores: frozenset[str] = frozenset()
    between_runtimes: bool = False
    _tallies: dict[str, _Tally] = field(default_factory=dict)

    def learn(self, expected: Mapping[str, Array], actual: Mapping[str, Array]) -> None:
        """Takes one more batch into account; rows of an output are its images."""
        for name, truth in expected.items():
            tally = self._tallies.setdefault(name, _Tally())
            given = actual.get(name)
            if given is None:
                tally.failure = f"no output of that name, but {', '.join(sorted(actual))}"
            elif given.shape != truth.shape:
                tally.failure = f"the shape {given.shape} instead of {truth.shape}"
            elif truth.dtype.kind != given.dtype.kind:
                tally.failure = f"numbers of type {given.dtype} instead of {truth.dtype}"
            else:
                self._compare(tally, name, truth, given)

    def fail(self, outputs: Iterable[str], failure: str) -> None:
        """Nothing could be computed, for that reason."""
        for name in outputs:
            self._tallies.setdefault(name, _Tally()).failure = failure

    def _compare(self, tally: _Tally, name: str, truth: Array, given: Array) -> None:
        tally.images += len(truth) if truth.ndim else 1
        if truth.dtype.kind != "f":
            tally.numbers += truth.size
            tally.equal += int((truth == given).sum())
            return
        expected, actual = truth.astype(np.float64), given.astype(np.float64)
        both = np.isfinite(expected) & np.isfinite(actual)
        same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
        tally.lost += int((~both & ~same).sum())
        tally.signal += float(np.square(expected[both]).sum())
        tally.noise += float(np.square(actual[both] - expected[both]).sum())
        if name in self.scores and expected.ndim == 2 and expected.shape[1] > 1:
            scored = _have_likeliest(expected) & _have_likeliest(actual)
            tally.unscored += int((~scored).sum())
            self._compare_scores(tally, expected[scored], actual[scored])

    def _compare_scores(self, tally: _Tally, expected: Array, actual: Array) -> None:
        """Minus infinity is the score of a class that cannot be: softmax makes 0 of it."""
        tally.scored += len(expected)
        tally.divergence += float(_divergences(expected, actual).sum())
        rows, ours, theirs = np.arange(len(expected)), expected.argmax(axis=1), actual.argmax(axis=1)
        gap = expected[rows, ours] - expected[rows, theirs]
        near = TIED[self.kind] * _spreads(expected)
        changed = ours != theirs
        tally.changed += int(changed.sum())
        tally.tied += int((changed & (gap <= near)).sum())
        if expected.shape[1] >= 5:
            tally.ranked = True
            tally.among += float(_same_of_five(expected, actual, near).sum())

    def rows(self) -> Iterator[GuardRow]:
        """What was measured, output by output."""
        for name, tally in self._tallies.items():
            if tally.failure is not None:
                measure: Measure = "optimizer" if self.between_runtimes else "SQNR"
                yield self._row(measure, name, None, tally, passed=False, detail=tally.failure)
            elif self.between_runtimes:
                yield self._measured("optimizer", name, _sqnr_db(tally), tally)
            else:
                yield from self._of_output(name, tally)

    def _of_output(self, name: str, tally: _Tally) -> Iterator[GuardRow]:
        if tally.numbers:
            yield self._share("same", name, tally.numbers - tally.equal, tally.numbers, tally, "numbers")
            return
        yield self._measured("SQNR", name, _sqnr_db(tally), tally)
        yield self._measured("not finite", name, float(tally.lost), tally)
        if name not in self.scores or not tally.images:
            return
        if not tally.scored:
            if tally.unscored:
                yield self._row("top-1", name, None, tally, passed=True, detail="").excused(UNSCORED)
            return
        yield self._measured("KL", name, tally.divergence / tally.scored, tally)
        also = [f"{tally.tied} of the others between classes that tie"] if tally.tied else []
        also += [f"{tally.unscored} more {UNSCORED}"] if tally.unscored else []
        yield self._share("top-1", name, tally.changed - tally.tied, tally.scored, tally, "images", ", ".join(also))
        if tally.ranked:
            differ = round(5 * (tally.scored - tally.among))
            yield self._share("top-5", name, differ, 5 * tally.scored, tally, "places", few=5 * FEW)

    def _share(
        self,
        measure: Measure,
        name: str,
        differ: int,
        of: int,
        tally: _Tally,
        what: str,
        also: str = "",
        few: int = FEW,
    ) -> GuardRow:
        """A share that is right if no more differ than the threshold allows, or a `few`."""
        allowed = max(few, math.floor((1 - THRESHOLDS[measure, self.kind].bound) * of))
        interval = exact_interval(of - differ, of)
        counts = f"{of - differ} of {of} {what}, 95 % interval {100 * interval.low:.1f}–{100 * interval.high:.1f} %"
        detail = ", ".join(filter(None, (counts, also)))
        return self._row(measure, name, 1 - differ / of, tally, passed=differ <= allowed, detail=detail)

    def _measured(self, measure: Measure, name: str, value: float | None, tally: _Tally) -> GuardRow:
        bound = THRESHOLDS[measure, self.kind].bound
        passed = value is None or (value >= bound if measure in AT_LEAST else value <= bound)
        return self._row(measure, name, value, tally, passed=passed, detail="the same" if value is None else "")

    def _row(
        self, measure: Measure, name: str, value: float | None, tally: _Tally, *, passed: bool, detail: str
    ) -> GuardRow:
        return guard_row(
            measure, self.kind, name, self.computation, self.against, value, tally.images, passed, detail
        )


def guard_row(
    measure: Measure,
    kind: ReducedKind,
    output: str,
    computation: str,
    against: str,
    value: float | None,
    images: int,
    passed: bool,
    detail: str,
) -> GuardRow:
    """A row with its threshold, and how far it is from it."""
    threshold = THRESHOLDS[measure, kind]
    margin = None if value is None else value - threshold.bound
    if margin is not None and measure not in AT_LEAST:
        margin = -margin
    return GuardRow(
        measure,
        output,
        computation,
        against,
        value,
        threshold.bound,
        passed,
        margin,
        images,
        detail,
        threshold.reason,
    )


def accuracy_row(kind: ReducedKind, output: str, computation: str, found: GuardAccuracy, *, judged: bool) -> GuardRow:
    """How much of the float32 file's accuracy was lost; not `judged` where its weights were never trained."""
    n = found.images
    lost = found.float32 - found.reduced
    allowed = max(FEW, math.floor(THRESHOLDS["accuracy", kind].bound * n))
    sides = (("float32", found.float32, found.float32_interval), (kind, found.reduced, found.reduced_interval))
    words = [
        f"{name} {100 * right / n:.2f} % (95 % interval {100 * of.low:.1f}–{100 * of.high:.1f})"
        for name, right, of in sides
    ]
    detail = f"{', '.join(words)} of {n} images" + ("" if judged else ", not judged: the weights are random")
    row = guard_row("accuracy", kind, output, computation, "the float32 file", lost / n, n, lost <= allowed, detail)
    return row if judged else row.excused(detail)


def rightly(scores: Array, labels: Array) -> int:
    """How many images are classified rightly by (images, classes)."""
    return int((scores.argmax(axis=1) == labels).sum())


def sqnr_db(expected: Mapping[str, Array], actual: Mapping[str, Array]) -> float | None:
    """Signal to noise in dB, the least of all outputs that are fractions; None where nothing was lost.

    Minus infinity where a number is finite in what is expected alone.
    """
    losses = Losses("int8", "", "")
    losses.learn(expected, actual)
    tallies = [tally for tally in losses._tallies.values() if not tally.numbers]
    if any(tally.lost or tally.failure for tally in tallies):
        return -math.inf
    return min((value for tally in tallies if (value := _sqnr_db(tally)) is not None), default=None)


def _sqnr_db(tally: _Tally) -> float | None:
    if tally.noise == 0:
        return None
    return -math.inf if tally.signal == 0 else 10 * math.log10(tally.signal / tally.noise)


def _have_likeliest(scores: Array) -> Array:
    """Whether softmax gives classes of each row: no score is NaN or infinity, and not all are minus infinity."""
    largest = scores.max(axis=1)  # NaN if one is
    return np.asarray(np.isfinite(largest))


def _spreads(scores: Array) -> Array:
    """The standard deviation of what is finite in each row; one class at least is."""
    finite = np.isfinite(scores)
    count, known = finite.sum(axis=1, keepdims=True), np.where(finite, scores, 0.0)
    apart = np.where(finite, known - known.sum(axis=1, keepdims=True) / count, 0.0)
    return np.asarray(np.sqrt(np.square(apart).sum(axis=1) / count[:, 0]))


def _divergences(expected: Array, actual: Array) -> Array:
    """KL(softmax(expected) ‖ softmax(actual)) of each row, in nats: infinite where what can be no longer can."""
    ours, theirs = _log_softmax(expected), _log_softmax(actual)
    with np.errstate(invalid="ignore"):  # 0 · −∞ of what cannot be
        return np.asarray(np.where(np.isneginf(ours), 0.0, np.exp(ours) * (ours - theirs)).sum(axis=1))


def _log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _same_of_five(expected: Array, actual: Array, near: Array) -> Array:
    """The share of each row's five largest that are among the five largest, or tie with the fifth: are as `near`."""
    theirs = np.argsort(-actual, axis=1, kind="stable")[:, :5]
    fifth = -np.partition(-expected, 4, axis=1)[:, 4]
    return np.asarray((np.take_along_axis(expected, theirs, axis=1) >= (fifth - near)[:, None]).mean(axis=1))
