"""ONNX file in float32 → the same in float16, and what that lost of its answers, on inputs given or made up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from aaexport.errors import RunnerError
from aaexport.graph.cost import count_macs
from aaexport.graph.evaluate import EVALUATOR, OVERFLOW_MACS, REFERENCE_MACS
from aaexport.graph.files import OnnxModel
from aaexport.graph.intermediate import input_names, plan_chunks, tensor_bytes
from aaexport.graph.outside import Room
from aaexport.graph.precision.float16 import to_float16
from aaexport.graph.precision.observe import Observed, observe
from aaexport.graph.precision.ranges import RangeCollector, Ranges
from aaexport.graph.precision.reduced import Reduced
from aaexport.parity import Array, ParityReport
from aaexport.parity.guard import GuardReport, Losses
from aaexport.pipeline.convert.comparison import LARGER_BATCH, Fed, cases_of, meaningless
from aaexport.pipeline.convert.options import OptimizeOptions
from aaexport.runners.base import Runner
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import AS_WRITTEN, OPTIMIZED, UNOPTIMIZED
from aaexport.runners.reference import ReferenceRunner

MOST_BYTES = 2**29  # of tensors that are looked at together
GIVEN = "the given file"


def narrowed(model: OnnxModel, options: OptimizeOptions, room: Room) -> Reduced:
    """The model in float16, by the ranges of its tensors on what it is fed.

    Raises:
        ArgumentError: inputs cannot be made up, or `keep` names what is not there.
        DataError: the inputs that are given cannot be read, or are not those of the model.
        GraphError: the model is not in float32, or a tensor of it is NaN.
        RunnerError: onnxruntime cannot run it.
        FolderError: there is too little room.
    """
    observed = observe(model, "float16")
    ranges = _ranges(observed, options)
    return to_float16(model, ranges, keep=options.keep, io_dtype=options.io_dtype, target=options.target, room=room)


def _ranges(observed: Observed, options: OptimizeOptions) -> Ranges:
    given = set(input_names(observed.model))
    inner = [name for name in observed.names if name not in given]
    collector = RangeCollector(observed.layers, infinite=True)  # who masks by it means it
    for names in plan_chunks(inner, tensor_bytes(observed.model, LARGER_BATCH), MOST_BYTES):
        with OrtRunner(observed.answering(names)) as runner:
            seen = 0
            for fed, answers in _answered(observed.model, runner, options):
                images = _images(fed)
                inputs = {name: array for name, array in fed.feeds.items() if name in observed.names}
                collector.add({**inputs, **answers}, first=seen, images=images)
                seen += images
    return collector.ranges


def _answered(
    model: OnnxModel, runner: Runner, options: OptimizeOptions
) -> Iterator[tuple[Fed, Mapping[str, Array]]]:
    """Each case that the runner takes, and its answers."""
    for fed in cases_of(model, runner.inputs, options):
        try:
            yield fed, runner.infer(fed.feeds)
        except RunnerError as error:
            if not fed.is_optional:
                raise meaningless(error, fed) from error


def _images(fed: Fed) -> int:
    return next((len(array) for array in fed.feeds.values() if array.ndim), 1)


def judged(model: OnnxModel, source: Path, written: Path, options: OptimizeOptions) -> ParityReport:
    """What the float16 file `written` lost of the answers of `source`, whose model is at hand.

    onnxruntime's CPU computes parts of a float16 file in float32, and cannot see them overflow: of what is small
    enough onnx's evaluator is asked as well, which computes every operator in its own type.

    Raises:
        ArgumentError, DataError, RunnerError: as `narrowed`.
    """
    losses = [Losses("float16", name, GIVEN) for name in (OPTIMIZED, UNOPTIMIZED)]
    between = Losses("float16", OPTIMIZED, UNOPTIMIZED, between_runtimes=True)
    macs, told = count_macs(model), []
    small: list[tuple[Fed, Mapping[str, Array]]] = []
    with OrtRunner(source, AS_WRITTEN) as plain, OrtRunner(written) as new, OrtRunner(written, AS_WRITTEN) as raw:
        for fed, expected in _answered(model, plain, options):
            answers = [_fed(runner, fed) for runner in (new, raw)]
            for each, found in zip(losses, answers, strict=True):
                each.learn(expected, found)
            between.learn(answers[1], answers[0])
            told.append(fed.name)
            # Of a large network the first case, if it can be afforded: it shows an overflow as well as others do.
            most = OVERFLOW_MACS if not small else REFERENCE_MACS
            if macs is not None and macs * _images(fed) <= most:
                small.append((fed, expected))
    slow, notes = _evaluated(source, written, small, is_known=macs is not None)
    rows = [row for each in (*losses, slow, between) for row in each.rows()]
    guard = GuardReport("float16", ", ".join(told), tuple(rows))
    return ParityReport(str(written), notes=notes, baseline=GIVEN, seed=options.seed, kind="float16", guard=guard)


def _evaluated(
    source: Path, written: Path, cases: Sequence[tuple[Fed, Mapping[str, Array]]], *, is_known: bool
) -> tuple[Losses, tuple[str, ...]]:
    """What the evaluator loses, and a note if it was not asked, or knows not even the file in float32."""
    losses = Losses("float16", EVALUATOR, GIVEN)
    if not cases:
        why = "a network of this size takes it long" if is_known else "it is not known how long it takes"
        return losses, (f"{EVALUATOR} was not asked: {why}; a CPU may hide an overflow of float16",)
    answers = _by_evaluator(written, cases)
    if isinstance(answers, RunnerError):
        if isinstance(_by_evaluator(source, cases), RunnerError):
            return losses, (f"{EVALUATOR} was not asked: {answers}",)
        losses.fail(cases[0][1], str(answers))
        return losses, ()
    for (_, expected), found in zip(cases, answers, strict=True):
        losses.learn(expected, found)
    return losses, ()


def _by_evaluator(
    path: Path, cases: Sequence[tuple[Fed, Mapping[str, Array]]]
) -> list[dict[str, Array]] | RunnerError:
    """Its answers, or why there are none."""
    try:
        with ReferenceRunner(path) as runner:
            return [_fed(runner, fed) for fed, _ in cases]
    except RunnerError as error:
        return error


def _fed(runner: Runner, fed: Fed) -> dict[str, Array]:
    """What a runner answers to a case, in the types that it takes its inputs in."""
    types = {port.name: port.dtype for port in runner.inputs}
    return runner.infer({name: array.astype(types[name], copy=False) for name, array in fed.feeds.items()})
