import numpy as np
import pytest
from graphs import assert_same_function, convolution, graph, operators, optimized

from aaexport.device import TARGETS
from aaexport.graph.rules.convolutions_in_parallel import ConvolutionsInParallel

INPUT = {"x": ["batch", 3, 6, 5]}
CONSTANTS = {"w": [4, 3, 3, 3], "b": [4], "u": [7, 3, 3, 3], "c": [7], "parts": np.array([3, 3, 1])}
CONV = convolution("x", "a", ["w", "b"])
QKV = convolution("x", "qkv", ["u", "c"])
SPLIT = ("Split", ["qkv", "parts"], ["q", "k", "v"], {"axis": 1})


class Paying(ConvolutionsInParallel):
    """The rule, wherever it pays."""

    no_gain = {}  # noqa: RUF012


def model(*nodes, parts=("a", "q", "k", "v"), outputs=(), constants=None):
    """The nodes, and an Abs of each part, which is an output."""
    used = {name for _, inputs, _, _ in nodes for name in inputs}
    readers = [("Abs", [part], [f"{part}_out"], {}) for part in parts]
    constants = {key: value for key, value in (CONSTANTS | (constants or {})).items() if key in used}
    return graph([*nodes, *readers], INPUT, constants, (*(f"{part}_out" for part in parts), *outputs))


@pytest.mark.parametrize(
    "nodes",
    [
        (CONV, QKV, SPLIT),
        (QKV, SPLIT, CONV),
        (convolution("x", "a", ["w"]), QKV, SPLIT),
        (convolution("x", "a", ["w"]), convolution("x", "qkv", ["u"]), SPLIT),
        (convolution("x", "a", ["w"], strides=[2, 2]), convolution("x", "qkv", ["u"], strides=[2, 2]), SPLIT),
    ],
    ids=["convolution first", "queries first", "one bias", "no bias", "stride 2"],
)
def test_one_convolution_and_one_split_are_left(nodes):
    before = model(*nodes)
    rewritten, report = optimized(before, Paying)
    assert report.applied == 1
    assert operators(rewritten) == ["Conv", "Split", *["Abs"] * 4]
    assert_same_function(before, rewritten)


def test_what_reads_the_parts_stays_in_order():
    before = model(QKV, SPLIT, ("Exp", ["q"], ["y"], {}), CONV, outputs=("y",))
    rewritten, _ = optimized(before, Paying)
    assert operators(rewritten) == ["Conv", "Split", "Exp", *["Abs"] * 4]
    assert_same_function(before, rewritten)


def test_another_stride_is_left():
    before = model(convolution("x", "a", ["w"], strides=[2, 2]), QKV, SPLIT)
    rewritten, report = optimized(before, Paying)
    assert report.refused == {"the convolutions differ in kernel, stride, padding or dilation": 1}
    assert operators(rewritten) == operators(before)


def test_convolutions_that_nobody_splits_are_not_what_it_is_for():
    before = model(CONV, QKV, parts=("a", "qkv"))
    rewritten, report = optimized(before, Paying)
    assert (report.applied, report.refused) == (0, {})
    assert operators(rewritten) == operators(before)


@pytest.mark.parametrize("output", ["a", "k"])
def test_a_part_that_is_an_output_of_the_graph_is_left(output):
    before = model(CONV, QKV, SPLIT, outputs=(output,))
    rewritten, report = optimized(before, Paying)
    assert report.refused == {f"{output} is an output of the graph": 1}
    assert operators(rewritten) == operators(before)


@pytest.mark.parametrize("target", TARGETS)
def test_where_it_does_not_pay_it_is_refused_with_the_reason(target):
    before = model(CONV, QKV, SPLIT)
    rewritten, report = optimized(before, ConvolutionsInParallel, target=target)
    assert report.refused == {f"it does not pay on {target}: {ConvolutionsInParallel.no_gain[target]}": 1}
    assert operators(rewritten) == operators(before)


def test_convolutions_in_groups_are_left():
    grouped = convolution("x", "a", ["g"], group=3)
    before = model(grouped, QKV, SPLIT, constants={"g": [6, 1, 3, 3]})
    rewritten, report = optimized(before, Paying)
    assert report.refused == {"a convolution is in groups": 1}
    assert operators(rewritten) == operators(before)
