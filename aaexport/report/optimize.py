"""OptimizeResult → what a person reads: what was applied, and why the rest was not."""

from __future__ import annotations

from rich.console import Group, RenderableType

from aaexport.report.parity.wording import scientific
from aaexport.report.terminal import facts, histogram, new_table
from aaexport.results import OptimizeResult


def optimize_view(result: OptimizeResult) -> RenderableType:
    """One row a rule, then the file."""
    rules = new_table("rule", "applied", "left alone, because")
    for rule in result.rules:
        reasons = "\n".join(f"{count} × {reason}" for reason, count in rule.refused.items())
        rules.add_row(rule.title, str(rule.applied) if rule.applied else "–", reasons)
    rows = {
        "file": str(result.path),
        "before": histogram(result.before),
        "after": histogram(result.after),
        "comparison": _comparison(result),
    }
    return Group(rules, facts(rows))


def _comparison(result: OptimizeResult) -> str:
    if result.parity is None:
        return "none (--no-verify)"
    largest = max((output.baseline_max_abs_error or 0.0 for output in result.parity.outputs), default=0.0)
    return (
        f"PASS: largest difference {scientific(result.parity.max_abs_error)}; "
        f"onnxruntime's own rewriting of the first file makes {scientific(largest)}"
    )
