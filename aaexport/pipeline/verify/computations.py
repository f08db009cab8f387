"""(model, inputs) → the truth about each of them, and a verdict on every row of the parity matrix by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np

from aaexport.capture.input_name import INPUT_NAME
from aaexport.errors import RunnerError, ServiceError
from aaexport.parity import (
    Array,
    Case,
    OutputParity,
    Own,
    OwnErrors,
    Tolerance,
    Tolerances,
    Truth,
    compare,
    failed,
)
from aaexport.parity.finiteness import kinds
from aaexport.pipeline.subject.subject import Subject
from aaexport.pipeline.verify.drowned import DROWNED
from aaexport.pipeline.verify.excuses import Excuses, joined
from aaexport.pipeline.verify.feeding import ANSWERS_IN_MEMORY
from aaexport.pipeline.verify.lost_nan import ALL_LOSE_NAN, losing_nan
from aaexport.pipeline.verify.oracles import Rebuilt, in_float32_only, nudged, oracles
from aaexport.pipeline.verify.rows import DEVICE_STAGES, Row, opened
from aaexport.runners.base import Runner
from aaexport.runners.torch import TorchRunner

Say = Callable[[str], None]
NUDGES = (1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8)  # units in the last place of each input
FAST_PATH = 1e-2  # of the largest answer, by which torch's two ways through an encoder may differ and be one function
FAST_PATH_DIFFERS = (
    "nn.TransformerEncoder answers otherwise on PyTorch's fast path (zeros at padded places): the file has what it "
    "computes without, as after torch.backends.mha.set_fastpath_enabled(False)"
)
REORDERED = 1e4  # units in the last place by which threads that sum in another order may move an answer
ANSWERS = 8  # of those, of the size of a block, where the memory is short


class Judge:
    """The definition in float64 and PyTorch in float32, which give the truth for a case, and judge rows by it.

    `say` is told what computes, as lines that begin with a blank: they are parts of a step. `asks_twice`: whether the
    definition must answer the first case alike again, which nobody else has made sure of.

    Attributes:
        baseline: PyTorch in float32, or what stands for it.
        truths: of all cases so far of somebody's module, whose golden vectors some of them become; of a folder's own
            network that of the first images that nobody made up.
        warnings: what a user should know of the definition.
    """

    def __init__(self, subject: Subject, say: Say = lambda step: None, *, asks_twice: bool = True) -> None:
        self._say = say
        self._asks_twice = asks_twice
        self._block: int | None = None
        self._images: int | None = None
        self._between: Callable[[], None] = lambda: None
        self._most_answers = ANSWERS_IN_MEMORY
        definition, self.baseline = oracles(subject)
        self._definition = Rebuilt(lambda: self.limited(definition()))
        self._may_lack_float64 = subject.original is not None
        self._answers_anything = subject.golden is None
        self._own = OwnErrors()
        self._known_doubts: dict[int, Truth] = {}
        self._drowned: set[str] = set()
        self._excuses = Excuses(self.baseline)
        remembered = () if subject.golden is None else subject.golden.truths
        self._remembered = {id(truth.case): truth for truth in remembered}
        self._first: Array | None = None
        self._keeps_truths = subject.original is not None or subject.folder is None
        self.truths: list[Truth] = []
        self.warnings: list[str] = []

    def limit(
        self, block: int, images: int | None, between: Callable[[], None]
    ) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        """Makes PyTorch hold at most `block` bytes of what can be computed in blocks, and compute so many images at a
        time, or all; gives what computes in float64. `between` is called before each row.
        """
        self._block, self._images, self._between = block, images, between
        self._most_answers = min(ANSWERS_IN_MEMORY, ANSWERS * block)
        self.limited(self.baseline)
        self._definition.release()
        return self._definition.infer

    def limited(self, runner: Runner) -> Runner:
        """The runner, which may take no more than that from now on."""
        if isinstance(runner, TorchRunner):
            runner.block, runner.images = self._block, self._images
        return runner

    def truth(self, case: Case) -> Truth:
        """What must come out. RunnerError if PyTorch cannot compute it."""
        feeds = {INPUT_NAME: case.batch}
        expected, baseline = self._defined(feeds), self.baseline.infer(feeds)
        if self._first is None:
            self._first = case.batch
            if self._asks_twice:
                _require_the_same(expected, self._definition.infer(feeds))
            self._warn_of_fast_path(case.batch)
        if case.kind == "ordinary":
            self._own.learn(expected, baseline)
        truth = Truth(case, expected, baseline, self._own.of(expected))
        if (known := self._remembered.get(id(case))) is not None:
            truth = replace(truth, kernels=known.kernels, scores=known.scores, seen=known.seen)
        if not self._keeps_truths and not self.truths and not case.made_up and case.kind == "ordinary":
            self.truths.append(truth)
        elif self._keeps_truths:
            # Golden vectors cannot be asked again: what a file of them may need is found out now.
            self.truths.append(self._excuses.of(truth) if case.kind == "ordinary" and not case.degenerate else truth)
        return truth

    def _warn_of_fast_path(self, batch: Array) -> None:
        """Torch itself answers in two ways then, and a file can have but one."""
        single = self.baseline
        if not isinstance(single, TorchRunner):
            return
        feeds = {INPUT_NAME: batch if single.block is None else batch[:1]}  # the other way knows no blocks
        if (other := single.by_fast_path(feeds)) is None:
            return
        for name, usual in single.infer(feeds).items():
            scale = float(np.abs(usual[np.isfinite(usual)]).max(initial=0.0))
            if not np.allclose(other[name], usual, rtol=0.0, atol=FAST_PATH * scale, equal_nan=True):
                self.warnings.append(FAST_PATH_DIFFERS)
                return

    def _defined(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Somebody's module may hold to float32 whatever it is told: then what it answers in float32 is the truth."""
        may_lack_float64, self._may_lack_float64 = self._may_lack_float64, False
        try:
            return self._definition.infer(feeds)
        except RunnerError as error:
            if not may_lack_float64:
                raise
            single, self.baseline = in_float32_only(self.baseline)
            self._definition = Rebuilt(lambda: single)
            self.warnings.append(f"judged by the module's own float32, because {error}")
            return self._definition.infer(feeds)

    def _doubted(self, truth: Truth) -> Truth:
        """The truth with what float32 makes of the case when its inputs are rounded differently.

        A softmax of huge numbers can tip over at a touch, and a normalization of equal ones is left with nothing but
        rounding: one run in float32 then says little about another.
        """
        if id(truth.case) not in self._known_doubts:
            largest = {name: own.largest for name, own in truth.own.items()}
            rng, batch = np.random.default_rng(0), truth.case.batch
            scale = float(np.abs(batch).max(initial=0.0) or 1.0) if truth.case.degenerate else None
            undecided = {n: np.zeros(a.shape, bool) for n, a in truth.baseline.items() if a.dtype.kind in "iub"}
            alike = (n for n, array in truth.baseline.items() if array.shape == truth.expected[n].shape)
            seen = {name: kinds(truth.baseline[name]) for name in alike}  # what float64 gives excuses nothing
            for units in NUDGES:
                answers = self.baseline.infer({INPUT_NAME: nudged(batch, units, rng, scale)})
                # What has another size as soon as inputs are rounded otherwise gets no excuse.
                same = {name for name in seen if answers[name].shape == truth.expected[name].shape}
                for name in undecided.keys() & same:
                    undecided[name] |= answers[name] != truth.baseline[name]
                for name in same:
                    array = truth.expected[name]
                    seen[name] |= kinds(answers[name])
                    with np.errstate(invalid="ignore"):  # infinity − infinity
                        error = np.abs(answers[name].astype(np.float64) - array)
                    largest[name] = max(largest[name], float(error[np.isfinite(error)].max(initial=0.0)))
            own = {name: Own(value) for name, value in largest.items()}
            self._known_doubts[id(truth.case)] = replace(truth, own=own, doubted=True, undecided=undecided, seen=seen)
        return self._known_doubts[id(truth.case)]

    def judge(self, rows: Sequence[Row], cases: Sequence[Case]) -> None:
        """Adds to every row what comes out of the cases that it takes.

        Raises:
            RunnerError: PyTorch cannot compute a case.
            ProviderError: a device does not work here, which says nothing about the file.
            ServiceError: a live service does not answer, which says nothing about its answers.
        """
        # All of PyTorch first, then each runtime: in turns, each would run against the others' idle threads. But no
        # more cases at a time than fit the memory, which attention weights fill quickly; and no two runtimes at once.
        for truths in self._groups(cases):
            for row in rows:
                self._say(f" {row.name}")
                self._between()
                with opened(row) as runner:
                    for number, truth in enumerate(truths, 1):
                        if runner is not None and row.takes(truth.case):
                            self._say(f" {row.name}, {truth.case.name}, {number} of {len(truths)}")
                            row.outputs += self._judged(row, runner, truth)[0]

    def truths_of(self, cases: Iterable[Case]) -> list[Truth]:
        """As `truth`, of all of them; the definition's memory is given back. RunnerError as `truth`."""
        truths = [self.truth(case) for case in cases]
        self._definition.release()
        return truths

    def judge_known(self, row: Row, runner: Runner, truth: Truth) -> None:
        """Adds to the row what comes out of a case whose truth is known."""
        row.outputs += self._judged(row, runner, truth)[0]

    def judge_more(
        self, row: Row, runner: Runner, batches: Iterable[tuple[Array, Array]], name: str = ""
    ) -> Iterator[tuple[Array, Mapping[str, Array], Mapping[str, Array] | None]]:
        """Adds a case of many images to the row, the worst of `batches`, against PyTorch in float32 alone.

        That is quick, and its own error is known by now. `batches` are images and their labels, `name` is what the
        case is called; by default after the first batch.

        Yields:
            The labels, what PyTorch answers to the images, and what the runner does; None if it refuses.

        Raises:
            RunnerError: PyTorch refuses.
        """
        worst: list[OutputParity] = []
        for images, labels in batches:
            name = name or f"images, batch {len(images)}"
            baseline = self.baseline.infer({INPUT_NAME: images})
            expected = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in baseline.items()}
            truth = Truth(Case(name, images), expected, baseline, self._own.of(expected))
            outputs, actual = self._judged(row, runner, truth)
            worst = _worse(worst, outputs)
            yield labels, baseline, actual
        row.outputs += worst

    def _groups(self, cases: Sequence[Case]) -> Iterator[list[Truth]]:
        group: list[Truth] = []
        held = 0
        for number, case in enumerate(cases, 1):
            self._say(f" PyTorch in float64, {case.name}, {number} of {len(cases)}")
            group.append(self.truth(case))
            held += sum(array.nbytes for side in (group[-1].expected, group[-1].baseline) for array in side.values())
            if held > self._most_answers:
                yield group
                group, held = [], 0
        self._definition.release()  # a large module has no room in float64 beside the runtimes
        if group:
            yield group

    def _judged(
        self, row: Row, runner: Runner, truth: Truth
    ) -> tuple[tuple[OutputParity, ...], Mapping[str, Array] | None]:
        """The verdicts on a case, and what they are on; None if the runner refuses it."""
        try:
            actual = runner.infer({runner.inputs[0].name: truth.case.batch})
        except ServiceError:
            raise  # no answer is no verdict
        except RunnerError as error:
            return failed(truth.case.name, truth.expected, str(error)), None
        outputs = self._verdicts(row, truth, actual)
        wrong = frozenset(output.output for output in outputs if not output.passed)
        drowned = wrong & self._excuses.of(truth).drowned() if wrong else wrong
        if not drowned or row.written_out is None or (plain := row.written_out(truth.case.batch)) is None:
            return outputs, actual
        shown = drowned.intersection(o.output for o in self._verdicts(row, truth, plain, kernels=False) if o.passed)
        outputs = self._verdicts(row, truth, actual, shown=shown)
        self._warn_of_drowned(truth, frozenset(output.output for output in outputs if output.passed) & shown)
        return outputs, actual

    def _verdicts(
        self,
        row: Row,
        truth: Truth,
        actual: Mapping[str, Array],
        *,
        kernels: bool = True,
        shown: frozenset[str] = frozenset(),
    ) -> tuple[OutputParity, ...]:
        """By what is asked for first, and then with whatever a right file may do otherwise.

        `kernels` tells whether these are excused, of the outputs `shown` in full.
        """
        judging = partial(compare, actual=actual, tolerances=row.tolerances)
        is_doubtful = truth.case.kind in ("extreme", "poisoned") or truth.case.degenerate
        is_doubtful = is_doubtful or _is_ill_conditioned(truth, row.tolerances)
        if truth.case.kind == "ordinary":  # also of the cases that came later: the order says nothing of the file
            truth = replace(truth, own=self._own.or_more(truth.own, truth.expected))
        truth = replace(truth, shown=shown, kernels=truth.kernels if kernels else {})
        outputs = judging(truth)
        if not all(output.passed for output in outputs) and (losing := self._losing_outputs(row, truth)):
            judging = partial(judging, may_lose_nan=losing)
            outputs = judging(truth)
        if not all(output.passed for output in outputs):
            excused = self._excuses.of(truth)
            truth = replace(excused, kernels=excused.kernels if kernels else {})
            outputs = judging(truth)
        may_ask = self._answers_anything and (is_doubtful or _has_infinities(truth))
        if may_ask and not all(output.passed for output in outputs):
            doubted = self._doubted(truth)
            truth = replace(truth, seen=joined(doubted.seen, truth.seen))
            if is_doubtful:  # an infinity alone says nothing of the finite numbers: these keep their bounds
                truth = replace(truth, own=doubted.own, doubted=True, undecided=doubted.undecided)
            outputs = judging(replace(truth, shown=shown))
        return outputs

    def _warn_of_drowned(self, truth: Truth, names: Iterable[str]) -> None:
        """Once an output: nobody should read much into such scores."""
        for name in sorted(set(names) - self._drowned):
            self._drowned.add(name)
            size = float(np.abs(truth.expected[name]).max(initial=0.0))
            self.warnings.append(DROWNED.format(name=name, case=truth.case.name, size=size))

    def _losing_outputs(self, row: Row, truth: Truth) -> frozenset[str]:
        """Those of which NaN that did not spread as in PyTorch may have got lost in a device or a kernel."""
        if all(_is_finite(array) for array in (truth.case.batch, *truth.expected.values(), *truth.baseline.values())):
            return frozenset()
        if row.stage in DEVICE_STAGES:
            return frozenset(truth.expected)
        return row.arrivals.deciding(self._losing_nan, truth.case.batch) if row.arrivals else frozenset()

    @cached_property
    def _losing_nan(self) -> frozenset[str]:
        """The operators of ONNX that may lose NaN in the place of the model's own; all, if those are not known."""
        if self._first is None or not self._excuses.operators(self._first):
            return ALL_LOSE_NAN
        return losing_nan(self._excuses.operators(self._first))


def _require_the_same(answers: Mapping[str, Array], again: Mapping[str, Array]) -> None:
    """RunnerError if a model answers the same images otherwise each time: then there is nothing to hold a file to."""
    for name, array in answers.items():
        unit = float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 0.0
        scale = float(np.abs(array[np.isfinite(array)]).max(initial=0.0)) if unit else 0.0
        if not np.allclose(array, again[name], rtol=0.0, atol=REORDERED * unit * scale, equal_nan=True):
            rule = f"the model must answer the same images with the same {name}, got others the second time"
            raise RunnerError(f"{rule}; is there a dropout that does not know of evaluation, or other randomness?")


def _has_infinities(truth: Truth) -> bool:
    """Whether PyTorch answers infinity to finite images: where it begins to is a matter of rounding."""
    answers = (*truth.expected.values(), *truth.baseline.values())
    return _is_finite(truth.case.batch) and not all(_is_finite(array) for array in answers)


def _is_finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _is_ill_conditioned(truth: Truth, tolerances: Tolerances) -> bool:
    """Whether PyTorch itself breaks the absolute bound: a division by what may be nearly 0, say."""
    return any(
        not tolerances.is_by_hand(name) and own.largest > _bound(tolerances.of(name), truth.expected[name])
        for name, own in truth.own.items()
    )


def _bound(tolerance: Tolerance, expected: Array) -> float:
    finite = np.abs(expected[np.isfinite(expected)]) if expected.dtype.kind == "f" else np.zeros(0)
    return tolerance.atol + tolerance.rtol * float(finite.max(initial=0.0))


def _worse(former: Sequence[OutputParity], latter: Sequence[OutputParity]) -> list[OutputParity]:
    """Output by output the one that fails, or is further off."""
    if len(former) != len(latter):  # another set of outputs is a failure of its own
        return list(former or latter)
    pairs = zip(former, latter, strict=True)
    return [max(pair, key=lambda one: (not one.passed, one.max_abs_error or 0.0)) for pair in pairs]
