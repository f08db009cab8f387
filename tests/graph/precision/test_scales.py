import numpy as np
import pytest

from aaexport.graph.precision.ranges import Range
from aaexport.graph.precision.scales import Grid, grid_for, stored_bias, stored_weight, weight_scales
from aaexport.graph.precision.weight_types import LARGEST, WEIGHT_TYPES


def test_a_grid_holds_the_range_and_zero_exactly():
    grid = grid_for(Range(-1.0, 4.1), symmetric=False)
    assert grid == Grid(float(np.float32(0.02)), 50, is_signed=False)
    assert grid.range.low == pytest.approx(-1)
    assert grid.range.high == pytest.approx(4.1)


@pytest.mark.parametrize(
    ("seen", "grid"),
    [
        (Range(0, 2.55), Grid(float(np.float32(0.01)), 0, is_signed=False)),
        (Range(1, 2.55), Grid(float(np.float32(0.01)), 0, is_signed=False)),
        (Range(-2.55, -1), Grid(float(np.float32(0.01)), 255, is_signed=False)),
        (Range(0, 0), Grid(1.0, 0, is_signed=False)),
        (Range(0, 1e-42), Grid(1.0, 0, is_signed=False)),
    ],
)
def test_zero_is_in_every_grid(seen, grid):
    assert grid_for(seen, symmetric=False) == grid


def test_a_symmetric_grid_is_signed():
    assert grid_for(Range(-1.27, 0.5), symmetric=True) == Grid(float(np.float32(0.01)), 0, is_signed=True)


@pytest.mark.parametrize("kind", WEIGHT_TYPES)
def test_the_largest_weight_of_each_channel_is_the_largest_that_is_stored(kind):
    weight = np.float32([[[[1.0]], [[-2.0]]], [[[0.5]], [[0.25]]]])
    scales = weight_scales(weight, kind, None, 1.0)
    stored, zero_points = stored_weight(weight, kind, scales)
    signed = stored.astype(int) - zero_points.astype(int).reshape(-1, 1, 1, 1)
    half = round(LARGEST[kind] / 2)
    np.testing.assert_array_equal(signed[:, :, 0, 0], [[half, -LARGEST[kind]], [LARGEST[kind], half]])
    assert stored.dtype == zero_points.dtype == (np.uint8 if kind == "uint8" else np.int8)
    np.testing.assert_allclose(signed * scales.reshape(-1, 1, 1, 1), weight, atol=float(scales.max()))


def test_two_products_of_int7_fit_into_16_bits():
    assert 2 * 255 * LARGEST["int7"] <= np.iinfo(np.int16).max < 2 * 255 * LARGEST["int8"]


def test_a_channel_without_weights_has_some_scale():
    scales = weight_scales(np.zeros((2, 3), np.float32), "uint8", None, 1.0)
    np.testing.assert_array_equal(scales, [1, 1])
    np.testing.assert_array_equal(stored_weight(np.zeros((2, 3)), "uint8", scales)[0], np.full((2, 3), 128))


def test_a_bias_fits_into_32_bits_however_small_the_weights_are():
    weight, bias = np.float32([[1e-12], [1.0]]), np.float32([100, -3])
    scales = weight_scales(weight, "uint8", bias, input_scale=1e-3)
    stored = stored_bias(bias, scales * np.float32(1e-3))
    np.testing.assert_allclose(stored * (scales * 1e-3), bias, rtol=1e-5)
    assert np.abs(stored.astype(np.int64)).max() <= 2**30 + 2**8
    assert scales[1] == np.float32(1 / 127)
