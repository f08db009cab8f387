"""What a reduced file holds, read without trust in what the pass meant to write."""

import numpy as np
import pytest
from graphs import convolution
from onnx import numpy_helper
from precision_graphs import float16, images, int8, model
from precision_mutants import attention_quantized, scale_off

from aaexport.graph.precision.stored import (
    activations,
    constants_in_8_bits,
    constants_in_float16,
    stored_convolutions,
)
from aaexport.graph.precision.weight_types import LARGEST

X = {"x": images(4, 3, 6, 6)}


def weights_of(model):
    return [numpy_helper.to_array(each) for each in model.graph.initializer if each.name in ("w", "v")]


@pytest.fixture(scope="module")
def given():
    nodes = [
        convolution("x", "a", ("w", "b")),
        ("Relu", ["a"], ["r"], {}),
        convolution("r", "c", ("v",)),
        ("Softmax", ["c"], ["y"], {}),
    ]
    return model(nodes, {"x": ["batch", 3, 6, 6]}, {"w": images(8, 3, 3, 3), "b": images(8), "v": images(4, 8, 3, 3)})


def test_weights_and_biases_are_half_a_unit_from_those_of_float32_at_most(given):
    right = int8(given, X).model
    found = {(each.layer.node, each.what): each for each in constants_in_8_bits(right, given)}
    assert [what for _, what in found] == ["weight", "bias", "weight"]
    for each in found.values():
        error = np.abs(each.held - each.expected).reshape(len(each.expected), -1).max(axis=1)
        assert (error <= each.unit * 0.501).all()
    assert len(stored_convolutions(right)) == 2
    assert not stored_convolutions(given)


@pytest.mark.parametrize("weights", ["int8", "int7"])
def test_signed_weights_are_held_to_the_grid_of_their_own_bits(given, weights):
    whole = constants_in_8_bits(int8(given, X, weights=weights).model, given)
    units = [one.unit for one in whole if one.what == "weight"]
    largest = [np.abs(given_weight).reshape(len(given_weight), -1).max(axis=1) for given_weight in weights_of(given)]
    for unit, most in zip(units, largest, strict=True):
        np.testing.assert_allclose(unit, most / LARGEST[weights], rtol=1e-6)


def test_every_tensor_in_8_bits_is_told_with_the_name_it_has_in_float32(given):
    found = {each.name: each for each in activations(int8(given, X).model)}
    assert list(found) == ["x", "r", "c"]
    assert all(each.is_of_convolution and (each.low, each.high) == (0, 255) for each in found.values())
    assert found["r"].zero_point == 0
    image = X["x"].astype(np.float64)
    assert np.abs(found["x"].rounded(image) - image).max() <= found["x"].scale / 2 * 1.001


def test_what_is_read_by_another_scale_and_what_belongs_to_no_convolution_shows(given):
    right = int8(given, X).model
    (wrong,) = [each for each in activations(scale_off(1)(right)) if each.read_scale != each.scale]
    assert wrong.read_scale == pytest.approx(2 * wrong.scale)
    strange = [each for each in activations(attention_quantized(right)) if not each.is_of_convolution]
    assert [each.layer.operator for each in strange]


def test_float16_holds_the_float32_numbers_rounded(given):
    found = list(constants_in_float16(float16(given, X).model, given))
    assert {each.what for each in found} == {"w", "b", "v"}
    for each in found:
        np.testing.assert_array_equal(each.held, each.expected.astype(np.float16).astype(np.float64))
