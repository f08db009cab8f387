"""ParityReport → the sentences that every format says, so that none says it differently."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from aaexport.errors import first_few
from aaexport.parity import (
    STAGES,
    Computation,
    Divergence,
    ErrorStep,
    OutputParity,
    ParityReport,
    Placement,
    TensorFacts,
)
from aaexport.report.parity.guard import guard_circumstances, guard_verdict
from aaexport.report.parity.matrix import batches

LINES_SHOWN = 10
NODES_SHOWN = 8


def scientific(value: float | None) -> str:
    """Two digits, or a dash."""
    return "–" if value is None else f"{value:.1e}"


def verdict(report: ParityReport) -> str:
    """PASS or FAIL, and how clearly."""
    if not report.passed:
        return f"FAIL: {_count_of_failures(report)}"
    if report.guard is not None:
        return f"PASS: {guard_verdict(report.guard)}"
    error = f"PASS: largest error {scientific(report.max_abs_error)} against float64"
    ratio = report.max_error_ratio
    if ratio is None:
        return error
    return f"{error}, at most {ratio:.1f} × {report.baseline}'s own (allowed {_allowed(report, ratio)})"


def failures(report: ParityReport) -> list[str]:
    """What is wrong with the file itself, then a line a computation: its first failure, and how many more."""
    wrong = [(done.failures[0], len(done.failures) - 1) for done in report.computations if done.failures]
    lines = [f"{first}; and {more} more (see --json)" if more else first for first, more in wrong]
    lost = () if report.guard is None else report.guard.failures
    return _first([*report.structure, *lines, *lost, *(report.warnings if report.strict else ())])


def warnings(report: ParityReport) -> list[str]:
    """The same of those that are not failures already."""
    return [] if report.strict else _first(report.warnings)


def circumstances(report: ParityReport) -> list[str]:
    """What was tried, the figures that are no errors, and where the nodes ran."""
    if report.guard is not None:
        return [*guard_circumstances(report.guard), *_first(list(_kept(report)))]
    sizes = ", ".join(map(str, batches(report)))
    tried = [f"batches tried: {sizes}; seed {report.seed}"] if sizes else []
    return [*tried, *_likeness(report), *_accuracy(report), *_placement(report.placement)]


def broken_stage(report: ParityReport) -> str | None:
    """The first stage that went wrong, in words."""
    stage = None if report.passed else report.broken_stage
    return None if stage is None else f"broken stage: {stage}: {STAGES[stage]}"


def divergence_title(divergence: Divergence) -> str:
    """Where it went wrong."""
    return f"first diverging node: {divergence.node} ({divergence.operator})"


def divergence_facts(divergence: Divergence) -> dict[str, str]:
    """What is known of it, by name."""
    return {
        "of the module": divergence.module or "not known",
        "tensor": divergence.output,
        "inputs": divergence.case,
        "compared with": divergence.compared_with,
        "relative error": scientific(divergence.relative_error),
    }


def tensor_rows(divergence: Divergence) -> Iterator[tuple[str, str, str]]:
    """What the tensor's `fact` should be, and what it is."""
    expected, actual = map(_facts, (divergence.expected, divergence.actual))
    yield from ((fact, expected[fact], actual[fact]) for fact in expected)


def growth_row(step: ErrorStep) -> tuple[str, str, str, str]:
    """Node, operator, module, relative error."""
    return step.node, step.operator, step.module or "–", scientific(step.relative_error)


def _kept(report: ParityReport) -> Iterator[str]:
    """What stayed in float32, a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for each in report.kept:
        by_reason.setdefault(each.reason, []).append(f"{each.path or each.node} ({each.operator})")
    for reason, names in by_reason.items():
        yield f"in float32: {first_few(list(dict.fromkeys(names)), NODES_SHOWN)}: {reason}"


def _first(lines: Sequence[str]) -> list[str]:
    hidden = len(lines) - LINES_SHOWN
    return [*lines[:LINES_SHOWN], *([f"… and {hidden} more (see --json)"] if hidden > 0 else [])]


def _count_of_failures(report: ParityReport) -> str:
    count = len(report.failures)
    if not count:
        return "nothing was compared"
    strict = len(report.warnings) if report.strict else 0
    counted = f", {strict} of them warnings (--strict)" if strict else ""
    return f"{count} failure{'s' if count > 1 else ''}{counted}"


def _allowed(report: ParityReport, ratio: float) -> str:
    """By the tolerance of the computation that made this ratio."""
    row = next(computation.tolerance for computation, output in _ordinary(report) if output.error_ratio == ratio)
    return f"{row.ratio:g} ×" if ratio <= row.ratio else f"{row.ratio:g} ×, or {row.floor_ulps:g} ulp"


def _ordinary(report: ParityReport) -> Iterator[tuple[Computation, OutputParity]]:
    """What the largest error and ratio of the report are taken from."""
    for computation in report.computations:
        if computation.stage != "TF32":
            yield from ((computation, output) for output in computation.outputs if not output.extreme)


def _likeness(report: ParityReport) -> Iterator[str]:
    """The worst of each statistic."""
    ordinary = [output for _, output in _ordinary(report)]
    figures = {
        "cosine {:.9f}": _least(o.cosine for o in ordinary),
        "SQNR {:.0f} dB": _least(o.sqnr_db for o in ordinary),
        "top-1 same {:.1%}": _least(o.top1_agreement for o in ordinary),
        "top-5 same {:.1%}": _least(o.top5_agreement for o in ordinary),
    }
    said = [words.format(figure) for words, figure in figures.items() if figure is not None]
    if said:
        yield f"worst of ordinary inputs: {', '.join(said)}"


def _accuracy(report: ParityReport) -> Iterator[str]:
    if report.accuracy is not None:
        images, torch, runner = report.accuracy.images, report.accuracy.torch, report.accuracy.runner
        served = report.computations[-1].name if report.computations else "the file"
        yield f"accuracy on {images} held-out images: {torch:.2%} in PyTorch, {runner:.2%} in {served}"


def _placement(placement: Placement | None) -> Iterator[str]:
    """Nothing if the file ran where every file does, on the CPU."""
    if placement is None or (placement.provider.startswith("CPU") and not placement.on_cpu):
        return
    yield "nodes: " + ", ".join(f"{count} on {provider}" for provider, count in placement.nodes.items())
    if placement.on_cpu:
        yield f"fell back to the CPU: {first_few(placement.on_cpu, NODES_SHOWN)}"


def _facts(tensor: TensorFacts) -> dict[str, str]:
    figures = {name: getattr(tensor, name) for name in ("smallest", "largest", "mean", "std")}
    return {
        "dtype": tensor.dtype,
        "shape": "×".join(map(str, tensor.shape)) or "scalar",
        **{name: "–" if figure is None else f"{figure:.4g}" for name, figure in figures.items()},
        "not finite": str(tensor.not_finite),
    }


def _least(figures: Iterable[float | None]) -> float | None:
    return min((figure for figure in figures if figure is not None), default=None)
