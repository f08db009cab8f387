"""The mutants themselves: each is a valid file that computes something else than the one it was made of."""

import numpy as np
import pytest
from graphs import convolution
from precision_graphs import decibels, evaluated, float16, images, int8, model, run
from precision_mutants import FLOAT16, INT8, calibrated_on_noise, louder_attention, overflow_hidden

from aaexport.graph.check import check_model

X = {"x": images(4, 3, 6, 6)}


@pytest.fixture(scope="module")
def given():
    """Two convolutions with a ReLU behind each, and attention of the second to itself."""
    nodes = [
        convolution("x", "a", ("w", "b")),
        ("Relu", ["a"], ["r"], {}),
        convolution("r", "c", ("v",)),
        ("Relu", ["c"], ["d"], {}),
        ("Transpose", ["d"], ["k"], {"perm": [0, 1, 3, 2]}),
        ("Mul", ["d", "scale"], ["q"], {}),
        ("MatMul", ["q", "k"], ["s"], {}),
        ("Softmax", ["s"], ["p"], {}),
        ("MatMul", ["p", "d"], ["y"], {}),
    ]
    constants = {
        "w": images(8, 3, 3, 3, scale=0.3) * np.float32([[[[0.1]]]] * 4 + [[[[1]]]] * 4),
        "b": images(8),
        "v": images(4, 8, 3, 3, scale=0.3) * np.float32([[[[0.1]]]] * 2 + [[[[1]]]] * 2),
        "scale": np.float32([0.2]),
    }
    return model(nodes, {"x": ["batch", 3, 6, 6]}, constants)


@pytest.mark.parametrize("name", INT8)
def test_a_mutant_of_int8_is_valid_and_answers_worse(given, name):
    right = int8(given, X).model
    before = right.SerializeToString(deterministic=True)
    wrong = INT8[name](right)
    check_model(wrong)
    expected = run(given, X)
    assert decibels(expected, run(wrong, X)) < decibels(expected, run(right, X)) - 0.5
    assert right.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", FLOAT16)
def test_a_mutant_of_float16_is_valid_and_answers_worse(given, name):
    right = float16(given, X).model
    wrong = FLOAT16[name](right)
    check_model(wrong)
    expected = run(given, X)
    assert decibels(expected, run(wrong, X)) < decibels(expected, run(right, X)) - 5


def test_calibration_on_noise_is_worse(given):
    expected = run(given, X)
    noisy = calibrated_on_noise(given, (4, 3, 6, 6))
    assert decibels(expected, run(noisy, X)) < decibels(expected, run(int8(given, X).model, X)) - 5


def test_an_overflow_is_hidden_by_the_cpu_and_not_by_the_evaluator(given):
    loud = louder_attention(given, 300)
    wrong = overflow_hidden(loud)
    check_model(wrong)
    assert np.isfinite(run(wrong, X)["y"]).all()
    assert not np.isfinite(evaluated(wrong, X)["y"]).all()
    assert np.isfinite(evaluated(float16(loud, X).model, X)["y"]).all()
