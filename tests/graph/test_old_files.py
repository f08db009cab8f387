"""What the rules make of files of old exporters, and of branches, is valid."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aaexport.graph.check import check_model
from aaexport.graph.optimize import optimize_model
from aaexport.graph.rules import FILE_RULES

FLOAT = TensorProto.FLOAT


def value(name, *shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs, constants, *, ir_version):
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "small", inputs, [value("y", 2, 3)], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=ir_version)


def test_a_file_in_which_initializers_are_inputs_gets_others_in_a_newer_format():
    """Whose weights are no inputs any more: a runtime would not fold what may be given from outside."""
    inputs = [value("x", 2, 2, 3, 4), value("w", 3, 2, 1, 1), value("b", 3), value("s")]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("Mul", ["c", "s"], ["m"]),
        helper.make_node("ReduceMax", ["m"], ["y"], axes=[2, 3], keepdims=0),
    ]
    constants = {
        "w": np.ones((3, 2, 1, 1), np.float32), "b": np.ones(3, np.float32), "s": np.array(2, np.float32),
    }  # fmt: skip
    before = model(nodes, inputs, constants, ir_version=3)
    check_model(before)
    unchanged = before.SerializeToString()
    after, rules = optimize_model(before, rules=FILE_RULES)
    check_model(after)
    assert before.SerializeToString() == unchanged
    assert after.ir_version == 4
    assert [each.name for each in after.graph.input] == ["x"]
    assert sum(rule.applied for rule in rules) == 1


def test_a_branch_answers_with_what_lies_outside():
    """By an Identity, which is not in vain there."""
    branches = {
        f"{name}_branch": helper.make_graph(nodes, name, [], [value(f"{name}_y", 2, 3)])
        for name, nodes in {
            "then": [helper.make_node("Identity", ["outside"], ["then_y"])],
            "else": [helper.make_node("Neg", ["outside"], ["n"]), helper.make_node("Identity", ["n"], ["else_y"])],
        }.items()
    }
    nodes = [
        helper.make_node("Sin", ["x"], ["s"]),
        helper.make_node("Identity", ["s"], ["outside"]),
        helper.make_node("If", ["c"], ["y"], **branches),
    ]
    before = model(nodes, [value("x", 2, 3), value("c", kind=TensorProto.BOOL)], {}, ir_version=8)
    check_model(before)
    after, _ = optimize_model(before, rules=FILE_RULES)
    check_model(after)
    assert [node.op_type for node in after.graph.node] == ["Sin", "If"]
    (found,) = (node for node in after.graph.node if node.op_type == "If")
    kinds = {each.name: [node.op_type for node in each.g.node] for each in found.attribute}
    assert kinds == {"then_branch": ["Identity"], "else_branch": ["Neg"]}
    session_inputs = {"x": np.ones((2, 3), np.float32), "c": np.array(True)}
    for each in (True, False):
        session_inputs["c"] = np.array(each)
        answers = [onnx.reference.ReferenceEvaluator(one).run(None, session_inputs)[0] for one in (before, after)]
        np.testing.assert_array_equal(*answers)
