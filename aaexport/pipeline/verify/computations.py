"""(file, device) → the rows of the parity matrix: who computes, in the order of the way from definition to answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from aaexport.capture.program import INPUT_NAME
from aaexport.device import parse_device
from aaexport.errors import ProviderError, RunnerError
from aaexport.graph.files import GraphSummary
from aaexport.graph.outside import needs_two_files
from aaexport.graph.serialized import Serialized
from aaexport.parity import (
    Array,
    Case,
    Computation,
    OutputParity,
    Own,
    OwnErrors,
    Placement,
    Stage,
    Tolerance,
    Tolerances,
    Truth,
    compare,
    failed,
)
from aaexport.pipeline.subject.subject import Subject
from aaexport.pipeline.verify.drowned import DROWNED, answers_written_out
from aaexport.pipeline.verify.excuses import Excuses
from aaexport.pipeline.verify.lost_nan import ALL_LOSE_NAN, Arrivals, losing_nan
from aaexport.pipeline.verify.memory import Memory
from aaexport.pipeline.verify.options import Judged
from aaexport.pipeline.verify.oracles import Rebuilt, in_float32_only, nudged, oracles, torch_runner
from aaexport.runners.base import Runner
from aaexport.runners.openvino import OpenvinoRunner
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import AS_WRITTEN, DEFAULTS, EXACT, SessionSettings
from aaexport.runners.reference import ReferenceRunner
from aaexport.runners.torch import TorchRunner

Say = Callable[[str], None]
REFERENCE_MACS = 500_000_000  # of a case; the evaluator takes about a second for them
NUDGES = (1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8)  # units in the last place of each input
REFERENCE, UNOPTIMIZED = "onnx reference", "onnxruntime CPU, unoptimized"  # rows that others ask for by name
TENSORRT = SessionSettings(tensorrt=True)
REORDERED = 1e4  # units in the last place by which threads that sum in another order may move an answer
DEVICE_STAGES: tuple[Stage, ...] = ("device", "TF32")
ANSWERS_IN_MEMORY = 2**28  # bytes: expected and own outputs of the cases that are judged together


@dataclass
class Row:
    """A computation that is being judged.

    Attributes:
        name, stage, tolerances: as of the Computation that it becomes.
        open: gives what computes.
        takes: which cases it is given.
        arrivals: where in its file NaN arrives; None where there is no file.
        written_out: what its file answers to images without the kernels that are excused; None where there is none.
        placement: of the nodes, once it has been loaded; None where that is not known.
        open_model: loads any ONNX model into the same runtime; None where it takes files only, or is no runtime.
        is_large: whether its file is above protobuf's limit: then no two rows hold theirs at a time. A file that is
            judged without its kernels too (`written_out`) is loaded beside itself for that.
    """

    name: str
    stage: Stage
    tolerances: Tolerances
    open: Callable[[], Runner]
    takes: Callable[[Case], bool] = lambda case: True
    open_model: Callable[[Serialized], Runner] | None = None
    placement: Placement | None = None
    outputs: list[OutputParity] = field(default_factory=list)
    failure: str | None = None
    arrivals: Arrivals | None = None
    written_out: Callable[[Array], Mapping[str, Array] | None] | None = None
    is_large: bool = False

    def result(self) -> Computation:
        """What has been found so far."""
        return Computation(self.name, self.stage, self.tolerances.common, tuple(self.outputs), self.failure)


def file_rows(
    path: Path,
    summary: GraphSummary,
    runtimes: Iterable[str],
    device: str,
    judged: Judged,
    memory: Memory,
    stage: Stage = "file",
) -> tuple[Row, ...]:
    """The rows of one ONNX file.

    Args:
        path: the file.
        summary: what is in it.
        runtimes: keys of `RUNTIMES` (`options` in this wing).
        device: for those that run elsewhere than on the CPU.
        judged: what is allowed.
        memory: what they may take.
        stage: what is to blame if the file is wrong by whatever computes it.
    """
    kind, _ = parse_device(device)
    cpu, cuda, tf32 = judged.on("cpu"), judged.on("cuda"), judged.on("tf32")
    on_cpu = replace(DEFAULTS, arena=not memory.is_tight)
    rows: dict[str, list[Row]] = {
        "reference": [Row(REFERENCE, stage, cpu, lambda: ReferenceRunner(path), _for_reference(summary, memory))],
        "unoptimized": [_session(UNOPTIMIZED, stage, cpu, path, replace(AS_WRITTEN, arena=not memory.is_tight))],
        "onnxruntime": [_session("onnxruntime CPU", "optimizer", cpu, path, on_cpu, record_placement=True)],
        "tf32": [_session("onnxruntime CUDA, TF32", "TF32", tf32, path, device=device)],
        "tensorrt": [
            _session("onnxruntime TensorRT", "device", judged.on("tensorrt"), path, TENSORRT, device=device)
        ],
        "openvino": [Row("OpenVINO CPU", "device", judged.on("openvino"), lambda: OpenvinoRunner(path))],
    }
    if kind == "cuda":
        rows["onnxruntime"].append(
            _session("onnxruntime CUDA", "device", cuda, path, EXACT, device=device, record_placement=True)
        )
    if not suits_reference(summary) or not memory.of_evaluator(1):
        rows["reference"] = []
    found = tuple(row for name in runtimes for row in rows[name])
    arrivals = Arrivals(path)
    for row in found:
        row.arrivals, row.is_large = arrivals, needs_two_files(summary.bytes)
        row.written_out = partial(answers_written_out, path, row.open_model or _as_written)
    return found


def _as_written(model: Serialized) -> Runner:
    return OrtRunner(model, AS_WRITTEN)


def suits_reference(summary: GraphSummary) -> bool:
    """Whether the file is small enough for onnx's reference evaluator."""
    return summary.macs is not None and summary.macs <= REFERENCE_MACS


def _for_reference(summary: GraphSummary, memory: Memory) -> Callable[[Case], bool]:
    def takes(case: Case) -> bool:
        if not memory.of_evaluator(len(case.batch)):
            return False
        # Its AveragePool marks the padding with NaN, and so takes a NaN in the map for padding.
        return case.kind != "poisoned" and (summary.macs or 0) * len(case.batch) <= REFERENCE_MACS

    return takes


def _session(
    name: str, stage: Stage, judging: Tolerances, path: Path, settings: SessionSettings = DEFAULTS, **options: Any
) -> Row:
    """A row of onnxruntime; `options` as of OrtRunner."""
    return Row(
        name,
        stage,
        judging,
        lambda: OrtRunner(path, settings, **options),
        open_model=lambda model: OrtRunner(model, settings, **options),
    )


def torch_row(subject: Subject, module: nn.Module, how: str, judged: Judged, judge: Judge) -> Row:
    """PyTorch in float32 with the layers computed as they are written out, within what `judge` may take."""
    return Row(
        f"PyTorch, {how}",
        "decomposition",
        judged.on("cpu"),
        lambda: judge.limited(torch_runner(subject, module, torch.float32)),
    )


class Judge:
    """The definition in float64 and PyTorch in float32, which give the truth for a case, and judge rows by it.

    `say` is told what computes, as lines that begin with a blank: they are parts of a step.

    Attributes:
        baseline: PyTorch in float32, or what stands for it.
        truths: of all cases so far of somebody's module, whose golden vectors some of them become; of others none.
        warnings: what a user should know of the definition.
    """

    def __init__(self, subject: Subject, say: Say = lambda step: None) -> None:
        self._say = say
        self._block: int | None = None
        self._images: int | None = None
        self._between: Callable[[], None] = lambda: None
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
        self._keeps_truths = subject.original is not None
        self.truths: list[Truth] = []
        self.warnings: list[str] = []

    def limit(
        self, block: int, images: int | None, between: Callable[[], None]
    ) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        """Makes PyTorch hold at most `block` bytes of what can be computed in blocks, and compute so many images at a
        time, or all; gives what computes in float64. `between` is called before each row.
        """
        self._block, self._images, self._between = block, images, between
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
            _require_the_same(expected, self._definition.infer(feeds))
        if case.kind == "ordinary":
            self._own.learn(expected, baseline)
        truth = Truth(case, expected, baseline, self._own.of(expected))
        if (known := self._remembered.get(id(case))) is not None:
            truth = replace(truth, kernels=known.kernels, scores=known.scores)
        if self._keeps_truths:
            # Golden vectors cannot be asked again: what a file of them may need is found out now.
            self.truths.append(self._excuses.of(truth) if case.kind == "ordinary" and not case.degenerate else truth)
        return truth

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
            for units in NUDGES:
                answers = self.baseline.infer({INPUT_NAME: nudged(batch, units, rng, scale)})
                for name in undecided:
                    undecided[name] |= answers[name] != truth.baseline[name]
                for name, array in truth.expected.items():
                    with np.errstate(invalid="ignore"):  # infinity − infinity
                        error = np.abs(answers[name].astype(np.float64) - array)
                    largest[name] = max(largest[name], float(error[np.isfinite(error)].max(initial=0.0)))
            own = {name: Own(value) for name, value in largest.items()}
            self._known_doubts[id(truth.case)] = replace(truth, own=own, doubted=True, undecided=undecided)
        return self._known_doubts[id(truth.case)]

    def judge(self, rows: Sequence[Row], cases: Iterable[Case]) -> None:
        """Adds to every row what comes out of the cases that it takes.

        Raises:
            RunnerError: PyTorch cannot compute a case.
            ProviderError: a device does not work here, which says nothing about the file.
        """
        # All of PyTorch first, then each runtime: in turns, each would run against the others' idle threads. But no
        # more cases at a time than fit the memory, which attention weights fill quickly; and no two runtimes at once.
        for truths in self._groups(cases):
            for row in rows:
                self._say(f" {row.name}")
                self._between()
                with _opened(row) as runner:
                    for truth in truths:
                        if runner is not None and row.takes(truth.case):
                            row.outputs += self._judged(row, runner, truth)[0]

    def judge_more(
        self, row: Row, runner: Runner, batches: Iterable[tuple[Array, Array]]
    ) -> Iterator[tuple[Array, Mapping[str, Array], Mapping[str, Array] | None]]:
        """Adds a case of many images to the row, the worst of `batches`, against PyTorch in float32 alone.

        That is quick, and its own error is known by now. `batches` are images and their labels.

        Yields:
            The labels, what PyTorch answers to the images, and what the runner does; None if it refuses.

        Raises:
            RunnerError: PyTorch refuses.
        """
        worst: list[OutputParity] = []
        name = ""
        for images, labels in batches:
            name = name or f"images, batch {len(images)}"
            baseline = self.baseline.infer({INPUT_NAME: images})
            expected = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in baseline.items()}
            truth = Truth(Case(name, images), expected, baseline, self._own.of(expected))
            outputs, actual = self._judged(row, runner, truth)
            worst = _worse(worst, outputs)
            yield labels, baseline, actual
        row.outputs += worst

    def _groups(self, cases: Iterable[Case]) -> Iterator[list[Truth]]:
        group: list[Truth] = []
        held = 0
        for case in cases:
            self._say(f" PyTorch in float64, {case.name}")
            group.append(self.truth(case))
            held += sum(array.nbytes for side in (group[-1].expected, group[-1].baseline) for array in side.values())
            if held > ANSWERS_IN_MEMORY:
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
        truth = replace(truth, shown=shown, kernels=truth.kernels if kernels else {})
        outputs = judging(truth)
        if not all(output.passed for output in outputs) and self._may_lose_nan(row, truth):
            judging = partial(judging, may_lose_nan=True)
            outputs = judging(truth)
        if not all(output.passed for output in outputs):
            excused = self._excuses.of(truth)
            truth = replace(excused, kernels=excused.kernels if kernels else {})
            outputs = judging(truth)
        is_doubtful = truth.case.kind in ("extreme", "poisoned") or truth.case.degenerate
        is_doubtful = is_doubtful or _is_ill_conditioned(truth, row.tolerances)
        if is_doubtful and self._answers_anything and not all(output.passed for output in outputs):
            doubted = self._doubted(truth)
            outputs = judging(replace(doubted, kernels=truth.kernels, scores=truth.scores, shown=shown))
        return outputs

    def _warn_of_drowned(self, truth: Truth, names: Iterable[str]) -> None:
        """Once an output: nobody should read much into such scores."""
        for name in sorted(set(names) - self._drowned):
            self._drowned.add(name)
            size = float(np.abs(truth.expected[name]).max(initial=0.0))
            self.warnings.append(DROWNED.format(name=name, case=truth.case.name, size=size))

    def _may_lose_nan(self, row: Row, truth: Truth) -> bool:
        """Whether NaN that did not spread as in PyTorch may have got lost in a device or a kernel."""
        if all(_is_finite(array) for array in (truth.case.batch, *truth.expected.values(), *truth.baseline.values())):
            return False
        if row.stage in DEVICE_STAGES:
            return True
        return row.arrivals is not None and row.arrivals.at(self._losing_nan, truth.case.batch)

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


@contextmanager
def _opened(row: Row) -> Iterator[Runner | None]:
    """The row's runner; one that does not open fails the row, but a device that does not work is no verdict."""
    with ExitStack() as stack:
        runner: Runner | None = None
        try:
            if row.failure is None:
                runner = stack.enter_context(row.open())
        except ProviderError:
            raise
        except RunnerError as error:
            row.failure = str(error)
        if isinstance(runner, OrtRunner):
            row.placement = Placement.of(runner.placement, runner.provider)
        yield runner


def _worse(former: Sequence[OutputParity], latter: Sequence[OutputParity]) -> list[OutputParity]:
    """Output by output the one that fails, or is further off."""
    if len(former) != len(latter):  # another set of outputs is a failure of its own
        return list(former or latter)
    pairs = zip(former, latter, strict=True)
    return [max(pair, key=lambda one: (not one.passed, one.max_abs_error or 0.0)) for pair in pairs]
