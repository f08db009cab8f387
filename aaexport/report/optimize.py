"""OptimizeResult → what a person reads: what was applied, and why the rest was not."""

from __future__ import annotations

from rich.console import Group, RenderableType

from aaexport.report.layout import Cell, Facts, Table, Words
from aaexport.report.on_cuda import rows_on_cuda
from aaexport.report.parity.guard import guard_verdict
from aaexport.report.parity.wording import scientific
from aaexport.report.terminal import beside, histogram
from aaexport.results import OptimizeResult

KEPT = 10  # nodes that are told with their reasons


def optimize_view(result: OptimizeResult) -> RenderableType:
    """One row a rule, then the file."""
    table = [
        (
            rule.title,
            str(rule.applied) if rule.applied else "–",
            "\n".join(f"{count} × {reason}" for reason, count in rule.refused.items()),
        )
        for rule in result.rules
    ]
    rows: dict[str, Cell] = {
        "file": str(result.path),
        **({} if result.data_file is None else {"data": beside(result.data_file)}),
        "before": histogram(result.before),
        "after": histogram(result.after),
        **precision(result),
        **rows_on_cuda(result.on_cuda),
        "comparison": compared(result),
        **({"note": "\n".join(result.notes)} if result.notes else {}),
    }
    rules = Table(("rule", "applied", "left alone, because"), table, prose=True)
    return Group(rules, Words(), Facts(rows))


def precision(result: OptimizeResult) -> dict[str, str]:
    """How many nodes are in another type, and which are not; empty for a file in float32."""
    if result.dtype == "float32":
        return {}
    shown = [f"{kept.layer}: {kept.reason}" for kept in result.kept[:KEPT]]
    rest = len(result.kept) - len(shown)
    more = [f"and {rest} more (--json has them)"] if rest > 0 else []
    kept = {"kept": "\n".join([*shown, *more])} if shown else {}
    return {result.dtype: f"{len(result.reduced)} nodes, {len(result.kept)} stay in float32", **kept}


def compared(result: OptimizeResult) -> str:
    """What came of the comparison."""
    if result.parity is None:
        return "none (--no-verify)"
    if result.parity.guard is not None:
        return f"PASS: {guard_verdict(result.parity.guard)}"
    largest = max((output.baseline_max_abs_error or 0.0 for output in result.parity.outputs), default=0.0)
    return (
        f"PASS: largest difference {scientific(result.parity.max_abs_error)}; "
        f"onnxruntime's own rewriting of the first file makes {scientific(largest)}"
    )
