"""(ONNX file, the same rewritten) → ParityReport: do both answer alike, to inputs that are given or made up?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aaexport.errors import ArgumentError, DataError, RunnerError, broken_rule, first_few, first_line, parameter
from aaexport.graph.files import OnnxModel
from aaexport.graph.given_arrays import NUMBERED, read_npz, read_tensors
from aaexport.graph.meaning import meaningful_inputs
from aaexport.parity import Array, Case, Computation, OutputParity, ParityReport, Tolerances, Truth, compare, failed
from aaexport.pipeline.convert.options import OptimizeOptions
from aaexport.runners.base import Port
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import AS_WRITTEN

BATCHES = (1, 3)
LARGER_BATCH = 17  # shows what is cut into parts of 4, 8 or 16 images, which smaller ones fill once at most
LARGER_NUMBERS = 2**22  # in all inputs, up to which the larger batch is compared too
RUNTIME = "onnxruntime"
NAMED = 5
REMEDY = (
    f"pass {parameter('inputs')} that mean something to the model, or use --no-verify and compare the files yourself"
)


@dataclass(frozen=True)
class Fed:
    """A case's name, and what is fed; `is_optional` where the model itself may refuse it."""

    name: str
    feeds: Mapping[str, Array]
    is_given: bool = False
    is_optional: bool = False


def compare_files(
    model: OnnxModel, source: Path, written: Path, tolerances: Tolerances, options: OptimizeOptions
) -> ParityReport:
    """Judges `written` by `source`, whose model is at hand and which runs with onnxruntime's own rewriting off.

    Raises:
        ArgumentError: inputs cannot be made up, or what comes of them cannot be compared.
        DataError: the inputs that are given cannot be read, or are not those of the model.
        RunnerError: onnxruntime cannot run the model.
    """
    outputs: list[OutputParity] = []
    with OrtRunner(source, AS_WRITTEN) as plain, OrtRunner(source) as own, _rewritten(written) as new:
        for fed in cases_of(model, plain.inputs, options):
            try:
                expected = plain.infer(fed.feeds)
            except RunnerError as error:
                if fed.is_optional:
                    continue  # the given file takes no batch of that size itself: there is nothing to compare
                raise meaningless(error, fed) from error
            baseline = own.infer(fed.feeds)
            try:
                actual = new.infer(fed.feeds)
            except RunnerError as error:
                outputs += failed(fed.name, expected, str(error))
                continue
            outputs += _judged(fed, expected, baseline, actual, tolerances)
        if outputs and not any(output.compared for output in outputs):
            raise ArgumentError(broken_rule("the outputs", "hold numbers to be compared", "none", REMEDY))
        row = Computation(new.label, "graph rules", tolerances.common, tuple(outputs))
        return ParityReport(str(written), (row,), baseline=RUNTIME, seed=options.seed)


def _rewritten(path: Path) -> OrtRunner:
    """RunnerError for a file that onnxruntime does not load although it loads the one that it was made of."""
    try:
        return OrtRunner(path)
    except RunnerError as error:
        raise RunnerError(f"the rewritten file must load as the given one does, but: {error}") from error


def meaningless(error: RunnerError, fed: Fed) -> RunnerError:
    """The error of a model that cannot run on what it was fed, with the remedy where that was made up."""
    if fed.is_given:
        return error
    return RunnerError(f"{error}; numbers that were made up may mean nothing to the model: {REMEDY}")


def cases_of(model: OnnxModel, ports: Sequence[Port], options: OptimizeOptions) -> Iterator[Fed]:
    """What a model with these inputs is fed: the inputs that are given, or made-up ones.

    Raises:
        ArgumentError: inputs cannot be made up.
        DataError: the inputs that are given cannot be read, or are not those of the model.
    """
    if options.inputs is None:
        return _made_up(model, ports, options.seed)
    return _given(Path(options.inputs), ports)


# Judging


def _judged(
    fed: Fed,
    expected: Mapping[str, Array],
    baseline: Mapping[str, Array],
    actual: Mapping[str, Array],
    tolerances: Tolerances,
) -> Iterator[OutputParity]:
    _require_comparable(expected, must_be_finite=not fed.is_given)
    case = Case(fed.name, next(iter(fed.feeds.values()), np.zeros(0, np.float32)), made_up=True)
    for output in compare(Truth(case, expected, baseline, {}), actual, tolerances, whose=RUNTIME):
        truth, found = expected.get(output.output), actual.get(output.output)
        if truth is not None and found is not None:
            yield _in_this_case(fed, output, truth, found)
        else:
            yield output


def _in_this_case(fed: Fed, output: OutputParity, truth: Array, found: Array) -> OutputParity:
    """The verdict on an output that is there, with what is as empty or as infinite as it must be.

    That is right, and for inputs that somebody gave it is evidence too; not for those that were made up.
    """
    if not truth.size and (found.shape, found.dtype) == (truth.shape, truth.dtype):
        return OutputParity(fed.name, output.output, None, compared=fed.is_given)
    if not fed.is_given or not output.passed:
        return output
    kinds = (np.isnan, np.isposinf, np.isneginf) if truth.dtype.kind == "f" else ()
    if not all(np.array_equal(kind(truth), kind(found)) for kind in kinds):
        return replace(output, failure=f"NaN and infinity must be where they are in {RUNTIME}'s, got others")
    return replace(output, compared=True, warning=None)


def _require_comparable(expected: Mapping[str, Array], *, must_be_finite: bool) -> None:
    for name, array in expected.items():
        if array.dtype.kind not in "fiub":
            remedy = "use --no-verify, and compare the files yourself"
            raise ArgumentError(broken_rule(f"output {name}", "be numbers to be compared", array.dtype, remedy))
        if must_be_finite and not np.isfinite(array).all():
            rule = "be finite for random inputs to be compared"
            raise ArgumentError(broken_rule(f"output {name} of the first file", rule, "NaN or infinity", REMEDY))


# Inputs that are made up


def _made_up(model: OnnxModel, ports: Sequence[Port], seed: int) -> Iterator[Fed]:
    if not ports:
        yield Fed("no inputs", {})
        return
    rng = np.random.default_rng(seed)
    fixed = any(port.shape[0] is not None for port in ports if port.shape)
    for batch in (1,) if fixed else _batches(ports):
        shapes = {port.name: _sizes(port, batch) for port in ports}
        meant = meaningful_inputs(model, shapes, np.random.default_rng(seed))
        feeds = {
            port.name: meant[port.name].astype(port.dtype) if port.name in meant else _random(port, shapes, rng)
            for port in ports
        }
        yield Fed(f"random, batch {batch}", feeds, is_optional=batch == LARGER_BATCH)


def _batches(inputs: Sequence[Port]) -> tuple[int, ...]:
    numbers = sum(math.prod(LARGER_BATCH if size is None else size for size in port.shape) for port in inputs)
    return (*BATCHES, LARGER_BATCH) if numbers <= LARGER_NUMBERS else BATCHES


def _sizes(port: Port, batch: int) -> tuple[int, ...]:
    if None in port.shape[1:]:
        raise ArgumentError(broken_rule(f"input {port.name}", "be dynamic in the batch only", port.shape, REMEDY))
    return tuple(batch if size is None else size for size in port.shape)


def _random(port: Port, shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> Array:
    """Normal numbers, or 0 and 1 where the input wants integers."""
    if np.issubdtype(port.dtype, np.floating):
        return rng.standard_normal(shapes[port.name]).astype(port.dtype)
    return rng.integers(0, 2, shapes[port.name]).astype(port.dtype)


# Inputs that are given


def _given(path: Path, ports: Sequence[Port]) -> Iterator[Fed]:
    names = [port.name for port in ports]
    if path.is_dir():
        numbered = [
            folder for folder in (path, *sorted(path.iterdir())) if folder.is_dir() and any(folder.glob(NUMBERED))
        ]
        sets = [(folder.name, read_tensors(folder, names)) for folder in numbered]
        sets += [(file.name, _arrays(file)) for file in sorted(path.glob("*.npz"))]
    else:
        sets = [(path.name, _arrays(path))]
    if not sets and names:
        rule = f"hold .npz files, {NUMBERED} or folders of those"
        raise DataError(broken_rule("inputs", rule, f"none in {path}"))
    for name, arrays in sets or [(path.name, {})]:
        for port in ports:
            _require_fit(port, arrays, name)
        if unknown := sorted(arrays.keys() - set(names)):
            rule = f"be those of the model ({first_few(names, NAMED) or 'none'})"
            raise DataError(broken_rule(f"{parameter('inputs')} of {name}", rule, first_few(unknown, NAMED)))
        yield Fed(name, arrays, is_given=True)


def _arrays(path: Path) -> dict[str, Array]:
    try:
        return read_npz(path)
    # numpy, zipfile and zlib each raise their own: there is no common base.
    except Exception as error:
        raise DataError(f"inputs must be whole, but {path} cannot be read: {first_line(error)}") from error


def _require_fit(port: Port, arrays: Mapping[str, Array], where: str) -> None:
    called = f"{parameter('inputs')} of {where}"
    array = arrays.get(port.name)
    if array is None:
        raise DataError(broken_rule(called, f"hold {port.name}", first_few(sorted(arrays), NAMED) or "nothing"))
    if array.dtype != port.dtype:
        raise DataError(broken_rule(called, f"be {port.dtype} for {port.name}", array.dtype))
    fits = len(array.shape) == len(port.shape) and all(
        want in (None, got) for got, want in zip(array.shape, port.shape, strict=True)
    )
    if not fits:
        raise DataError(broken_rule(called, f"have the shape {port.shape} for {port.name}", array.shape))
