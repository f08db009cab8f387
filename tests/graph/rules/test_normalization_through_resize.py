import numpy as np
import pytest
from graphs import assert_same_function, convolution, graph, operators, optimized

from aaexport.graph.rules.normalization_into_convolution import NormalizationIntoConvolution
from aaexport.graph.rules.normalization_through_resize import NormalizationThroughResize


def model(first=None, *, outputs=("y",), sizes=(2, 4, 8, 10), **more):
    nodes = [
        first or convolution("x", "a", ["w"]),
        ("Resize", ["a", "", "", "sizes"], ["resized"], {"mode": "linear", **more}),
        ("BatchNormalization", ["resized", "scale", "bias", "mean", "variance"], ["y"], {}),
    ]
    four = {key: [sizes[1]] for key in ("scale", "bias", "mean", "variance")}
    return graph(nodes, {"x": [2, 4, 4, 5]}, {"w": [4, 4, 3, 3], "sizes": np.array(sizes), **four}, outputs)


@pytest.mark.parametrize("mode", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
def test_the_normalization_folds_into_the_convolution_before(mode):
    before = model(coordinate_transformation_mode=mode)
    rewritten, report = optimized(before, NormalizationThroughResize, NormalizationIntoConvolution)
    assert report.applied == 1
    assert operators(rewritten) == ["Conv", "Resize"]
    assert_same_function(before, rewritten)


def test_numbers_from_outside_the_map_are_left():
    before = model(coordinate_transformation_mode="tf_crop_and_resize")
    rewritten, report = optimized(before, NormalizationThroughResize, NormalizationIntoConvolution)
    assert report.refused == {"the Resize reads beyond the map": 1}
    assert operators(rewritten) == operators(before)


def test_a_map_that_no_convolution_made_is_left():
    _, report = optimized(model(("Abs", ["x"], ["a"], {})), NormalizationThroughResize, NormalizationIntoConvolution)
    reason = "what is resized is not the output of a convolution that it could fold into"
    assert report.refused == {reason: 1}


def test_a_map_that_others_read_is_left():
    _, report = optimized(model(outputs=("y", "resized")), NormalizationThroughResize)
    assert report.refused == {"the output of Resize Resize_1 is read elsewhere too": 1}


def test_resized_channels_are_left():
    _, report = optimized(model(sizes=(2, 8, 4, 5)), NormalizationThroughResize)
    assert report.refused == {"the Resize changes the channels": 1}
