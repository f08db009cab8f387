"""What single tensors of a reduced file lose, and what the file holds otherwise than it says."""

import numpy as np
import pytest
from graphs import convolution
from onnx import numpy_helper
from precision_graphs import float16, images, int8, model, seen
from precision_mutants import (
    as_bfloat16,
    attention_quantized,
    calibrated_on_noise,
    channel_scales_rolled,
    copied,
    per_tensor,
    quantized_against_its_word,
    scale_off,
    scales_swapped,
    weight_saturated,
    zero_point_shifted,
)
from precision_oracles import by_quantizer

from aaexport.graph.precision.kinds import record_origin
from aaexport.parity.by_tensor import excess_db, lone_row, tensor_rows
from aaexport.parity.guard import TensorLoss
from aaexport.parity.thresholds import LEAST_SEEN, SEEN
from aaexport.pipeline.verify.stored import faults_of, tensor_losses, uncompared

X = images(SEEN, 3, 8, 8)
SHOWN = [X]  # what the ranges were taken from: how far those of other images reach is chance
SYMMETRIC = pytest.mark.parametrize("symmetric", [False, True])


@pytest.fixture(scope="module")
def given():
    """Two convolutions, whose channels are of two sizes, and scores of which a softmax is taken."""
    nodes = [
        convolution("x", "a", ("w", "b")),
        ("Relu", ["a"], ["r"], {}),
        convolution("r", "c", ("v",)),
        ("Softmax", ["c"], ["y"], {}),
    ]
    sizes = np.float32([0.05] * 4 + [1] * 4).reshape(-1, 1, 1, 1)
    constants = {"w": images(8, 3, 3, 3) * sizes, "b": images(8), "v": images(8, 8, 3, 3, seed=3) * sizes}
    return model(nodes, {"x": ["batch", 3, 8, 8]}, constants)


def reduced(given, **options):
    """In int8, and saying for which ranges it was made."""
    right = int8(given, {"x": X}, **options).model
    ranges = {name: [one.low, one.high] for name, one in seen(given, "int8", {"x": X}).items()}
    record_origin(right, "", {"ranges": ranges})
    return right


def failed(made, given, kind="int8", sqnr_db=30.0):
    """The measures of single tensors that a file breaks."""
    rows = tensor_rows(kind, tensor_losses(made, given, kind, SHOWN), sqnr_db, len(X))
    return {row.measure for row in rows if not row.passed}


@SYMMETRIC
def test_a_right_file_holds_what_it_says_and_each_tensor_as_well_as_can_be(given, symmetric):
    right = reduced(given, symmetric=symmetric)
    assert faults_of(right) == ()
    assert failed(right, given) == set()
    assert faults_of(given) == ()


@SYMMETRIC
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (scale_off(1), "must be read as it was stored, got other scales or zero points"),
        (zero_point_shifted(1), "must be read as it was stored"),
        (scale_off(1, 0.5, reader_only=False), "must be on the grid of its calibration, of scale"),
        (scale_off(1, 2.0, reader_only=False), "must be on the grid of its calibration, of scale"),
        (scales_swapped(1, 2), "must be on the grid of its calibration, of scale"),
        (attention_quantized, "must be in float32, got 8 bits: no convolution in 8 bits is beside it"),
    ],
)
def test_a_tensor_that_is_held_otherwise_than_the_file_says_is_named(given, symmetric, fault, words):
    lines = faults_of(fault(reduced(given, symmetric=symmetric)))
    assert lines
    assert all(line.startswith("tensor ") for line in lines)
    assert any(words in line for line in lines)


@SYMMETRIC
def test_a_layer_that_was_to_stay_in_float32_is_named(given, symmetric):
    ranges = seen(given, "int8", {"x": X})
    (line,) = faults_of(quantized_against_its_word(given, ranges, "Conv_2", symmetric=symmetric))
    assert line == "Conv Conv_2 must stay in float32 as it was asked to, got weights in 8 bits"


@SYMMETRIC
@pytest.mark.parametrize("fault", [per_tensor(), per_tensor([1]), weight_saturated(1), channel_scales_rolled(1)])
def test_a_weight_on_a_grid_that_is_not_its_own_costs_more_than_it_need(given, symmetric, fault):
    assert "weights" in failed(fault(reduced(given, symmetric=symmetric)), given)


@SYMMETRIC
def test_ranges_of_noise_cost_more_than_those_of_images(given, symmetric):
    noisy = calibrated_on_noise(given, X.shape, symmetric=symmetric)
    assert failed(noisy, given) >= {"activations"}
    assert "activations" not in failed(noisy, given, sqnr_db=41.0)  # nobody sees it in the answers


def test_a_grid_of_another_tool_that_is_as_fine_is_right(given):
    """Its units are 1/255 of a channel's range, and not 1/254: single numbers, as biases, are rounded otherwise."""
    rows = list(tensor_rows("int8", tensor_losses(by_quantizer(given, {"x": X}), given, "int8", SHOWN), 30.0, SEEN))
    assert [row.value for row in rows if row.measure == "weights"] < [1.0]


def test_what_another_tool_wrote_of_the_ranges_is_not_trusted(given):
    right = reduced(given)
    for told in ("none", {"r": 7}, {"r": [None, 1.0]}, {"r": ["a", "b"]}, {"r": [0.0, float("nan")]}):
        other = copied(right)
        record_origin(other, "", {"ranges": told})
        assert faults_of(other) == ()


def test_a_weight_in_float16_is_the_float32_number_rounded(given):
    right = float16(given, {"x": X}).model
    assert failed(right, given, "float16") == set()
    assert failed(as_bfloat16(right), given, "float16") == {"weights"}


def test_a_float16_constant_that_became_infinity_has_lost_all(given):
    right = float16(given, {"x": X}).model
    (bias,) = [each for each in right.graph.initializer if each.name == "b"]
    for other, passes in ((np.inf, False), (65504, True)):
        wide = copied(given)
        (numbers,) = [each for each in wide.graph.initializer if each.name == "b"]
        numbers.CopyFrom(numpy_helper.from_array(np.float32([1e6, -np.inf] + [0.5] * 6), "b"))
        bias.CopyFrom(numpy_helper.from_array(np.float16([other, -np.inf] + [0.5] * 6), "b"))
        assert (failed(right, wide, "float16") == set()) == passes
    assert failed(right, given, "float16") == {"weights"}


@pytest.mark.parametrize(("noise", "least"), [(np.inf, np.inf), (np.inf, 1.0), (np.nan, 1.0), (1.0, 0.0)])
def test_noise_without_measure_is_more_than_any(noise, least):
    assert excess_db(np.array([1.0, noise]), np.array([1.0, least])) == np.inf
    assert excess_db(0.0, 0.0) == 0


@SYMMETRIC
def test_channels_of_which_next_to_nothing_is_left_are_as_right_as_bits_allow(given, symmetric):
    """Their biases tell the unit, which must fit 32 bits; what is below the least of float32 is nothing."""
    dead = copied(given)
    for tensor in dead.graph.initializer:
        if tensor.name in ("w", "b"):
            numbers = numpy_helper.to_array(tensor).copy()
            if tensor.name == "b":
                numbers[:5] = 0.5, 0.05, 0.5, 0.0, 1e-33
            else:
                largest = np.abs(numbers[:5]).max(axis=(1, 2, 3), keepdims=True)
                numbers[:5] *= np.float32([1e-7, 1e-9, 1e-20, 1e-42, 0]).reshape(-1, 1, 1, 1) / largest
            tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
    right = reduced(dead, symmetric=symmetric)
    assert failed(right, dead) == set()
    for fault in (per_tensor(), weight_saturated(1), channel_scales_rolled(1)):
        assert "weights" in failed(fault(right), dead)


def of_activations(images, *excesses, sqnr_db=30.0):
    """Measure → row."""
    tensors = [TensorLoss("", "n", "t", "activation", 30.0, excess) for excess in excesses]
    return {row.measure: row for row in tensor_rows("int8", tensors, sqnr_db, images)}


@pytest.mark.parametrize(("count", "bound"), [(8, 3.0), (16, 2.25), (32, 1.5), (64, 1.5)])
def test_ranges_of_few_images_may_be_narrower(count, bound):
    for value, passes in ((bound - 0.01, True), (bound + 0.01, False)):
        row = of_activations(count, value)["activations"]
        assert (row.bound, row.passed, row.images) == (bound, passes, count)
        assert row.margin == pytest.approx(bound - value)
        assert (f"because {count} images reach less far" in row.detail) == (count < SEEN)


def test_ranges_of_very_few_images_judge_nothing_and_that_is_told():
    rows = of_activations(LEAST_SEEN - 1, 20.0, 30.0)
    assert [(row.passed, row.judged) for row in rows.values()] == [(True, False)] * 2
    assert {row.detail for row in rows.values()} == {"not judged: at least 8 different images tell ranges, got 7"}
    assert not of_activations(LEAST_SEEN, 20.0)["worst activation"].passed
    for few, sqnr_db in ((1, 30.0), (64, 50.0)):  # but a scale that is none
        row = of_activations(few, np.inf, sqnr_db=sqnr_db)["activations"]
        assert (row.passed, row.judged) == (False, True)


def test_what_the_float32_file_has_not_is_told(given):
    right = reduced(given)
    assert uncompared(right, "int8", tensor_losses(right, given, "int8", SHOWN)) == ()
    other = copied(given)
    for tensor in other.graph.initializer:
        if tensor.name == "v":
            tensor.CopyFrom(numpy_helper.from_array(images(8, 8, 1, 1), "v"))
    assert uncompared(right, "int8", tensor_losses(right, other, "int8", SHOWN))[0] == "weight of Conv Conv_2"
    for kind, file in (("int8", right), ("float16", float16(given, {"x": X}).model)):
        none = tensor_losses(file, right, kind, SHOWN)
        assert none == ()
        assert uncompared(file, kind, none)
    row = lone_row("int8", ("weight of a", "weight of b", "weight of c", "weight of d"))
    assert (row.passed, row.value, row.judged) == (True, None, False)
    assert row.detail.endswith("which does not tell them: weight of a, weight of b, weight of c and 1 more")
