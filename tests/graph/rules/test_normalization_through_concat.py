import numpy as np
import pytest
from graphs import assert_same_function, convolution, graph, operators, optimized

from aaexport.graph.rules.normalization_into_convolution import NormalizationIntoConvolution
from aaexport.graph.rules.normalization_through_concat import NormalizationThroughConcat

IMAGE = {"x": ["batch", 3, 4, 5], "z": ["batch", 2, 4, 5]}
NORMALIZATION = {"scale": [6], "bias": [6], "mean": [6], "variance": [6]}


def model(*, outputs=("y",)):
    """BatchNormalization(Concat(Conv(x), z))."""
    nodes = [
        convolution("x", "a", ["w"]),
        ("Concat", ["a", "z"], ["joined"], {"axis": 1}),
        ("BatchNormalization", ["joined", *NORMALIZATION], ["y"], {"epsilon": 1e-3}),
    ]
    return graph(nodes, IMAGE, {"w": [4, 3, 3, 3], **NORMALIZATION}, outputs)


def test_the_convolution_takes_its_share_into_its_weights():
    rewritten, report = optimized(model(), NormalizationThroughConcat, NormalizationIntoConvolution)
    assert report.applied == 1
    assert operators(rewritten) == ["Conv", "BatchNormalization", "Concat"]
    assert_same_function(model(), rewritten)


def test_two_convolutions_leave_no_normalization():
    nodes = [
        convolution("x", "a", ["w"]),
        convolution("x", "b", ["v", "c"], size=1),
        ("Concat", ["a", "b"], ["joined"], {"axis": -3}),
        ("BatchNormalization", ["joined", *NORMALIZATION], ["y"], {}),
    ]
    before = graph(nodes, {"x": IMAGE["x"]}, {"w": [4, 3, 3, 3], "v": [2, 3, 1, 1], "c": [2], **NORMALIZATION})
    rewritten, _ = optimized(before, NormalizationThroughConcat, NormalizationIntoConvolution)
    assert operators(rewritten) == ["Conv", "Conv", "Concat"]
    assert_same_function(before, rewritten)


def refused(before, reason):
    rewritten, report = optimized(before, NormalizationThroughConcat, NormalizationIntoConvolution)
    assert report.refused == {reason: 1}
    assert operators(rewritten) == operators(before)


def test_joined_channels_that_are_an_output_too_are_left():
    refused(model(outputs=("y", "joined")), "the output of Concat Concat_1 is read elsewhere too")


def test_a_convolution_that_others_read_too_is_left():
    refused(
        model(outputs=("y", "a")),
        "no joined part is the output of a convolution that it could fold into",
    )


def test_rows_joined_to_rows_are_left():
    nodes = [
        convolution("x", "a", ["w"]),
        ("Concat", ["a", "t"], ["joined"], {"axis": 2}),
        ("BatchNormalization", ["joined", "scale", "bias", "mean", "variance"], ["y"], {}),
    ]
    four = {key: [4] for key in NORMALIZATION}
    before = graph(nodes, {"x": [2, 3, 4, 5]}, {"w": [4, 3, 3, 3], "t": [2, 4, 1, 5], **four})
    refused(before, "the Concat does not join channels")


def test_statistics_that_are_computed_are_left():
    nodes = [
        convolution("x", "a", ["w"]),
        ("Concat", ["a", "z"], ["joined"], {"axis": 1}),
        ("Abs", ["given"], ["scale"], {}),
        ("BatchNormalization", ["joined", *NORMALIZATION], ["y"], {}),
    ]
    others = {name: shape for name, shape in NORMALIZATION.items() if name != "scale"}
    before = graph(nodes, {**IMAGE, "given": [6]}, {"w": [4, 3, 3, 3], **others})
    refused(before, "a parameter of the normalization is not a constant")


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_is_the_same(batch):
    rewritten, _ = optimized(model(), NormalizationThroughConcat, NormalizationIntoConvolution)
    assert_same_function(model(), rewritten, batch)


def test_each_part_has_its_own_slice_of_the_parameters():
    rewritten, _ = optimized(model(), NormalizationThroughConcat, NormalizationIntoConvolution)
    (node,) = (node for node in rewritten.graph.node if node.op_type == "BatchNormalization")
    shapes = {tensor.name: tuple(tensor.dims) for tensor in rewritten.graph.initializer}
    assert {shapes[name] for name in node.input[1:]} == {(2,)}
    assert np.isclose(node.attribute[0].f, 1e-3)


def test_a_normalization_by_the_batch_is_left():
    nodes = [
        convolution("x", "a", ["w"]),
        ("Concat", ["a", "z"], ["joined"], {"axis": 1}),
        ("BatchNormalization", ["joined", *NORMALIZATION], ["y", "m", "v"], {"training_mode": 1}),
    ]
    refused(graph(nodes, IMAGE, {"w": [4, 3, 3, 3], **NORMALIZATION}), "it normalises by the batch, as in training")


def test_weights_that_two_convolutions_share_are_left():
    nodes = [
        convolution("x", "a", ["w"]),
        convolution("x", "b", ["w"]),
        ("Concat", ["a", "z"], ["joined"], {"axis": 1}),
        ("BatchNormalization", ["joined", *NORMALIZATION], ["y"], {}),
    ]
    before = graph(nodes, IMAGE, {"w": [4, 3, 3, 3], **NORMALIZATION}, ("y", "b"))
    refused(before, "no joined part is the output of a convolution that it could fold into")
