"""ONNX file → ONNX file of the same function by faster operators, compared before it gets its name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np

from aaexport.errors import ArgumentError, ParityError, RunnerError, broken_rule
from aaexport.graph.check import check_model, foreign_operators
from aaexport.graph.digests import renew_digests
from aaexport.graph.files import coarsest_type, read_onnx, write_onnx
from aaexport.graph.metadata import record_rules
from aaexport.graph.optimize import optimize_model
from aaexport.graph.rules import FILE_RULES, within
from aaexport.outcome import verb
from aaexport.overrides import overridden
from aaexport.parity import Array, Case, Computation, OutputParity, ParityReport, Tolerances, Truth, compare
from aaexport.parity import tolerances as tolerances_of
from aaexport.pipeline.convert.options import OptimizeOptions, OptimizeOverrides, check_files
from aaexport.results import OptimizeResult
from aaexport.runners.base import Port
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import AS_WRITTEN
from aaexport.writing import atomic_path

BATCHES = (1, 3)
LARGER_BATCH = 17  # shows what is cut into parts of 4, 8 or 16 images, which smaller ones fill once at most
LARGER_NUMBERS = 2**22  # in all inputs, up to which the larger batch is compared too
RUNTIME = "onnxruntime"


@verb
def optimize(
    source: str | Path,
    path: str | Path,
    *,
    options: OptimizeOptions | None = None,
    say: Callable[[str], None] = lambda step: None,
    **overrides: Unpack[OptimizeOverrides],
) -> OptimizeResult:
    """Applies the graph rules that pay on `target` to any ONNX file, and writes the result to `path`.

    The new file is compared with the old one, which runs with onnxruntime's own rewriting off, on random inputs: its
    error may not be more than a few times the one that onnxruntime's rewriting makes by itself.

    Args:
        source: an ONNX file, made by whatever tool; it stays as it is, unless `path` is the same.
        path: the file to write.
        options: for where the file is to run, and how it is compared.
        say: is told each step as it begins.
        overrides: fields of `OptimizeOptions` that are to be other than in `options`, or than their defaults.

    Raises:
        ArgumentError: an argument breaks its rule, or the inputs cannot be made up.
        GraphError: `source` is not a whole ONNX model.
        RunnerError: onnxruntime cannot run it.
        ParityError: the new file computes something else; an older file at `path` is untouched.
        FolderError: `path` cannot be written.
    """
    source, path = Path(source), Path(path)
    options = overridden(options or OptimizeOptions(), overrides, optimize)
    options.check()
    check_files(source, path)
    model = read_onnx(source)
    say("applying the graph rules")
    first, then = within(FILE_RULES, options.max_attention_memory)
    rewritten, rules = optimize_model(model, target=options.target, rules=first, then=then)
    if not foreign_operators(model):
        check_model(rewritten)
    record_rules(rewritten, {rule.title: rule.applied for rule in rules if rule.applied})
    renew_digests(rewritten, model)
    parity = None
    with atomic_path(path) as temporary:
        write_onnx(rewritten, temporary)
        if options.verify:
            say("comparing both files")
            tolerances = tolerances_of(coarsest_type(model), "cpu", options.atol, options.rtol)
            parity = replace(_compare(source, temporary, tolerances, options.seed), onnx=str(path))
            if not parity.passed:
                failure = next(iter(parity.failures), "nothing was compared")
                raise ParityError(
                    f"{path} was not written, because it would compute something else: {failure}", parity
                )
    before, after = (Counter(node.op_type for node in each.graph.node) for each in (model, rewritten))
    return OptimizeResult(path, options.target, dict(before.most_common()), dict(after.most_common()), rules, parity)


def _compare(source: Path, written: Path, tolerances: Tolerances, seed: int) -> ParityReport:
    outputs: list[OutputParity] = []
    with OrtRunner(source, AS_WRITTEN) as plain, OrtRunner(source) as own, OrtRunner(written) as new:
        rng = np.random.default_rng(seed)
        fixed = any(port.shape[0] is not None for port in plain.inputs if port.shape)
        for batch in (1,) if fixed else _batches(plain.inputs):
            feeds = {port.name: _made_up(port, batch, rng) for port in plain.inputs}
            try:
                expected = plain.infer(feeds)
            except RunnerError:
                if batch != LARGER_BATCH:
                    raise
                continue  # the given file takes no batch of that size itself, so that there is nothing to compare
            baseline, actual = own.infer(feeds), new.infer(feeds)
            _require_comparable(expected)
            case = Case(f"random, batch {batch}", next(iter(feeds.values())))
            outputs += compare(Truth(case, expected, baseline, {}), actual, tolerances, whose=RUNTIME)
        row = Computation(new.label, "graph rules", tolerances.common, tuple(outputs))
        return ParityReport(str(written), (row,), baseline=RUNTIME, seed=seed)


def _batches(inputs: Sequence[Port]) -> tuple[int, ...]:
    numbers = sum(math.prod(LARGER_BATCH if size is None else size for size in port.shape) for port in inputs)
    return (*BATCHES, LARGER_BATCH) if numbers <= LARGER_NUMBERS else BATCHES


def _require_comparable(expected: Mapping[str, Array]) -> None:
    remedy = "use --no-verify, and compare the files yourself"
    for name, array in expected.items():
        if array.dtype.kind not in "fiub":
            raise ArgumentError(broken_rule(f"output {name}", "be numbers to be compared", array.dtype, remedy))
        if not np.isfinite(array).all():
            rule = "be finite for random inputs to be compared"
            raise ArgumentError(broken_rule(f"output {name} of the first file", rule, "NaN or infinity", remedy))


def _made_up(port: Port, batch: int, rng: np.random.Generator) -> Array:
    """Normal numbers, or 0 and 1 where the input wants integers."""
    if None in port.shape[1:]:
        rule, remedy = "be dynamic in the batch only", "use --no-verify, and compare the files yourself"
        raise ArgumentError(broken_rule(f"input {port.name}", rule, port.shape, remedy))
    sizes = [batch if size is None else size for size in port.shape]
    if np.issubdtype(port.dtype, np.floating):
        return rng.standard_normal(sizes).astype(port.dtype)
    return rng.integers(0, 2, sizes).astype(port.dtype)
