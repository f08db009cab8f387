import numpy as np
import pytest
from graphs import assert_same_function, convolution, graph, operators, optimized

from aaexport.graph.rules.normalization_into_convolution import NormalizationIntoConvolution
from aaexport.graph.rules.normalization_through_matmul import NormalizationThroughMatmul

UP = np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])  # 2 positions → 3
CONV = convolution("x", "a", ["w"])
NORMALIZATION = ("BatchNormalization", ["m", "scale", "bias", "mean", "variance"], ["y"], {})
FOUR = {name: [4] for name in ("scale", "bias", "mean", "variance")}


def model(*products, matrices, first=CONV, outputs=("y",)):
    return graph(
        [first, *products, NORMALIZATION], {"x": ["batch", 4, 2, 2]}, {"w": [4, 4, 3, 3], **matrices, **FOUR}, outputs
    )


@pytest.mark.parametrize(
    ("products", "matrices", "left"),
    [
        ([("MatMul", ["h", "a"], ["m"], {})], {"h": UP}, ["Conv", "MatMul"]),
        ([("MatMul", ["a", "w2"], ["m"], {})], {"w2": UP.T}, ["Conv", "MatMul"]),
        (
            [("MatMul", ["a", "w2"], ["b"], {}), ("MatMul", ["h", "b"], ["m"], {})],
            {"h": UP, "w2": UP.T},
            ["Conv", "MatMul", "MatMul"],
        ),
    ],
    ids=["height", "width", "both"],
)
def test_the_normalization_folds_into_the_convolution_before(products, matrices, left):
    before = model(*products, matrices=matrices)
    rewritten, report = optimized(before, NormalizationThroughMatmul, NormalizationIntoConvolution)
    assert report.applied == len(products)
    assert operators(rewritten) == left
    assert_same_function(before, rewritten)


def test_a_matrix_whose_weights_do_not_sum_to_1_is_left():
    before = model(("MatMul", ["h", "a"], ["m"], {}), matrices={"h": 2 * UP})
    rewritten, report = optimized(before, NormalizationThroughMatmul, NormalizationIntoConvolution)
    assert report.refused == {"the matrix does not interpolate: its weights do not sum to 1": 1}
    assert operators(rewritten) == operators(before)


def test_a_matrix_that_sums_to_1_the_other_way_is_left():
    before = model(("MatMul", ["a", "w2"], ["m"], {}), matrices={"w2": np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])})
    _, report = optimized(before, NormalizationThroughMatmul, NormalizationIntoConvolution)
    assert report.refused == {"the matrix does not interpolate: its weights do not sum to 1": 1}


def test_a_map_that_no_convolution_made_is_left():
    before = model(("MatMul", ["h", "a"], ["m"], {}), matrices={"h": UP}, first=("Abs", ["x"], ["a"], {}))
    _, report = optimized(before, NormalizationThroughMatmul, NormalizationIntoConvolution)
    reason = "what is interpolated is not the output of a convolution that it could fold into"
    assert report.refused == {reason: 1}


def test_a_product_of_two_maps_is_not_what_it_is_for():
    before = model(("MatMul", ["a", "a"], ["m"], {}), matrices={})
    _, report = optimized(before, NormalizationThroughMatmul, NormalizationIntoConvolution)
    assert (report.applied, report.refused) == (0, {})


def test_a_product_that_others_read_is_left():
    before = model(("MatMul", ["h", "a"], ["m"], {}), matrices={"h": UP}, outputs=("y", "m"))
    _, report = optimized(before, NormalizationThroughMatmul)
    assert report.refused == {"the output of MatMul MatMul_1 is read elsewhere too": 1}
