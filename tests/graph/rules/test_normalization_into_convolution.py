import pytest
from graphs import assert_same_function, convolution, graph, operators, optimized

from aaexport.graph.rules.normalization_into_convolution import NormalizationIntoConvolution

INPUT = {"x": ["batch", 3, 4, 5]}
NORMALIZATION = ["scale", "bias", "mean", "variance"]
FOUR = {name: [4] for name in NORMALIZATION}


def model(*, weight=("w", "b"), outputs=("y",), more=(), **attributes):
    nodes = [
        convolution("x", "a", list(weight)),
        *more,
        ("BatchNormalization", ["a", *NORMALIZATION], ["y"], attributes),
    ]
    constants = {"w": [4, 3, 3, 3], "b": [4]}
    return graph(nodes, INPUT, {key: constants[key] for key in weight} | FOUR, outputs)


@pytest.mark.parametrize("weight", [("w", "b"), ("w",)], ids=["bias", "no bias"])
def test_nothing_but_the_convolution_is_left(weight):
    before = model(weight=weight, epsilon=1e-3)
    rewritten, report = optimized(before, NormalizationIntoConvolution)
    assert report.applied == 1
    assert operators(rewritten) == ["Conv"]
    assert_same_function(before, rewritten)


def test_what_is_left_comes_from_the_module_of_the_convolution():
    before = model()
    for node, path in zip(before.graph.node, ("conv", "norm"), strict=True):
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=path)
    rewritten, _ = optimized(before, NormalizationIntoConvolution)
    assert [entry.value for entry in rewritten.graph.node[0].metadata_props if "scopes" in entry.key] == ["conv"]


def test_names_that_are_taken_are_not_taken_again():
    nodes = [
        convolution("x", "a", ["w"]),
        ("BatchNormalization", ["a", *NORMALIZATION], ["y"], {}),
        ("Abs", ["w_normalized"], ["w_bias"], {}),
    ]
    before = graph(nodes, INPUT, {"w": [4, 3, 3, 3], "w_normalized": [2], **FOUR}, ("y", "w_bias"))
    rewritten, report = optimized(before, NormalizationIntoConvolution)
    assert report.applied == 1
    assert_same_function(before, rewritten)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (model(outputs=("y", "a")), "the output of Conv Conv_0 is read elsewhere too"),
        (
            model(more=[convolution("x", "c", ["w"])], outputs=("y", "c")),
            "the convolution's weight or bias is shared, or is not a constant",
        ),
    ],
    ids=["an output too", "shared weights"],
)
def test_what_others_read_is_left(before, reason):
    rewritten, report = optimized(before, NormalizationIntoConvolution)
    assert report.refused == {reason: 1}
    assert operators(rewritten) == operators(before)


def test_a_normalization_by_the_batch_is_left():
    nodes = [
        convolution("x", "a", ["w"]),
        ("BatchNormalization", ["a", *NORMALIZATION], ["y", "m", "v"], {"training_mode": 1}),
    ]
    _, report = optimized(graph(nodes, INPUT, {"w": [4, 3, 3, 3], **FOUR}), NormalizationIntoConvolution)
    assert report.refused == {"it normalises by the batch, as in training": 1}
