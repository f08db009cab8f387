"""Rules are tried where they can match, and nowhere else."""

from types import SimpleNamespace

import onnx_ir as ir
import pytest
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

from aaexport.graph.hurried import hurried


def model():
    x = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
    one, two = ir.node("Neg", [x]), ir.node("Identity", [x])
    three = ir.node("Neg", [one.outputs[0]])
    y = ir.node("Add", [three.outputs[0], two.outputs[0]])
    graph = ir.Graph([x], y.outputs, nodes=[one, two, three, y], opset_imports={"": 20}, name="g")
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("is_hurried", [False, True])
def test_a_rule_does_the_same_on_fewer_nodes(monkeypatch, is_hurried):
    looked = []
    rules = [
        RewriteRule(lambda op, x: op.Neg(op.Neg(x)), lambda op, x: op.Identity(x)),
        RewriteRule(lambda op, x, y: op.Add(op.Identity(x), y), lambda op, x, y: op.Sub(x, op.Neg(y))),
    ]
    match = RewriteRule.match
    monkeypatch.setattr(
        RewriteRule,
        "match",
        lambda rule, *given, **how: looked.append(given[2].op_type) or match(rule, *given, **how),
    )
    together = RewriteRuleSet(rules, commute=True)
    for rule in together if is_hurried else ():
        hurried(rule)
    graph = model()
    assert together.apply_to_model(graph) == 2
    assert sorted(node.op_type for node in graph.graph) == ["Identity", "Neg", "Sub"]
    assert ("Identity" in looked) != is_hurried
    assert {"Neg", "Add"} <= set(looked)


@pytest.mark.parametrize(
    "pattern",
    [None, SimpleNamespace(has_single_output_node=False), SimpleNamespace(has_single_output_node=True), object()],
)
def test_rules_of_another_kind_or_version_are_left_as_they_are(pattern):
    rule = SimpleNamespace(_target_pattern=pattern, try_rewrite=len)
    hurried(rule)
    assert rule.try_rewrite is len
