"""How many bytes of a model's tensors are alive at a time; and onnx's evaluator, which frees them likewise."""

import weakref

import numpy as np
import onnx
import pytest
from graphs import graph
from onnx import TensorProto, helper
from onnx.reference.ops.op_relu import Relu

from aaexport.graph.alive import bytes_alive
from aaexport.graph.evaluate import Evaluator

IMAGE = {"x": ("batch", 4)}
ONE = 32  # bytes of a row of four numbers in float64


def test_what_was_read_last_is_gone():
    model = graph(
        [("Relu", ["x"], ["a"], {}), ("Neg", ["a"], ["b"], {}), ("Neg", ["b"], ["c"], {}), ("Neg", ["c"], ["y"], {})],
        IMAGE,
        {},
    )
    assert bytes_alive(model, 1) == 2 * ONE
    assert bytes_alive(model, 3) == 6 * ONE


def test_what_is_read_again_later_stays():
    model = graph(
        [
            ("Relu", ["x"], ["a"], {}),
            ("Neg", ["a"], ["b"], {}),
            ("Neg", ["b"], ["c"], {}),
            ("Add", ["c", "a"], ["y"], {}),
        ],
        IMAGE,
        {},
    )
    assert bytes_alive(model, 1) == 3 * ONE


def test_another_view_takes_nothing_and_holds_what_it_views():
    constants = {"shape": np.array([-1, 2, 2])}
    model = graph(
        [
            ("Relu", ["x"], ["a"], {}),
            ("Reshape", ["a", "shape"], ["b"], {}),
            ("Neg", ["a"], ["c"], {}),
            ("Neg", ["c"], ["d"], {}),
            ("ReduceSum", ["b"], ["s"], {"keepdims": 0}),
            ("Add", ["d", "s"], ["y"], {}),
        ],
        IMAGE,
        constants,
    )
    assert bytes_alive(model, 1) == 3 * ONE


def test_a_size_that_is_not_known_is_none():
    nodes = [("NonZero", ["x"], ["n"], {}), ("Cast", ["n"], ["f"], {"to": 11}), ("ReduceSum", ["f"], ["y"], {})]
    assert bytes_alive(graph(nodes, IMAGE, {}), 1) is None


def test_a_tensor_that_nothing_writes_takes_nothing():
    model = graph([("Add", ["x", "c"], ["y"], {})], IMAGE, {"c": np.ones(4)})
    del model.graph.initializer[:]
    assert bytes_alive(model, 1) in (None, ONE)


@pytest.mark.parametrize(("reads", "writes"), [([], ["a"]), ([""], ["a"]), (["b"], [])])
def test_a_wrong_file_has_views_of_nothing(reads, writes):
    model = graph([("Relu", ["x"], ["b"], {}), ("Neg", ["b"], ["y"], {})], IMAGE, {})
    model.graph.node.insert(1, helper.make_node("Identity", reads, writes))
    assert bytes_alive(model, 1) in (None, 2 * ONE)


def test_an_output_that_nobody_wants_is_no_input_that_is_left_out():
    nodes = [("RNN", ["x", "w", "r"], ["", "h"], {"hidden_size": 2}), ("Clip", ["h", "", "most"], ["y"], {})]
    model = graph(nodes, {"x": (1, 1, 2)}, {"w": -np.eye(2)[None], "r": np.zeros((1, 2, 2)), "most": np.array(0.5)})
    answer = Evaluator(model.SerializeToString()).evaluate({"x": np.array([[[-1.0, 1.0]]])})
    assert answer["y"][0, 0] == pytest.approx([0.5, -np.tanh(1)])


def chain():
    return graph(
        [("Relu", ["x"], ["a"], {}), *(("Relu", [one], [two], {}) for one, two in ("ab", "bc", "cy"))], IMAGE, {}
    )


def test_the_evaluator_holds_no_tensor_that_nobody_reads_any_more(monkeypatch):
    made = []
    compute = Relu._run

    def counted(self, x):
        (result,) = compute(self, x)
        result = result.copy()
        made.append(weakref.ref(result))
        alive.append(sum(one() is not None for one in made))
        return (result,)

    alive = []
    monkeypatch.setattr(Relu, "_run", counted)
    answer = Evaluator(chain().SerializeToString()).evaluate({"x": np.ones((1, 4))})
    assert answer["y"] == pytest.approx(1)
    assert alive == [1, 2, 2, 2]


def test_what_a_branch_reads_from_outside_is_there_when_it_runs():
    value = helper.make_tensor_value_info
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(operator, ["a"], [name])], name, [], [value(name, TensorProto.FLOAT, ["batch", 4])]
        )
        for name, operator in (("then", "Neg"), ("else", "Abs"))
    }
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("ReduceSum", ["a"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["is"], to=TensorProto.BOOL),
        helper.make_node("If", ["is"], ["y"], **branches),
    ]
    inputs, outputs = [value("x", TensorProto.FLOAT, ["batch", 4])], [value("y", TensorProto.FLOAT, ["batch", 4])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 20)]
    )
    onnx.checker.check_model(model)
    answer = Evaluator(model.SerializeToString()).evaluate({"x": np.ones((1, 4), np.float32)})
    assert answer["y"] == pytest.approx(-1)
