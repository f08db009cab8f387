from collections import Counter

import numpy as np
import pytest
from graphs import convolution
from low_limits import low_limits
from onnx import TensorProto, helper, numpy_helper
from precision_graphs import decibels, evaluated, images, int8, kept, model, nodes_of, optimized, run, seen, types_of

from aaexport.errors import ArgumentError, GraphError
from aaexport.graph.check import check_model
from aaexport.graph.digests import digests_of, read_digests, record_digests
from aaexport.graph.outside import Room
from aaexport.graph.precision.int8 import to_int8
from aaexport.graph.precision.kinds import kind_of, read_origin

X = {"x": images(4, 3, 6, 6)}
GOOD = 30  # dB
SHAPE = ["batch", 3, 6, 6]


def weights(*shape, seed=1):
    return images(*shape, seed=seed, scale=0.3)


def two(**more):
    """Two convolutions with biases, a ReLU behind each."""
    nodes = [
        convolution("x", "a", ("w", "b")),
        ("Relu", ["a"], ["r"], {}),
        convolution("r", "c", ("v", "d"), size=1),
        ("Relu", ["c"], ["y"], {}),
    ]
    constants = {"w": weights(8, 3, 3, 3), "b": weights(8), "v": weights(4, 8, 1, 1, seed=2), "d": weights(4, seed=3)}
    return model(nodes, {"x": SHAPE}, constants | more)


def operators(made):
    return [node.op_type for node in made.graph.node]


def test_convolutions_read_and_write_8_bits_and_the_relu_is_in_the_grid(tmp_path):
    given = two()
    reduced = int8(given, X)
    made = reduced.model
    assert Counter(operators(made)) == {"QuantizeLinear": 3, "DequantizeLinear": 7, "Conv": 2}
    assert [layer.node for layer in reduced.reduced] == ["Conv_0", "Conv_2"]
    assert not reduced.kept
    for found in (evaluated(made, X), run(made, X), run(made, X, optimized=False)):
        assert GOOD < decibels(evaluated(given, X), found) < 60
    assert optimized(made, tmp_path)["QLinearConv"] == 2


def test_onnxruntime_answers_alike_optimized_and_not():
    """On AVX2 too: with signed weights its products do not fit into 16 bits there, and nobody is told."""
    large = two(w=np.full((8, 3, 3, 3), 0.5, np.float32))
    feeds = {"x": np.full((2, 3, 6, 6), 2, np.float32)}
    made = int8(large, feeds).model
    assert decibels(run(made, feeds, optimized=False), run(made, feeds)) > 40


def test_weights_have_a_scale_for_each_channel_and_activations_one():
    weight = weights(8, 3, 3, 3) * np.float32(10.0) ** np.arange(-4, 4).reshape(8, 1, 1, 1)
    held = {
        t.name: numpy_helper.to_array(t) for t in int8(two(w=weight.astype(np.float32)), X).model.graph.initializer
    }
    assert held["w_quantized"].dtype == np.uint8
    assert held["w_zero_point"].tolist() == [128] * 8
    np.testing.assert_allclose(held["w_scale"], np.abs(weight).max(axis=(1, 2, 3)) / 127, rtol=1e-6)
    np.testing.assert_allclose(
        (held["w_quantized"] - 128.0) * held["w_scale"].reshape(8, 1, 1, 1),
        weight,
        atol=float(held["w_scale"].max()) / 2,
    )
    assert held["x_scale"].shape == held["r_scale"].shape == ()
    assert held["r_zero_point"] == 0
    assert held["x_zero_point"].dtype == np.uint8
    assert held["b_quantized"].dtype == np.int32
    np.testing.assert_array_equal(held["b_scale"], held["x_scale"] * held["w_scale"])


@pytest.mark.parametrize("kind", ["int8", "int7"])
def test_weights_may_be_signed(kind):
    given = two()
    made = int8(given, X, weights=kind).model
    assert types_of(made)["w_quantized"] == np.int8
    assert decibels(evaluated(given, X), evaluated(made, X)) > GOOD - 6


def test_another_kind_of_weights_is_refused():
    with pytest.raises(ArgumentError, match=r"^weights must be one of uint8, int8, int7, got 'int4'$"):
        to_int8(two(), {}, weights="int4")


def test_symmetric_is_signed_with_the_relu_and_biases_as_they_were():
    given = two()
    made = int8(given, X, symmetric=True).model
    assert set(types_of(made).values()) == {np.dtype(np.int8), np.dtype(np.float32)}
    assert operators(made).count("Relu") == 2
    for node in nodes_of(made, "QuantizeLinear")[1:]:
        assert node.input[0] in {each.output[0] for each in nodes_of(made, "Relu")}
    held = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    assert all(not held[node.input[2]].any() for node in nodes_of(made, "QuantizeLinear"))
    assert decibels(evaluated(given, X), run(made, X)) > GOOD - 6


def test_a_normalization_is_folded_first_and_the_layer_keeps_its_name(tmp_path):
    nodes = [
        convolution("x", "a", ("w",)),
        ("BatchNormalization", ["a", "g", "b", "m", "s"], ["n"], {}),
        ("Relu", ["n"], ["y"], {}),
    ]
    given = model(nodes, {"x": SHAPE}, {"w": weights(8, 3, 3, 3), "g": (8,), "b": (8,), "m": (8,), "s": (8,)})
    reduced = int8(given, X)
    assert [layer.node for layer in reduced.reduced] == ["Conv_0"]
    assert "BatchNormalization" not in operators(reduced.model)
    assert decibels(evaluated(given, X), run(reduced.model, X)) > GOOD
    assert optimized(reduced.model, tmp_path)["QLinearConv"] == 1
    assert kept(int8(given, X, keep=["Conv_0"])) == {"Conv_0": "it was asked to stay in float32"}


def test_a_tensor_that_several_read_is_quantized_once():
    nodes = [
        ("Relu", ["x"], ["r"], {}),
        convolution("r", "a", ("w",)),
        convolution("r", "b", ("v",), size=1),
        ("Add", ["a", "b"], ["s"], {}),
        ("Add", ["s", "r"], ["t"], {}),
        convolution("t", "y", ("w",)),
    ]
    given = model(nodes, {"x": SHAPE}, {"w": weights(3, 3, 3, 3), "v": weights(3, 3, 1, 1)})
    made = int8(given, X).model
    quantized = [node.input[0] for node in nodes_of(made, "QuantizeLinear")]
    assert quantized == ["x", "a_unquantized", "b_unquantized", "t_unquantized", "y_unquantized"]
    assert [node.output[0] for node in nodes_of(made, "DequantizeLinear") if "w_" in node.input[0]] == [
        "w_dequantized"
    ]
    assert decibels(evaluated(given, X), run(made, X)) > GOOD


def test_a_relu_behind_a_sum_vanishes_too(tmp_path):
    nodes = [
        convolution("x", "a", ("w",)),
        ("Add", ["a", "x"], ["s"], {}),
        ("Relu", ["s"], ["r"], {}),
        convolution("r", "y", ("w",)),
    ]
    given = model(nodes, {"x": SHAPE}, {"w": weights(3, 3, 3, 3)})
    made = int8(given, X).model
    assert "Relu" not in operators(made)
    assert optimized(made, tmp_path)["QLinearAdd"] == 1
    assert decibels(evaluated(given, X), run(made, X)) > GOOD - 5


@pytest.mark.parametrize(
    ("bounds", "vanishes"),
    [((0.0, 6.0), True), ((0.0, 0.5), True), ((0.5, 6.0), False), ((-1.0, 0.7), True), ((-1.0, 0.8), False)],
)
def test_a_clip_vanishes_where_the_grid_holds_no_more(bounds, vanishes, tmp_path):
    low, high = (np.array(bound, np.float32) for bound in bounds)
    nodes = [convolution("x", "a", ("w",)), ("Clip", ["a", "low", "high"], ["y"], {})]
    given = model(nodes, {"x": SHAPE}, {"w": weights(8, 3, 3, 3), "low": low, "high": high})
    made = int8(given, X).model
    assert ("Clip" not in operators(made)) == vanishes
    assert optimized(made, tmp_path)["QLinearConv"] == 1
    assert decibels(evaluated(given, X), run(made, X)) > GOOD


def test_a_relu_whose_input_somebody_else_reads_stays():
    nodes = [convolution("x", "a", ("w",)), ("Relu", ["a"], ["r"], {}), ("Add", ["a", "r"], ["y"], {})]
    given = model(nodes, {"x": SHAPE}, {"w": weights(3, 3, 3, 3)})
    made = int8(given, X).model
    assert operators(made).count("Relu") == 1
    assert decibels(evaluated(given, X), run(made, X)) > GOOD


def test_what_only_moves_numbers_has_one_grid_on_both_sides():
    nodes = [
        convolution("x", "a", ("w",)),
        ("Relu", ["a"], ["r"], {}),
        ("MaxPool", ["r"], ["p"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        convolution("p", "c", ("v",), size=1),
        ("Relu", ["c"], ["d"], {}),
        ("Concat", ["p", "d"], ["k"], {"axis": 1}),
        convolution("k", "y", ("u",), size=1),
    ]
    constants = {"w": weights(8, 3, 3, 3), "v": 0.01 * weights(8, 8, 1, 1), "u": weights(2, 16, 1, 1)}
    given = model(nodes, {"x": SHAPE}, constants)
    made = int8(given, X).model
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    assert held["r_scale"] == held["p_scale"] == held["d_scale"] == held["k_scale"] != held["y_scale"]
    assert decibels(evaluated(given, X), run(made, X)) > GOOD


def test_grids_are_not_shared_where_a_relu_would_come_back():
    """A common grid would reach below 0, where the ReLU that has vanished would let numbers through."""
    nodes = [
        convolution("x", "a", ("w",)),
        ("Relu", ["a"], ["r"], {}),
        convolution("x", "c", ("v",), size=1),
        ("Concat", ["r", "c"], ["k"], {"axis": 1}),
        convolution("k", "y", ("u",), size=1),
    ]
    constants = {"w": weights(8, 3, 3, 3), "v": weights(8, 3, 1, 1), "u": weights(2, 16, 1, 1)}
    given = model(nodes, {"x": SHAPE}, constants)
    made = int8(given, X).model
    assert "Relu" not in operators(made)
    assert decibels(evaluated(given, X), run(made, X)) > GOOD


def test_outputs_of_the_model_keep_their_names():
    nodes = [convolution("x", "a", ("w",)), ("Relu", ["a"], ["features"], {}), convolution("features", "y", ("v",))]
    constants = {"w": weights(8, 3, 3, 3), "v": weights(4, 8, 3, 3)}
    given = model(nodes, {"x": SHAPE}, constants, outputs=("y", "features"))
    made = int8(given, X).model
    assert [value.name for value in made.graph.output] == ["y", "features"]
    assert decibels(evaluated(given, X), run(made, X)) > GOOD


def test_products_and_computed_weights_stay():
    nodes = [
        ("MatMul", ["x", "m"], ["z"], {}),
        convolution("z", "a", ("w",)),
        ("Mul", ["w", "two"], ["ww"], {}),
        convolution("a", "c", ("ww",)),
        convolution("c", "y", ("w", "bias")),
        convolution("held", "h", ("w",)),
    ]
    inputs = {"x": SHAPE, "bias": [3]}
    constants = {
        "m": weights(6, 6),
        "w": weights(3, 3, 3, 3),
        "two": np.float32([2]),
        "held": weights(1, 3, 4, 4),
    }
    given = model(nodes, inputs, constants, outputs=("y", "h"))
    feeds = X | {"bias": weights(3)}
    reduced = int8(given, feeds)
    assert [layer.node for layer in reduced.reduced] == ["Conv_1"]
    assert kept(reduced) == {
        "Conv_3": "its weight is computed, or an input",
        "Conv_4": "its bias is computed, or an input",
        "Conv_5": "what it reads is a constant",
    }
    assert decibels(evaluated(given, feeds), run(reduced.model, feeds)) > GOOD - 5


def test_grouped_and_one_dimensional_convolutions_are_quantized(tmp_path):
    nodes = [
        ("Conv", ["x", "w"], ["a"], {"group": 4, "pads": [1, 1]}),
        ("Conv", ["a", "v"], ["y"], {"strides": [2]}),
    ]
    given = model(nodes, {"x": ["batch", 4, 9]}, {"w": weights(8, 1, 3), "v": weights(2, 8, 3)})
    feeds = {"x": images(4, 4, 9)}
    made = int8(given, feeds).model
    assert decibels(evaluated(given, feeds), run(made, feeds)) > GOOD
    assert optimized(made, tmp_path)["QLinearConv"] == 2


def test_a_convolution_in_a_branch_stays():
    given = two()
    body = [helper.make_node("Conv", ["r", "v"], ["t"], "inner"), helper.make_node("Identity", ["r"], ["e"])]
    then, other = (
        helper.make_graph([node], name, [], [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)])
        for node, name in zip(body, ("then", "else"), strict=True)
    )
    given.graph.initializer.append(numpy_helper.from_array(np.array(False), "no"))
    given.graph.node.append(helper.make_node("If", ["no"], ["i"], "if", then_branch=then, else_branch=other))
    given.graph.output.append(helper.make_tensor_value_info("i", TensorProto.FLOAT, None))
    reduced = int8(given, X)
    assert list(kept(reduced)) == ["inner"]
    assert decibels(evaluated(given, X), run(reduced.model, X)) > GOOD


# What is asked, and what is told


def test_layers_that_are_named_stay():
    given = two()
    reduced = int8(given, X, keep=["Conv_2"])
    assert kept(reduced) == {"Conv_2": "it was asked to stay in float32"}
    assert decibels(evaluated(given, X), run(reduced.model, X)) > decibels(
        evaluated(given, X), run(int8(given, X).model, X)
    )
    everything = int8(given, X, keep=["Conv_0", "Conv_2"])
    assert everything.reduced == ()
    assert decibels(evaluated(given, X), evaluated(everything.model, X)) > 120


def test_an_unknown_layer_is_refused():
    with pytest.raises(ArgumentError, match=r"int8 reduces, got 'Conv_1'; did you mean 'Conv_2' or 'Conv_0'\?$"):
        int8(two(), X, keep=["Conv_1"])


def test_what_was_not_seen_stays():
    given = two()
    ranges = {name: found for name, found in seen(given, "int8", X).items() if name != "r"}
    assert kept(to_int8(given, ranges)) == dict.fromkeys(["Conv_0", "Conv_2"], "r was not seen on calibration images")


def test_the_given_model_stays_and_the_same_comes_twice():
    given = two()
    before = given.SerializeToString(deterministic=True)
    one, other = (int8(given, X).model.SerializeToString(deterministic=True) for _ in range(2))
    assert one == other
    assert given.SerializeToString(deterministic=True) == before


def test_the_file_says_what_it_is_and_its_digests_hold():
    given = two()
    record_digests(given)
    made = int8(given, X, keep=["Conv_0"]).model
    assert kind_of(made) == "int8"
    assert read_origin(made).kept == (("", "Conv_0", "Conv", "it was asked to stay in float32"),)
    assert read_digests(made) == digests_of(made)


def test_what_cannot_become_int8_is_refused():
    made = int8(two(), X).model
    with pytest.raises(GraphError, match="got one that aaexport has quantized already"):
        to_int8(made, {})
    product = model([("MatMul", ["x", "w"], ["y"], {})], {"x": ["batch", 6]}, {"w": (6, 2)})
    with pytest.raises(GraphError) as error:
        to_int8(product, {})
    rule = "the model must hold a convolution with constant weights to become int8"
    assert str(error.value) == f"{rule}, got 'none'; nothing else is quantized"


def test_an_opset_without_scales_per_channel_is_refused():
    old = model([convolution("x", "y", ("w",))], {"x": SHAPE}, {"w": weights(3, 3, 3, 3)}, opset=12)
    with pytest.raises(GraphError) as error:
        to_int8(old, {})
    rule = "opset must be at least 13 for int8 with a scale for each channel"
    assert str(error.value) == f"{rule}, got 12; convert it for a later one"


def test_a_weight_that_is_not_finite_is_refused():
    broken = weights(8, 3, 3, 3)
    broken[3, 1, 1, 1] = np.nan
    ranges = seen(two(), "int8", X)
    with pytest.raises(GraphError, match=r"^initializer w must be finite to become int8, got 'NaN'$"):
        to_int8(two(w=broken), ranges)


def test_a_model_that_has_no_room_has_its_numbers_outside(tmp_path):
    given = two(w=weights(64, 3, 3, 3), b=weights(64), v=weights(64, 64, 1, 1), d=weights(64))
    ranges = seen(given, "int8", X)
    with low_limits(), Room(tmp_path) as room:
        made = to_int8(given, ranges, room=room).model
        assert room.is_used
        check_model(made)
        with pytest.raises(GraphError, match=r"^the model must stay below 2 GiB"):
            to_int8(given, ranges)
