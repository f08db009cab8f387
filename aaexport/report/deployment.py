"""DeployResult → what a person reads: each check, then the files."""

from __future__ import annotations

from rich.console import Group, RenderableType

from aaexport.report.layout import Facts, Table, Words
from aaexport.results import DeployResult


def deploy_view(result: DeployResult) -> RenderableType:
    """One row a check; the folder below."""
    rows = [(check.name, "PASS" if check.passed else "FAIL", check.found) for check in result.checks]
    checks = Table(("check", "", "what was found"), rows, texts=(0, 1), prose=True)
    facts = {
        "folder": f"{result.path} ({sum(result.files.values()) / 1e6:.2f} MB)",
        "model": f"{result.model} for {result.target}",
        "files": _files(result),
        **({"replaced": ", ".join(result.replaced)} if result.replaced else {}),
        **({"note": "\n".join(result.notes)} if result.notes else {}),
    }
    return Group(checks, Words(), Facts(facts))


def _files(result: DeployResult) -> str:
    """Those at the top, and how many lie below."""
    top = [name for name in result.files if "/" not in name]
    below = sorted({name.split("/")[0] for name in result.files if "/" in name})
    count = len(result.files) - len(top)
    return ", ".join([*top, *(f"{folder}/" for folder in below)]) + f": {count} in folders, {len(top)} beside them"
