"""(reduced file, its float32 sibling, images) → GuardReport, measured in every runtime that there is on the CPU.

Two references count. The definition in float64 tells what the network is; it is slow, so few images must do. The
float32 file tells what is lost by serving another in its place, on all images. onnxruntime's CPU computes parts of a
float16 file in float32, and so cannot see them overflow: onnx's evaluator computes every operator in its own type.
A file in symmetric int8 is for TensorRT. Its signed weights saturate in onnxruntime on x86 without VNNI, which says
nothing of it: onnxruntime is asked to add as everything else does, and what it does otherwise is told and not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aaexport.data import evaluation_images
from aaexport.device import parse_device
from aaexport.errors import DataError, RunnerError
from aaexport.graph.evaluate import EVALUATOR, OVERFLOW_MACS, REFERENCE_MACS
from aaexport.graph.files import OnnxModel, read_onnx
from aaexport.graph.precision.stored import is_symmetric
from aaexport.parity import Array, Case
from aaexport.parity.by_tensor import lone_row, tensor_rows
from aaexport.parity.guard import (
    GuardAccuracy,
    GuardReport,
    GuardRow,
    Losses,
    TensorLoss,
    accuracy_row,
    rightly,
)
from aaexport.parity.thresholds import ReducedKind
from aaexport.pipeline.subject.facts import Facts
from aaexport.pipeline.subject.known_truth import known_truth
from aaexport.pipeline.verify.feeding import ANSWERS_IN_MEMORY, fed
from aaexport.pipeline.verify.inputs import ACCURACY_IMAGES, ACCURACY_MACS, gather_inputs, read_inputs
from aaexport.pipeline.verify.stored import IMAGES, faults_of, tensor_losses, uncompared
from aaexport.runners.base import Runner
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import (
    AS_WRITTEN,
    DEFAULTS,
    EXACT,
    EXACT_SUMS,
    OPTIMIZED,
    SUMMED_EXACTLY,
    UNOPTIMIZED,
)
from aaexport.runners.reference import ReferenceRunner
from aaexport.weights.recorded import RANDOM_NOTE

if TYPE_CHECKING:
    from aaexport.pipeline.verify.computations import Judge

Say = Callable[[str], None]
Answers = Mapping[str, Array] | str  # outputs by name, or why there are none
FEW = 7  # images that are computed in float64, and by the slow runtimes
LEAST = 16  # images that are judged by the float32 file, however large the network is
BATCH = 8
NOISE = 64  # images of it, for what can be judged on noise
FLOAT64, FLOAT32 = "PyTorch in float64", "the float32 file"
SATURATES = "not judged: for TensorRT; session.x64quantprecision=1 has a CPU that adds in 16 bits add in 32"
NO_IMAGES = "noise cannot judge int8: even good files agree with float32 on half of it"


@dataclass(frozen=True)
class Evidence:
    """What a reduced file is judged on.

    Attributes:
        images: (N, C, H, W), float32.
        labels: of these, (N,); None where they have none.
        data: what they are, in words.
        is_noise: whether nobody meant the network for them.
        warnings: what a user must be told of them.
    """

    images: Array
    labels: Array | None
    data: str
    is_noise: bool = False
    warnings: tuple[str, ...] = ()

    def whole(self, batch: int | None) -> Evidence:
        """As many as make whole batches, for a file that fixes its batch; a few are taken twice if it must be."""
        if batch is None:
            return self
        count = max(len(self.images) // batch, 1) * batch
        chosen = np.arange(count) % len(self.images)
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, images=self.images[chosen], labels=labels)


def gather_evidence(
    subject: Facts, kind: ReducedKind, path: str | Path | None, macs: int | None, seed: int
) -> Evidence:
    """The images at `path`, else held-out ones of the recipe's data set, else noise where that can judge the kind.

    Raises:
        DataError: there are none that could judge an int8 file, or `path` cannot be read or does not fit.
    """
    count = ACCURACY_IMAGES if not macs else max(LEAST, int(ACCURACY_MACS / 4 / macs))
    if path is not None:
        given, warnings = read_inputs(Path(path), subject)
        order = np.random.default_rng(seed).permutation(len(given))[:count]
        return Evidence(given[order], None, f"{len(order)} images of {Path(path).name}", warnings=warnings)
    if subject.golden is None:
        inputs = gather_inputs(subject, None, seed)
        if inputs.labelled is not None and subject.recipe is not None:
            index = inputs.chosen[:count]
            images = evaluation_images(inputs.labelled, subject.recipe, index)
            labels = inputs.labelled.labels[index] if subject.recipe.network.classifies else None
            return Evidence(images, labels, f"{len(index)} held-out images of {subject.recipe.data.dataset}")
    if kind == "int8":
        rule = "be given for an int8 file without a data set at hand"
        raise DataError(f"inputs must {rule}, got none; {NO_IMAGES}")
    noise = np.random.default_rng(seed).standard_normal((min(count, NOISE), *subject.input_shape), dtype=np.float32)
    return Evidence(noise, None, f"{len(noise)} images of noise", is_noise=True)


class Guard:
    """Judges reduced files of one model by the same images: what PyTorch and float32 answer is computed once.

    Args:
        subject: the model.
        kind: of the files.
        sibling: the float32 file; None where there is none, and PyTorch in float32 stands for it.
        evidence: what they are judged on.
        macs: of one image; None where that is not known.
        batch: the only one that the files take; None for any.
        say: is told the parts, as lines that begin with a blank.
        device: where onnxruntime runs the files too, beside the CPU.
    """

    def __init__(
        self,
        subject: Facts,
        kind: ReducedKind,
        sibling: Path | None,
        evidence: Evidence,
        macs: int | None,
        batch: int | None,
        say: Say = lambda step: None,
        *,
        device: str = "cpu",
    ) -> None:
        self.subject, self.kind, self.evidence = subject, kind, evidence.whole(batch)
        self._given = len(evidence.images)
        self._sibling, self._macs, self._batch, self._say, self._device = sibling, macs, batch, say, device

    def report(self, path: Path) -> GuardReport:
        """What the file lost.

        Raises:
            RunnerError: PyTorch or the float32 file cannot be run.
        """
        rows: list[GuardRow] = []
        accuracy = None
        model = read_onnx(path)
        name, settings = (SUMMED_EXACTLY, EXACT_SUMS) if is_symmetric(model) else (OPTIMIZED, DEFAULTS)
        self._say(f" {name}")
        try:
            with OrtRunner(path, settings) as runner:
                rows, accuracy = self._against_float32(runner, name)
                optimized = [_answers(runner, images) for images, _ in self._truths]
        except RunnerError as error:
            losses = self._losses(name, self._float32)
            losses.fail(self.subject.output_names, str(error))
            return GuardReport(self.kind, self.evidence.data, tuple(losses.rows()))
        rows += self._against_float64(path, name, optimized)
        tensors, faults = self._by_themselves(model)
        different = len({image.tobytes() for image in self.evidence.images[: self._whole(IMAGES)]})
        rows += tensor_rows(self.kind, tensors, GuardReport(self.kind, "", tuple(rows)).sqnr_db, different)
        if self._source is not None and (lone := uncompared(model, self.kind, tensors)):
            rows.append(lone_row(self.kind, lone))
        return GuardReport(self.kind, self.data, tuple(rows), accuracy, tensors, faults)

    @property
    def data(self) -> str:
        """What the file was judged on: fewer than there are, if more answers than these found no room."""
        seen = sum(len(images) for images, _ in self.answers)
        return self.evidence.data if seen >= self._given else f"{seen} of {self.evidence.data}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Who was not asked."""
        if self.evaluated:
            return ()
        why = "it is not known how long it takes" if self._macs is None else "a network of this size takes it long"
        hidden = "; a CPU computes parts of float16 in float32 and may hide an overflow" * (self.kind == "float16")
        return (f"{EVALUATOR} was not asked: {why}{hidden}",)

    @property
    def evaluated(self) -> int:
        """How many images onnx's evaluator is asked about; of a large network in float16 a single one."""
        few = self._batch or FEW
        if self._macs is None:
            return 0
        if self._macs * few <= REFERENCE_MACS:
            return few
        least = self._batch or 1
        return least if self.kind == "float16" and self._macs * least <= OVERFLOW_MACS else 0

    @cached_property
    def answers(self) -> list[tuple[Array, dict[str, Array]]]:
        """Batches of images, and what float32 answers to them; as many as `ANSWERS_IN_MEMORY` hold."""
        self._say(f" {self._float32}")
        size, held, found = self._batch or BATCH, 0, []
        images = self.evidence.images
        with nullcontext(self._judge.baseline) if self._sibling is None else OrtRunner(self._sibling) as runner:
            for start in range(0, len(images), size):
                found.append((images[start : start + size], fed(runner, images[start : start + size])))
                held += sum(array.nbytes for array in found[-1][1].values())
                if held > ANSWERS_IN_MEMORY:
                    break
        return found

    @cached_property
    def _source(self) -> OnnxModel | None:
        return None if self._sibling is None else read_onnx(self._sibling)

    @cached_property
    def _judge(self) -> Judge:
        from aaexport.pipeline.verify.computations import Judge  # and with it PyTorch
        from aaexport.pipeline.verify.oracles import require_memory_for_float64

        subject = self.subject.whole()
        require_memory_for_float64(subject)
        return Judge(subject, asks_twice=False)  # who wrote the float32 file has

    @cached_property
    def _truths(self) -> list[tuple[Array, Mapping[str, Array]]]:
        """A few images and what the definition answers to them. Golden vectors answer to their own inputs only."""
        self._say(f" {self._truth}")
        if self.subject.golden is not None:
            if not self.evidence.is_noise:
                return self.first(FEW)
            ordinary = [case for case in self.subject.golden.cases_of(self._batch) if case.kind == "ordinary"]
            cases = ordinary[:2]
        else:
            images = self.evidence.images[: self._batch or FEW]
            if (known := known_truth(self.subject, images)) is not None:
                return [(images, known)]
            cases = [Case("images", images)]
        return [(truth.case.batch, truth.expected) for truth in self._judge.truths_of(cases)]

    def first(self, count: int) -> list[tuple[Array, Mapping[str, Array]]]:
        """At most `count` images of the first batch, or the only batch that the files take; and float32's answers."""
        images, answers = self.answers[0]
        few = slice(0, count if self._batch is None else self._batch)
        return [(images[few], {name: array[few] for name, array in answers.items()})]

    @property
    def _truth(self) -> str:
        """Who says what is right for the few images."""
        return self._float32 if self.subject.golden is not None and not self.evidence.is_noise else FLOAT64

    @property
    def _float32(self) -> str:
        return FLOAT32 if self._sibling is not None else "PyTorch in float32"

    @property
    def _scores(self) -> frozenset[str]:
        """The outputs that are scores of classes: the first of a classifier, and any of somebody's module."""
        recipe = self.subject.recipe
        if recipe is None:
            return frozenset(self.subject.output_names)
        return frozenset(self.subject.output_names[:1]) if recipe.network.classifies else frozenset()

    def _losses(self, computation: str, against: str, *, between_runtimes: bool = False) -> Losses:
        return Losses(self.kind, computation, against, self._scores, between_runtimes)

    def _against_float32(self, runner: Runner, name: str) -> tuple[list[GuardRow], GuardAccuracy | None]:
        """On all images, and the accuracy of both where the images have labels."""
        losses = self._losses(name, self._float32)
        scores, labels = self.subject.output_names[0], self.evidence.labels
        right, seen = [0, 0], 0
        for images, expected in self.answers:
            actual = fed(runner, images)
            losses.learn(expected, actual)
            if labels is not None and all(_are_scores(each.get(scores), images) for each in (expected, actual)):
                part = labels[seen : seen + len(images)]
                right = [n + rightly(each[scores], part) for n, each in zip(right, (expected, actual), strict=True)]
                seen += len(images)
        rows = list(losses.rows())
        if not seen:
            return rows, None
        accuracy = GuardAccuracy.of(seen, *right)
        is_trained = RANDOM_NOTE not in self.subject.notes
        return [*rows, accuracy_row(self.kind, scores, name, accuracy, judged=is_trained)], accuracy

    def _against_float64(self, path: Path, first: str, optimized: list[Answers]) -> Iterator[GuardRow]:
        """On a few images, in every runtime; and whether onnxruntime's optimizer changes what comes out."""
        few = [images for images, _ in self._truths]
        answers = {first: optimized}
        for name, open_runner in self._others(path):
            self._say(f" {name}")
            answers[name] = _all_answers(open_runner, [images[: self._asked(name)] for images in few])
        for name, given in answers.items():
            if self._truth == self._float32 and name == first:
                continue  # on all images already
            losses = self._losses(name, self._truth)
            for (_, expected), actual in zip(self._truths, given, strict=True):
                _learn(losses, {output: array[: self._asked(name)] for output, array in expected.items()}, actual)
            yield from losses.rows()
        yield from self._between(first, answers[UNOPTIMIZED], optimized)
        if first != OPTIMIZED:
            by_default = _all_answers(lambda: OrtRunner(path), few)
            for row in self._between(OPTIMIZED, answers[UNOPTIMIZED], by_default):
                yield row.excused(SATURATES)

    def _asked(self, name: str) -> int | None:
        """How many of the few images; None for all."""
        return self.evaluated if name == EVALUATOR else None

    def _between(self, name: str, plain: list[Answers], optimized: list[Answers]) -> Iterator[GuardRow]:
        losses = self._losses(name, UNOPTIMIZED, between_runtimes=True)
        for expected, actual in zip(plain, optimized, strict=True):
            if not isinstance(expected, str):
                _learn(losses, expected, actual)
        yield from losses.rows()

    def _by_themselves(self, model: OnnxModel) -> tuple[tuple[TensorLoss, ...], tuple[str, ...]]:
        """What single tensors have lost, and what the file holds otherwise than it must."""
        self._say(" each tensor by itself")
        wrong = faults_of(model) if self.kind == "int8" else ()
        if self._source is None:
            return (), wrong
        size = self._batch or BATCH
        images = [self.evidence.images[start : start + size] for start in range(0, self._whole(IMAGES), size)]
        return tensor_losses(model, self._source, self.kind, images), wrong

    def _whole(self, count: int) -> int:
        """So many images, or all, or as many whole batches of a fixed size as that is."""
        most = min(count, len(self.evidence.images))
        return most if self._batch is None else max(most // self._batch, 1) * self._batch

    def _others(self, path: Path) -> Iterator[tuple[str, Callable[[], Runner]]]:
        yield UNOPTIMIZED, lambda: OrtRunner(path, AS_WRITTEN)
        if self.evaluated:
            yield EVALUATOR, lambda: ReferenceRunner(path)
        if parse_device(self._device)[0] != "cpu":
            yield "onnxruntime CUDA", lambda: OrtRunner(path, EXACT, device=self._device)


def _are_scores(answers: Array | None, images: Array) -> bool:
    return answers is not None and answers.ndim == 2 and len(answers) == len(images)


def _all_answers(open_runner: Callable[[], Runner], batches: list[Array]) -> list[Answers]:
    try:
        with open_runner() as runner:
            return [_answers(runner, images) for images in batches]
    except RunnerError as error:
        return [str(error)] * len(batches)


def _answers(runner: Runner, images: Array) -> Answers:
    """What comes out, or why nothing does."""
    try:
        return fed(runner, images)
    except RunnerError as error:
        return str(error)


def _learn(losses: Losses, expected: Mapping[str, Array], actual: Answers) -> None:
    if isinstance(actual, str):
        losses.fail(expected, actual)
    else:
        losses.learn(expected, actual)
