"""OptimizeResult → one page: the file before and after, what each rule did where, and what was left and why."""

from __future__ import annotations

from aaexport.errors import first_few
from aaexport.graph.optimize import ROOT, RuleReport
from aaexport.report.model.figures import count, sheet
from aaexport.report.model.operators import before_and_after, by_kind, operators_table
from aaexport.report.model.parts import boxes
from aaexport.report.on_cuda import rows_on_cuda
from aaexport.report.optimize import compared, precision
from aaexport.report.page.markup import Html, element
from aaexport.report.page.page import card, facts, folded, halves, notes, page, table
from aaexport.results import OptimizeResult

PLACES = 8  # paths that are named of those where a rule was applied
GLOSSARY = {
    "operator": "a node of the graph: one step that a runtime computes, and one kernel that it calls",
    "graph rule": "a rewriting that leaves the function as it is; each is described in the documentation",
    "left alone": "what looked like a rule's own and was not rewritten, with the reason",
    "MACs": "multiplications with an addition, of convolutions and matrix products, for one image",
}


def optimize_html(result: OptimizeResult) -> str:
    """The page as text, to be written in UTF-8."""
    was, now = sum(result.before.values()), sum(result.after.values())
    return page(
        f"{result.path.name}: {was:,} operators → {now:,}",
        _heading(result, was, now),
        _verdict(result),
        _tiles(result, was, now),
        _picture(result),
        _applied(result),
        _left(result),
        _parts(result),
        _file(result),
        element("footer", folded("What the words mean", facts(GLOSSARY))),
        sheet=sheet(),
    )


def _heading(result: OptimizeResult, was: int, now: int) -> Html:
    source = "the file before" if result.source is None else result.source.name
    return element(
        "header",
        element("p", f"Rewritten for {result.target}, {result.date}", class_="kicker"),
        element("h1", f"{was:,} operators → {now:,}"),
        element("p", f"{source} → {result.path.name}: the same function by faster operators"),
    )


def _verdict(result: OptimizeResult) -> Html:
    kind, sign = ("mind", "!") if result.parity is None else ("good", "✓")
    said = "not compared (--no-verify)" if result.parity is None else compared(result)
    return element("div", element("strong", f"{sign} {said}"), class_=f"verdict {kind}")


def _tiles(result: OptimizeResult, was: int, now: int) -> Html:
    moved, moves = by_kind(result.before)["moves"], by_kind(result.after)["moves"]
    applied = [rule for rule in result.rules if rule.applied]
    left = sum(sum(rule.refused.values()) for rule in result.rules)
    tiles = [
        ("operators", f"{now:,}", f"before {was:,}" + (f", {1 - now / was:.0%} fewer" if now < was else "")),
        ("that only move numbers", f"{moves:,}", f"before {moved:,}"),
        (
            "rewritings",
            f"{sum(rule.applied for rule in applied):,}",
            f"by {len(applied)} of {len(result.rules)} rules",
        ),
        ("left alone", f"{left:,}", "near misses, each with its reason"),
    ]
    return element("dl", *(_tile(*tile) for tile in tiles), class_="tiles")


def _tile(name: str, value: str, behind: str) -> Html:
    return element("div", element("dt", name), element("dd", value), element("dd", behind, class_="dim"))


def _picture(result: OptimizeResult) -> Html:
    drawn, values = before_and_after(result.before, result.after), operators_table(result.before, result.after)
    return card("What became of the operators", drawn, folded("Operator by operator", values))


def _applied(result: OptimizeResult) -> Html:
    rows = [(rule.title, f"{rule.applied:,}", _where(rule)) for rule in result.rules if rule.applied]
    idle = [rule.title for rule in result.rules if not rule.applied and not rule.refused]
    found = (
        table("Rules that were applied", ("rule", "times", "where"), rows, words=("rule", "where")) if rows else None
    )
    nothing = None if rows else element("p", "No rule found anything to rewrite.")
    small = notes([f"Looked for, and nothing of the kind found: {'; '.join(idle)}." if idle else None])
    return card("What the rules recognised", nothing, found, small)


def _where(rule: RuleReport) -> str:
    """By the paths of modules; the rest is where the file names none."""
    elsewhere = rule.applied - sum(rule.where.values())
    places = [
        (path if path != ROOT else "the model itself") + (f" ({times} ×)" if times > 1 else "")
        for path, times in rule.where.items()
    ]
    if not places:
        return "not named in the file"
    return first_few(places, PLACES) + (f"; {elsewhere} × elsewhere" if elsewhere > 0 else "")


def _left(result: OptimizeResult) -> Html | None:
    """The near misses, as the terminal tells them, with the modules where the file names them."""
    lines = []
    for rule in result.rules:
        for reason, times in rule.refused.items():
            places = [path for path, reasons in rule.left.items() if reason in reasons]
            where = element("span", f"In {first_few(places, PLACES)}.", class_="dim") if places else None
            title = element("strong", f"{times:,} × {rule.title}:")
            lines.append(element("li", title, Html(" "), f"{reason}.", Html(" "), where))
    if not lines:
        return None
    return card("What was left alone", element("ul", *lines, class_="near"))


def _parts(result: OptimizeResult) -> Html | None:
    if not result.parts:
        return None
    named = any(part.before is not None for part in result.parts)
    how = (
        "Module by module, as the file names them" if named else "The file names no modules: from product to product"
    )
    small = notes([f"{how}. Bars have one scale; a gray one is what it was before."])
    return card("Where it happened", small, boxes(result.parts, named=named))


def _file(result: OptimizeResult) -> Html:
    rows = {
        "file": str(result.path),
        **({} if result.data_file is None else {"data": str(result.data_file)}),
        **precision(result),
        **{name: str(value) for name, value in rows_on_cuda(result.on_cuda).items()},
        "comparison": compared(result),
        "parameters": f"{count(sum(part.parameters for part in result.parts))} numbers in the file",
        **({"notes": "; ".join(result.notes)} if result.notes else {}),
        **({"command": result.command} if result.command else {}),
    }
    return halves(card("The file", facts(rows)))
