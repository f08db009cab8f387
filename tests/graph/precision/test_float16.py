import numpy as np
import onnx
import pytest
from low_limits import low_limits
from onnx import TensorProto, helper, numpy_helper
from precision_graphs import decibels, evaluated, float16, images, kept, model, nodes_of, run, seen, types_of

from aaexport.errors import ArgumentError, GraphError
from aaexport.graph.check import check_model
from aaexport.graph.digests import digests_of, read_digests, record_digests
from aaexport.graph.outside import Room, is_outside
from aaexport.graph.precision.float16 import to_float16
from aaexport.graph.precision.kinds import kind_of, read_origin
from aaexport.graph.precision.reduced import Layer

X = {"x": images(4, 6)}
GOOD = 55  # dB


def products(**more):
    """x·w + b, through a ReLU, and ·v."""
    nodes = [
        ("MatMul", ["x", "w"], ["xw"], {}),
        ("Add", ["xw", "b"], ["h"], {}),
        ("Relu", ["h"], ["r"], {}),
        ("MatMul", ["r", "v"], ["y"], {}),
    ]
    return model(nodes, {"x": ["batch", 6]}, {"w": (6, 8), "b": (8,), "v": (8, 3)} | more)


def casts(given):
    """(from, to, type) of every Cast."""
    return [
        (node.input[0], node.output[0], helper.get_attribute_value(node.attribute[0]))
        for node in nodes_of(given, "Cast")
    ]


def element_types(values):
    return {value.name: value.type.tensor_type.elem_type for value in values}


def test_inputs_and_outputs_stay_and_all_between_is_float16():
    given = products()
    reduced = float16(given, X)
    made = reduced.model
    assert casts(made) == [("x", "x_float16", TensorProto.FLOAT16), ("y_float16", "y", TensorProto.FLOAT)]
    assert set(types_of(made).values()) == {np.dtype(np.float16)}
    assert element_types([*made.graph.input, *made.graph.output]) == {"x": TensorProto.FLOAT, "y": TensorProto.FLOAT}
    assert [layer.operator for layer in reduced.reduced] == ["MatMul", "Add", "Relu", "MatMul"]
    assert not reduced.kept
    for found in (evaluated(made, X), run(made, X)):
        assert GOOD < decibels(evaluated(given, X), found) < 90


def test_inputs_and_outputs_are_float16_where_that_is_asked_for():
    given = products()
    made = float16(given, X, io_dtype="float16").model
    assert not casts(made)
    assert element_types([*made.graph.input, *made.graph.output]) == {
        "x": TensorProto.FLOAT16,
        "y": TensorProto.FLOAT16,
    }
    found = run(made, {"x": X["x"].astype(np.float16)})
    assert found["y"].dtype == np.float16
    assert decibels(evaluated(given, X), found) > GOOD


def test_another_type_of_inputs_is_refused():
    with pytest.raises(ArgumentError, match=r"^io_dtype must be one of float32, float16, got 'int8'$"):
        to_float16(products(), {}, io_dtype="int8")


def test_the_given_model_stays_and_the_same_comes_twice():
    given = products()
    before = given.SerializeToString(deterministic=True)
    one, other = (float16(given, X).model.SerializeToString(deterministic=True) for _ in range(2))
    assert one == other
    assert given.SerializeToString(deterministic=True) == before


# The range rule


def test_what_comes_near_float16s_largest_number_stays_with_all_who_touch_it():
    given = products(w=np.full((6, 8), 3e4, np.float32), v=np.full((8, 3), 1e-4, np.float32))
    reduced = float16(given, X)
    reasons = kept(reduced)
    assert list(reasons) == ["MatMul_0", "Add_1", "Relu_2", "MatMul_3"]
    assert reasons["MatMul_0"] == "constant w holds 3e+04, above 8188, an eighth of float16's largest number"
    assert reasons["Add_1"].startswith("xw reaches ")
    assert reduced.reduced == ()
    assert decibels(evaluated(given, X), evaluated(reduced.model, X)) > 120


def test_a_large_tensor_is_cast_once_in_each_direction():
    nodes = [
        ("MatMul", ["x", "w"], ["a"], {}),
        ("Mul", ["a", "large"], ["b"], {}),
        ("Div", ["b", "large"], ["c"], {}),
        ("Sigmoid", ["c"], ["d"], {}),
        ("Tanh", ["c"], ["e"], {}),
        ("Add", ["d", "e"], ["y"], {}),
    ]
    given = model(nodes, {"x": ["batch", 6]}, {"w": (6, 8), "large": np.float32([1e5])})
    reduced = float16(given, X)
    assert list(kept(reduced)) == ["Mul_1", "Div_2"]
    assert [pair[:2] for pair in casts(reduced.model)] == [
        ("x", "x_float16"),
        ("a", "a_float32"),
        ("c", "c_float16"),
        ("y_float16", "y"),
    ]
    assert decibels(evaluated(given, X), evaluated(reduced.model, X)) > GOOD


def test_without_the_rule_the_evaluator_answers_with_what_is_no_number():
    """The rule is there for something: the same model with ranges that claim otherwise."""
    given = products(w=np.full((6, 8), 3e4, np.float32), v=np.zeros((8, 3), np.float32))
    claimed = dict.fromkeys(seen(given, "float16", X), next(iter(seen(products(), "float16", X).values())))
    small = products(w=np.full((6, 8), 3, np.float32))
    made = to_float16(small, claimed).model
    for tensor in made.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(numpy_helper.from_array(np.full((6, 8), 3e4, np.float16), "w"))
    assert not np.isfinite(evaluated(made, X)["y"]).all()


def test_a_mask_of_minus_infinity_stays():
    nodes = [("Add", ["x", "mask"], ["a"], {}), ("Softmax", ["a"], ["y"], {})]
    mask = np.float32([0, 0, 0, -np.inf, 0, 0])
    reduced = float16(model(nodes, {"x": ["batch", 6]}, {"mask": mask}), X, infinite=True)
    assert kept(reduced) == {
        "Add_0": "constant mask holds inf, above 8188, an eighth of float16's largest number",
        "Softmax_1": "a reaches inf, above 8188, an eighth of float16's largest number",
    }
    with pytest.raises(GraphError, match=r"^the output of Add Add_0 must be finite on calibration, got infinity"):
        float16(model(nodes, {"x": ["batch", 6]}, {"mask": mask}), X)


def test_what_was_not_seen_stays():
    given = products()
    ranges = {name: found for name, found in seen(given, "float16", X).items() if name != "h"}
    reasons = kept(to_float16(given, ranges))
    assert reasons == dict.fromkeys(["Add_1", "Relu_2"], "h was not seen on calibration inputs") | {
        "MatMul_3": "r was not seen on calibration inputs"
    }


def test_what_only_moves_or_bounds_numbers_need_not_be_seen():
    nodes = [
        ("Transpose", ["x"], ["a"], {"perm": [1, 0]}),
        ("Concat", ["a", "c"], ["b"], {"axis": 0}),
        ("Relu", ["b"], ["d"], {}),
        ("Softmax", ["d"], ["e"], {}),
        ("Add", ["e", "c"], ["y"], {}),
    ]
    given = model(nodes, {"x": [4, 6]}, {"c": np.full((1, 4), 9e3, np.float32)})
    assert set(seen(given, "float16", X)) == {"x", "y"}
    reasons = kept(float16(given, X))
    assert list(reasons) == ["Concat_1", "Relu_2", "Softmax_3", "Add_4"]
    assert reasons["Relu_2"].startswith("b reaches 9e+03")


def attention(size, **attributes):
    shape = [1, 2, 5, 16]
    given = model([("Attention", ["q", "k", "v"], ["y"], attributes)], dict.fromkeys("qkv", shape), opset=23)
    feeds = {name: images(*shape, seed=seed, scale=size) for seed, name in enumerate("qkv")}
    return given, feeds


def test_attention_whose_scores_may_overflow_stays():
    given, feeds = attention(300.0)
    (reason,) = kept(float16(given, feeds)).values()
    assert reason.startswith("its scores may reach ")
    assert reason.endswith("above 65504, float16's largest number")


@pytest.mark.parametrize("attributes", [{}, {"scale": 0.01}])
def test_attention_of_usual_scores_does_not(attributes):
    given, feeds = attention(3.0, **attributes)
    reduced = float16(given, feeds)
    assert not reduced.kept
    assert decibels(evaluated(given, feeds), evaluated(reduced.model, feeds)) > 50


def test_the_scale_of_attention_counts():
    given, feeds = attention(100.0, scale=1e-3)
    assert not float16(given, feeds).kept
    given, feeds = attention(100.0, scale=1.0)
    assert float16(given, feeds).kept


def test_squares_inside_an_operator_count():
    given = model([("ReduceL2", ["x"], ["y"], {"axes": [1]})], {"x": ["batch", 6]}, opset=13)
    (reason,) = kept(float16(given, {"x": images(4, 6, scale=100)})).values()
    assert reason.startswith("the squares inside it reach ")
    assert not float16(given, X).kept


# What stays by its operator


def test_the_scales_of_a_resize_stay():
    nodes = [("Resize", ["x", "roi", "scales"], ["y"], {"mode": "linear"})]
    constants = {"roi": np.zeros(0, np.float32), "scales": np.float32([1, 1, 2, 2])}
    given = model(nodes, {"x": [1, 2, 3, 3]}, constants)
    feeds = {"x": images(1, 2, 3, 3)}
    reduced = float16(given, feeds)
    assert types_of(reduced.model)["scales"] == np.float32
    assert not reduced.kept
    assert decibels(evaluated(given, feeds), evaluated(reduced.model, feeds)) > GOOD


def test_scales_that_two_share_with_a_product_are_there_in_both_types():
    nodes = [
        ("Resize", ["x", "", "scales"], ["a"], {}),
        ("Resize", ["x", "", "scales"], ["b"], {}),
        ("Mul", ["a", "b"], ["c"], {}),
        ("Reshape", ["scales", "shape"], ["s"], {}),
        ("Mul", ["c", "s"], ["y"], {}),
    ]
    constants = {"scales": np.float32([1, 1, 2, 2]), "shape": np.array([1, 1, 1, 4])}
    given = model(nodes, {"x": [1, 2, 2, 2]}, constants)
    made = float16(given, {"x": images(1, 2, 2, 2)}).model
    assert types_of(made) == {"scales": np.float32, "shape": np.int64, "scales_float16": np.float16}
    assert len(casts(made)) == 2


def test_an_operator_without_float16_stays():
    nodes = [("Range", ["zero", "five", "one"], ["a"], {}), ("Add", ["x", "a"], ["y"], {})]
    constants = {"zero": np.array(0, np.float32), "five": np.array(5.5, np.float32), "one": np.array(1, np.float32)}
    reduced = float16(model(nodes, {"x": ["batch", 6]}, constants), X)
    assert kept(reduced) == {"Range_0": "ONNX has no Range in float16"}
    assert [layer.operator for layer in reduced.reduced] == ["Add"]


def test_what_is_computed_of_sizes_stays():
    nodes = [
        ("Shape", ["x"], ["s"], {}),
        ("Cast", ["s"], ["f"], {"to": TensorProto.FLOAT}),
        ("Mul", ["f", "f"], ["g"], {}),
        ("Cast", ["g"], ["i"], {"to": TensorProto.INT64}),
        ("Expand", ["c", "s"], ["e"], {}),
        ("Add", ["x", "e"], ["z"], {}),
        ("Cast", ["i"], ["j"], {"to": TensorProto.FLOAT}),
        ("Reshape", ["j", "two"], ["k"], {}),
        ("Add", ["z", "k"], ["y"], {}),
    ]
    given = model(nodes, {"x": ["batch", 2]}, {"c": np.float32([1]), "two": np.array([1, 2])})
    feeds = {"x": images(3, 2)}
    reduced = float16(given, feeds)
    assert set(kept(reduced).values()) == {"it computes with sizes, which float16 rounds above 2048"}
    assert "Mul_2" in kept(reduced)
    assert [layer.node for layer in reduced.reduced] == ["Add_5", "Add_8"]
    assert decibels(evaluated(given, feeds), evaluated(reduced.model, feeds)) > GOOD


def branches():
    """If the sum of x is positive, x·w, else x; and twice that."""
    inner = [
        helper.make_graph([helper.make_node("MatMul", ["r", "w"], ["t"])], "then", [], [_value("t")]),
        helper.make_graph([helper.make_node("Identity", ["r"], ["e"])], "else", [], [_value("e")]),
    ]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("ReduceSum", ["r"], ["s"], "sum", keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["p"], "greater"),
        helper.make_node("If", ["p"], ["i"], "if", then_branch=inner[0], else_branch=inner[1]),
        helper.make_node("MatMul", ["i", "w"], ["y"], "product"),
    ]
    tensors = [numpy_helper.from_array(images(6, 6), "w"), numpy_helper.from_array(np.float32(0), "zero")]
    graph = helper.make_graph(nodes, "g", [_value("x", 4, 6)], [_value("y")], tensors)
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )


def _value(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape or None)


def test_subgraphs_stay_and_read_what_they_read_in_float32():
    given = branches()
    reduced = float16(given, X)
    assert kept(reduced) == {"if": "what is in its subgraphs is not seen on calibration inputs"}
    assert types_of(reduced.model)["w"] == np.float32
    assert types_of(reduced.model)["w_float16"] == np.float16
    for found in (evaluated(reduced.model, X), run(reduced.model, X)):
        assert decibels(evaluated(given, X), found) > GOOD


def test_sequences_stay():
    nodes = [
        ("Relu", ["x"], ["r"], {}),
        ("SplitToSequence", ["r"], ["s"], {"axis": 1}),
        ("ConcatFromSequence", ["s"], ["c"], {"axis": 1}),
        ("Sigmoid", ["c"], ["y"], {}),
    ]
    given = model(nodes, {"x": [4, 6]})
    reduced = float16(given, X)
    assert kept(reduced) == {
        "SplitToSequence_1": "s is no tensor, but a sequence or optional",
        "ConcatFromSequence_2": "s is no tensor, but a sequence or optional",
    }
    assert decibels(evaluated(given, X), run(reduced.model, X)) > GOOD


def test_what_answers_with_integers_takes_the_type_that_there_is():
    nodes = [
        ("Sigmoid", ["x"], ["s"], {}),
        ("ArgMax", ["s"], ["a"], {"axis": 1}),
        ("ArgMax", ["x"], ["b"], {"axis": 1}),
        ("Add", ["a", "b"], ["c"], {}),
        ("Cast", ["c"], ["y"], {"to": TensorProto.FLOAT}),
    ]
    reduced = float16(model(nodes, {"x": ["batch", 6]}), X)
    assert [layer.node for layer in reduced.reduced] == ["Sigmoid_0", "ArgMax_1", "Cast_4"]
    assert [pair[:2] for pair in casts(reduced.model)] == [("x", "x_float16"), ("c", "y_float16"), ("y_float16", "y")]


# Types in attributes


def test_what_makes_numbers_makes_float16():
    nodes = [
        ("ConstantOfShape", ["shape"], ["a"], {}),
        ("ConstantOfShape", ["shape"], ["b"], {"value": numpy_helper.from_array(np.float32([2]))}),
        ("EyeLike", ["x"], ["c"], {"dtype": TensorProto.FLOAT}),
        ("RandomNormalLike", ["x"], ["d"], {"dtype": TensorProto.FLOAT, "scale": 1e-9, "mean": 3.0}),
        ("Sum", ["x", "a", "b", "c", "d"], ["y"], {}),
    ]
    given = model(nodes, {"x": [4, 6]}, {"shape": np.array([4, 6])})
    reduced = float16(given, X)
    assert not reduced.kept
    assert len(casts(reduced.model)) == 2
    np.testing.assert_allclose(run(reduced.model, X)["y"], X["x"] + 5 + np.eye(4, 6), atol=0.01)


def test_what_makes_numbers_of_none_stays():
    nodes = [
        ("RandomUniform", [], ["a"], {"shape": [6], "low": 1.0, "high": 1.0}),
        ("EyeLike", ["n"], ["b"], {"dtype": TensorProto.FLOAT}),
        ("Sum", ["x", "a", "b"], ["y"], {}),
    ]
    reduced = float16(model(nodes, {"x": [4, 6]}, {"n": np.zeros((4, 6), np.int64)}), X)
    assert kept(reduced) == {
        "RandomUniform_0": "runtimes have no RandomUniform that makes float16",
        "EyeLike_1": "runtimes have no EyeLike that makes float16",
    }
    np.testing.assert_allclose(run(reduced.model, X)["y"], X["x"] + 1 + np.eye(4, 6), atol=0.01)


def test_constants_in_nodes_are_float16():
    nodes = [
        ("Constant", [], ["a"], {"value_float": 2.0}),
        ("Constant", [], ["b"], {"value_floats": [1.0] * 6}),
        ("Constant", [], ["c"], {"value": numpy_helper.from_array(np.float32([3]))}),
        ("Constant", [], ["shape"], {"value_ints": [6, 4]}),
        ("Sum", ["x", "a", "b", "c"], ["d"], {}),
        ("Reshape", ["d", "shape"], ["y"], {}),
    ]
    made = float16(model(nodes, {"x": [4, 6]}), X).model
    assert types_of(made) == {"a": np.float16, "b": np.float16, "c": np.float16, "shape": np.int64}
    assert np.abs(evaluated(made, X)["y"] - (X["x"] + 6).reshape(6, 4)).max() < 0.01


def test_a_cast_to_what_is_like_another_tensor_follows_it():
    nodes = [("CastLike", ["n", "x"], ["a"], {}), ("Add", ["a", "x"], ["y"], {})]
    made = float16(model(nodes, {"x": ["batch", 6]}, {"n": np.arange(6)}), X).model
    assert len(casts(made)) == 2
    assert decibels(X["x"] + np.arange(6), evaluated(made, X)["y"]) > GOOD


# Inputs and outputs


def test_outputs_from_within_and_from_constants_keep_name_and_type():
    nodes = [
        ("Relu", ["x"], ["features"], {}),
        ("MatMul", ["features", "w"], ["y"], {}),
        ("Identity", ["y"], ["again"], {}),
        ("Identity", ["w"], ["held"], {}),
    ]
    outputs = ("features", "y", "again", "held")
    given = model(nodes, {"x": ["batch", 6]}, {"w": (6, 2)}, outputs)
    for io_dtype, kind in (("float32", TensorProto.FLOAT), ("float16", TensorProto.FLOAT16)):
        made = float16(given, X, io_dtype=io_dtype).model
        assert element_types(made.graph.output) == dict.fromkeys(outputs, kind)
        feeds = {"x": X["x"].astype(io_dtype)}
        assert decibels(evaluated(given, X), evaluated(made, feeds)) > GOOD
        assert decibels(evaluated(given, X), run(made, feeds)) > GOOD


def test_an_initializer_that_may_be_fed_is_an_input():
    given = products()
    given.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [8]))
    made = float16(given, X | {"b": images(8)}).model
    assert element_types(made.graph.input) == {"x": TensorProto.FLOAT, "b": TensorProto.FLOAT}
    assert types_of(made)["b"] == np.float32
    other = {"b": images(8, seed=7)}
    assert decibels(evaluated(given, X | other), evaluated(made, X | other)) > GOOD


def test_a_name_that_is_taken_is_not_given_again():
    nodes = [("Relu", ["x"], ["x_float16"], {}), ("Sigmoid", ["x_float16"], ["y"], {})]
    made = float16(model(nodes, {"x": ["batch", 6]}), X).model
    assert [pair[:2] for pair in casts(made)] == [("x", "x_float16_1"), ("y_float16", "y")]


# What is asked, and what is told


def test_layers_that_are_named_stay():
    reduced = float16(products(), X, keep=["Add_1"])
    assert kept(reduced) == {"Add_1": "it was asked to stay in float32"}
    assert Layer("", "Add_1", "Add") not in reduced.reduced
    assert types_of(reduced.model)["b"] == np.float32


def test_an_unknown_layer_is_refused():
    with pytest.raises(
        ArgumentError, match=r"^keep must name .* float16 reduces, got 'Add_9'; did you mean 'Add_1'\?$"
    ):
        float16(products(), X, keep=["Add_9"])


def test_the_file_says_what_it_is_and_its_digests_hold():
    given = products()
    record_digests(given)
    made = float16(given, X, keep=["Add_1"]).model
    assert kind_of(made) == "float16"
    assert read_origin(made).kept == (("", "Add_1", "Add", "it was asked to stay in float32"),)
    assert read_digests(made) == digests_of(made)


def test_digests_that_did_not_hold_are_not_made_good():
    given = products()
    record_digests(given)
    given.graph.initializer[0].CopyFrom(numpy_helper.from_array(images(6, 8), "w"))
    assert read_digests(float16(given, X).model) == read_digests(given)


def test_a_file_that_is_reduced_already_is_refused():
    made = float16(products(), X).model
    with pytest.raises(GraphError, match="got one in float16; start from the float32 file"):
        to_float16(made, {})


def test_a_model_that_has_no_room_has_its_numbers_outside(tmp_path):
    constants = {"w": (6, 300), "b": (300,), "v": (300, 30)}
    given = model([(op, i, o, {}) for op, i, o in _rows()], {"x": ["batch", 6]}, constants)
    ranges = seen(given, "float16", X)
    with low_limits(), Room(tmp_path) as room:
        made = to_float16(given, ranges, room=room).model
        assert {tensor.name for tensor in made.graph.initializer if is_outside(tensor)} == {"w", "b", "v"}
        check_model(made)
        with pytest.raises(GraphError, match=r"^the model must stay below 2 GiB"):
            to_float16(given, ranges)


def _rows():
    return ("MatMul", ["x", "w"], ["a"]), ("Add", ["a", "b"], ["h"]), ("MatMul", ["h", "v"], ["y"])
