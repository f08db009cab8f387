import pytest
from graphs import assert_same_function, convolution, graph, operators, optimized

from aaexport.device import TARGETS
from aaexport.graph.rules.pointwise_over_concat import PointwiseOverConcat

INPUTS = {"x": ["batch", 3, 4, 5], "z": ["batch", 2, 4, 5]}
JOIN = ("Concat", ["x", "z"], ["joined"], {"axis": 1})


class Paying(PointwiseOverConcat):
    """The rule, wherever it pays."""

    no_gain = {}  # noqa: RUF012


@pytest.mark.parametrize("weight", [["w"], ["w", "b"]], ids=["no bias", "bias"])
def test_the_sum_of_the_parts_is_the_whole(weight):
    constants = {"w": [6, 5, 1, 1], "b": [6]}
    before = graph(
        [JOIN, convolution("joined", "y", weight, size=1, strides=[2, 2])],
        INPUTS,
        {key: constants[key] for key in weight},
    )
    rewritten, report = optimized(before, Paying)
    assert report.applied == 1
    assert operators(rewritten) == ["Conv", "Conv", "Add"]
    assert_same_function(before, rewritten)


def test_larger_kernels_are_not_what_it_is_for():
    before = graph([JOIN, convolution("joined", "y", ["w"])], INPUTS, {"w": [6, 5, 3, 3]})
    _, report = optimized(before, Paying)
    assert (report.applied, report.refused) == (0, {})


def test_joined_channels_that_others_read_are_left():
    nodes = [JOIN, convolution("joined", "y", ["w"], size=1)]
    _, report = optimized(graph(nodes, INPUTS, {"w": [6, 5, 1, 1]}, ("y", "joined")), Paying)
    assert report.refused == {"the output of Concat Concat_0 is read elsewhere too": 1}


@pytest.mark.parametrize("target", TARGETS)
def test_where_it_does_not_pay_it_is_refused_with_the_reason(target):
    before = graph([JOIN, convolution("joined", "y", ["w"], size=1)], INPUTS, {"w": [6, 5, 1, 1]})
    rewritten, report = optimized(before, PointwiseOverConcat, target=target)
    assert report.refused == {f"it does not pay on {target}: {PointwiseOverConcat.no_gain[target]}": 1}
    assert operators(rewritten) == operators(before)


def test_a_convolution_in_groups_is_left():
    nodes = [("Concat", ["x", "x"], ["joined"], {"axis": 1}), convolution("joined", "y", ["w"], size=1, group=2)]
    _, report = optimized(graph(nodes, {"x": INPUTS["x"]}, {"w": [6, 3, 1, 1]}), Paying)
    assert report.refused == {"the convolution is in groups": 1}
