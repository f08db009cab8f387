"""ONNX file → ONNX file of the same function by faster operators, compared before it gets its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from aaexport.errors import GraphError, ParityError
from aaexport.graph.check import check_model, foreign_operators, is_valid
from aaexport.graph.digests import renew_digests
from aaexport.graph.files import OnnxModel, coarsest_type, file_digest, read_data_files, read_onnx
from aaexport.graph.metadata import record_rules
from aaexport.graph.on_cuda import foresee
from aaexport.graph.optimize import optimize_model
from aaexport.graph.outside import Room
from aaexport.graph.precision.kinds import record_origin
from aaexport.graph.precision.reduced import Reduced
from aaexport.graph.rules import FILE_RULES, within
from aaexport.graph.write import new_onnx
from aaexport.outcome import verb
from aaexport.overrides import overridden
from aaexport.parity import ParityReport
from aaexport.parity import tolerances as tolerances_of
from aaexport.pipeline.convert.compared_parts import compared_parts
from aaexport.pipeline.convert.comparison import compare_files
from aaexport.pipeline.convert.narrowed import judged, narrowed
from aaexport.pipeline.convert.options import OptimizeOptions, OptimizeOverrides, check_files
from aaexport.results import OptimizeResult


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

    The new file is compared with the old one, which runs with onnxruntime's own rewriting off, on `inputs` or on
    random ones: its error may not be more than a few times the one that onnxruntime's rewriting makes by itself. One
    in float16 may lose what the guard allows (`aaexport.parity.guard`), in onnx's evaluator too where that is fast.

    Args:
        source: an ONNX file, made by whatever tool; it stays as it is, unless `path` is the same.
        path: the file to write.
        options: for where the file is to run, and how it is compared.
        say: is told each step as it begins.
        overrides: fields of `OptimizeOptions` that are to be other than in `options`, or than their defaults.

    Raises:
        ArgumentError: an argument breaks its rule, or the inputs cannot be made up.
        DataError: `inputs` cannot be read, or are not those of the model.
        GraphError: `source` is not a whole ONNX model; for float16, or not in float32.
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
    first, then = within(FILE_RULES, options.max_attention_memory, options.target)
    parity = None
    with new_onnx(path) as new:
        with Room.beside(path) as room:
            rewritten, rules = optimize_model(model, target=options.target, rules=first, then=then, room=room)
            if not foreign_operators(model):
                _check(rewritten, model)
            record_rules(rewritten, {rule.title: rule.applied for rule in rules if rule.applied})
            renew_digests(rewritten, model)
            reduced = _reduced(rewritten, source, options, room, say)
            rewritten = reduced.model
            if reduced.reduced and not foreign_operators(model):
                _check(rewritten, model)
            on_cuda = foresee(rewritten) if options.target == "cuda" else None
            new.write(rewritten)
        if options.verify:
            say("comparing both files")
            parity = replace(_compared(model, source, new.path, options), onnx=str(path))
            if not parity.passed:
                failure = next(iter(parity.failures), "nothing was compared")
                raise ParityError(
                    f"{path} was not written, because it would compute something else: {failure}", parity
                )
    before, after = (Counter(node.op_type for node in each.graph.node) for each in (model, rewritten))
    counts = dict(before.most_common()), dict(after.most_common())
    return OptimizeResult(
        path, options.target, *counts, rules, parity, new.data, tuple(new.notes),
        dtype=options.dtype, reduced=reduced.reduced, kept=reduced.kept, on_cuda=on_cuda, source=source,
        parts=compared_parts(model, rewritten, rules),
    )  # fmt: skip


def _reduced(
    model: OnnxModel, source: Path, options: OptimizeOptions, room: Room, say: Callable[[str], None]
) -> Reduced:
    """The model in float16 if that is asked for, and as it is otherwise."""
    if options.dtype == "float32":
        return Reduced(model, (), ())
    say("finding what can be float16")
    reduced = narrowed(model, options, room)
    seen = {"inputs": "made up" if options.inputs is None else Path(options.inputs).name, "seed": options.seed}
    record_origin(reduced.model, file_digest(source, read_data_files(source)), seen)
    return reduced


def _compared(model: OnnxModel, source: Path, written: Path, options: OptimizeOptions) -> ParityReport:
    if options.dtype == "float16":
        return judged(model, source, written, options)
    tolerances = tolerances_of(coarsest_type(model), "cpu", options.atol, options.rtol)
    return compare_files(model, source, written, tolerances, options)


def _check(rewritten: OnnxModel, model: OnnxModel) -> None:
    """GraphError if the checker refuses what it did not refuse before the rules."""
    try:
        check_model(rewritten)
    except GraphError:
        if is_valid(model):
            raise
