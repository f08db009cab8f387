import numpy as np
import pytest
from graphs import assert_same_function, convolution, graph, operators, optimized

from aaexport.graph.rules.scale_into_convolution import ScaleIntoConvolution

INPUT = {"x": ["batch", 3, 4, 5]}
CONSTANTS = {
    "w": [10, 3, 3, 3],
    "b": [10],
    "parts": np.array([4, 4, 2]),
    "shape": np.array([-1, 2, 20]),
    "s": np.array(0.25),
}


def model(*, weight=("w", "b"), product=("flat", "s"), outputs=("y", "k", "v"), constants=CONSTANTS):
    """Queries, keys and values of one convolution, the queries reshaped and scaled."""
    nodes = [
        convolution("x", "qkv", list(weight)),
        ("Split", ["qkv", "parts"], ["q", "k", "v"], {"axis": 1}),
        ("Reshape", ["q", "shape"], ["flat"], {}),
        ("Mul", list(product), ["y"], {}),
    ]
    return graph(nodes, INPUT, constants, outputs)


@pytest.mark.parametrize("product", [("flat", "s"), ("s", "flat")], ids=["right", "left"])
@pytest.mark.parametrize("weight", [("w", "b"), ("w",)], ids=["bias", "no bias"])
def test_the_queries_channels_are_scaled_and_no_others(weight, product):
    before = model(weight=weight, product=product)
    rewritten, report = optimized(before, ScaleIntoConvolution)
    assert report.applied == 1
    assert "Mul" not in operators(rewritten)
    assert_same_function(before, rewritten)


def test_a_part_in_the_middle_is_found():
    nodes = [
        convolution("x", "qkv", ["w", "b"]),
        ("Split", ["qkv", "parts"], ["q", "k", "v"], {"axis": 1}),
        ("Mul", ["k", "s"], ["y"], {}),
    ]
    before = graph(nodes, INPUT, {key: CONSTANTS[key] for key in ("w", "b", "parts", "s")}, ("y", "q", "v"))
    rewritten, report = optimized(before, ScaleIntoConvolution)
    assert report.applied == 1
    assert_same_function(before, rewritten)


def test_queries_that_are_read_unscaled_too_are_left():
    before = model(outputs=("y", "q", "k", "v"))
    rewritten, report = optimized(before, ScaleIntoConvolution)
    assert report.refused == {"the output of Split Split_1 is read elsewhere too": 1}
    assert operators(rewritten) == operators(before)


def test_weights_that_another_convolution_has_too_are_left():
    nodes = [
        convolution("x", "a", ["w"]),
        convolution("x", "b", ["w"]),
        ("Mul", ["a", "s"], ["y"], {}),
    ]
    before = graph(nodes, INPUT, {"w": [4, 3, 3, 3], "s": np.array(0.25)}, ("y", "b"))
    rewritten, report = optimized(before, ScaleIntoConvolution)
    assert report.refused == {"the convolution shares its weight or bias with another": 1}
    assert operators(rewritten) == operators(before)


def test_a_product_of_two_maps_is_not_what_it_is_for():
    nodes = [convolution("x", "a", ["w"]), ("Mul", ["a", "a"], ["y"], {})]
    _, report = optimized(graph(nodes, INPUT, {"w": [4, 3, 3, 3]}), ScaleIntoConvolution)
    assert (report.applied, report.refused) == (0, {})


def test_a_factor_that_adds_axes_is_left():
    nodes = [convolution("x", "a", ["w"]), ("Mul", ["a", "s"], ["y"], {})]
    before = graph(nodes, INPUT, {"w": [4, 3, 3, 3], "s": np.full((1, 1, 1, 1, 1), 0.25)})
    _, report = optimized(before, ScaleIntoConvolution)
    assert report.refused == {"the factor has more axes than what it scales": 1}
