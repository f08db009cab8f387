"""(ONNX model, the same after the graph rules) → both module by module, with what the rules did in each."""

from __future__ import annotations

from collections.abc import Sequence

from aaexport.graph.files import OnnxModel
from aaexport.graph.optimize import ROOT, RuleReport
from aaexport.graph.parts import GraphPart, graph_parts, names_modules, operators_by_path
from aaexport.parts import Part


def compared_parts(before: OnnxModel, after: OnnxModel, rules: Sequence[RuleReport]) -> tuple[Part, ...]:
    """The parts in the order of the graph as it was; those of which nothing is left have no operator after.

    Of a file that names no modules only what is there afterwards is told: its stretches are others then.
    """
    known = names_modules(before)
    was = operators_by_path(before) if known else {}
    parts = {part.path: part for part in graph_parts(after)}
    paths = dict.fromkeys((*was, *parts))
    return tuple(_part(path, was.get(path, {}) if known else None, parts.get(path), rules) for path in paths)


def _part(path: str, before: dict[str, int] | None, after: GraphPart | None, rules: Sequence[RuleReport]) -> Part:
    called = path or ROOT
    applied = {rule.title: rule.where[called] for rule in rules if called in rule.where}
    left = tuple(f"{rule.title}: {rule.left[called]}" for rule in rules if called in rule.left)
    if after is None:
        return Part(path, before=before, after={}, applied=applied, left=left)
    return Part(
        path,
        kind=after.anchor if before is None else "",
        reads=after.reads,
        writes=after.writes,
        parameters=after.parameters,
        macs=after.macs,
        before=before,
        after=after.operators,
        applied=applied,
        left=left,
    )
