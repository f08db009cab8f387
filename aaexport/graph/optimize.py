"""ONNX model → the same function by faster operators, and a report of which rule did what, and why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx import shape_inference
from onnx_ir.passes import PassManager
from onnx_ir.passes.common import IdentityEliminationPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass
from onnxscript.rewriter import RewriteRule, RewriteRuleSet
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    reshape_reshape_rule,
)

from aaexport.device import Target
from aaexport.errors import GraphError, first_line
from aaexport.graph.rules import RULES, GraphRule

MAX_ROUNDS = 10  # rules make each other possible; three rounds were the most that any model needed
# The library's own, which finish what ours begin.
FINISHING = (fuse_batchnorm_into_conv_rule, reshape_reshape_rule)
TIDYING = PassManager((IdentityEliminationPass(), RemoveUnusedNodesPass(), RemoveUnusedOpsetsPass()))


@dataclass(frozen=True)
class RuleReport:
    """What one rule did: how often it was applied, and how often it was refused for which reason."""

    title: str
    applied: int
    refused: dict[str, int]


def optimize_model(
    model: onnx.ModelProto, *, target: Target = "cpu", rules: Sequence[type[GraphRule]] = RULES
) -> tuple[onnx.ModelProto, tuple[RuleReport, ...]]:
    """Applies every one of `rules` that pays on `target` wherever it can be applied; `model` stays as it is.

    Raises:
        GraphError: the shapes of `model` contradict each other.
    """
    graph = ir.serde.deserialize_model(_with_shapes(model))
    bound = [rule(target) for rule in rules]
    applied: Counter[str] = Counter()
    for _ in range(MAX_ROUNDS):
        counts = {rule.title: _apply(rule, graph) for rule in bound}
        applied.update(counts)
        if not any(counts.values()):
            break
    TIDYING(graph)
    reports = tuple(RuleReport(r.title, applied[r.title], dict(Counter(r.refusals.values()))) for r in bound)
    return ir.serde.serialize_model(graph), reports


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return shape_inference.infer_shapes(model, data_prop=True)
    except shape_inference.InferenceError as error:
        raise GraphError(f"the shapes of the model must fit each other, but: {first_line(error)}") from error


def _apply(rule: GraphRule, graph: ir.Model) -> int:
    rule.refusals.clear()  # those of the last round are what is left
    rewriting = RewriteRule(rule.pattern, rule.rewrite, rule.check, name=rule.title, remove_nodes=False)
    count: int = RewriteRuleSet([rewriting], commute=rule.commutes).apply_to_model(graph)
    if count:
        RewriteRuleSet(FINISHING).apply_to_model(graph)
    return count
