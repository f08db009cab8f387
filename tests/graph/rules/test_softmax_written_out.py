import numpy as np
import onnx
import pytest
from graphs import assert_same_function, graph, operators, optimized

from aaexport.graph.rules.softmax_written_out import SoftmaxWrittenOut

LARGEST = ("ReduceMax", ["x", "axis"], ["largest"], {})
SHIFTED = ("Sub", ["x", "largest"], ["shifted"], {})
EXPONENTIAL = ("Exp", ["shifted"], ["e"], {})
TOTAL = ("ReduceSum", ["e", "axis"], ["total"], {})
DIVIDED = ("Div", ["e", "total"], ["y"], {})
BY_HAND = (LARGEST, SHIFTED, EXPONENTIAL, TOTAL, DIVIDED)


def model(*nodes, axis=-1, more=None, outputs=("y",)):
    used = {name for _, inputs, _, _ in nodes for name in inputs}
    constants = {"axis": np.array([axis])} | (more or {})
    return graph(nodes, {"x": ["batch", 2, 3, 5]}, {k: v for k, v in constants.items() if k in used}, outputs)


@pytest.mark.parametrize("axis", [-1, 3, 1, -2])
@pytest.mark.parametrize("batch", [1, 3])
def test_it_is_one_operator(axis, batch):
    before = model(*BY_HAND, axis=axis)
    rewritten, report = optimized(before, SoftmaxWrittenOut)
    assert (report.applied, operators(rewritten)) == (1, ["Softmax"])
    assert_same_function(before, rewritten, batch)


@pytest.mark.parametrize("axis", [-1, 2])
def test_the_exponential_of_the_logarithm_is_one(axis):
    before = model(("LogSoftmax", ["x"], ["l"], {"axis": axis}), ("Exp", ["l"], ["y"], {}))
    rewritten, report = optimized(before, SoftmaxWrittenOut)
    assert (report.applied, operators(rewritten)) == (1, ["Softmax"])
    assert_same_function(before, rewritten)


def test_the_largest_need_not_be_subtracted_before():
    before = model(LARGEST, SHIFTED, ("Softmax", ["shifted"], ["y"], {"axis": 3}))
    rewritten, report = optimized(before, SoftmaxWrittenOut)
    assert (report.applied, operators(rewritten)) == (1, ["Softmax"])
    assert_same_function(before, rewritten)


OTHERS = {
    "nothing subtracted": (("Exp", ["x"], ["e"], {}), TOTAL, DIVIDED),
    "sum along another axis": (*BY_HAND[:3], ("ReduceSum", ["e", "other"], ["total"], {}), DIVIDED),
    "largest along another axis": (("ReduceMax", ["x", "other"], ["largest"], {}), *BY_HAND[1:]),
    "largest of all": (("ReduceMax", ["x", "both"], ["largest"], {}), *BY_HAND[1:]),
    "smallest": (("ReduceMin", ["x", "axis"], ["largest"], {}), *BY_HAND[1:]),
    "largest of something else": (
        ("Relu", ["x"], ["r"], {}), ("ReduceMax", ["r", "axis"], ["largest"], {}), *BY_HAND[1:]),
    "the other way round": (LARGEST, ("Sub", ["largest", "x"], ["shifted"], {}), *BY_HAND[2:]),
    "sum over the numbers": (*BY_HAND[:4], ("Div", ["total", "e"], ["y"], {})),
    "mean": (*BY_HAND[:3], ("ReduceMean", ["e", "axis"], ["total"], {}), DIVIDED),
    "softmax along another axis": (LARGEST, SHIFTED, ("Softmax", ["shifted"], ["y"], {"axis": 1})),
}  # fmt: skip


@pytest.mark.parametrize("nodes", OTHERS.values(), ids=OTHERS)
def test_what_is_something_else_is_left(nodes):
    before = model(*nodes, more={"other": np.array([1]), "both": np.array([2, 3])})
    rewritten, report = optimized(before, SoftmaxWrittenOut)
    assert (report.applied, report.refused) == (0, {})
    assert operators(rewritten) == operators(before)


def test_numbers_that_others_read_have_to_be_there():
    before = model(*BY_HAND, outputs=("y", "e"))
    (reason,) = optimized(before, SoftmaxWrittenOut)[1].refused
    assert "is read elsewhere too" in reason


def test_a_logarithm_that_others_read_is_not_computed_a_second_time():
    before = model(("LogSoftmax", ["x"], ["l"], {"axis": -1}), ("Exp", ["l"], ["y"], {}), outputs=("y", "l"))
    (reason,) = optimized(before, SoftmaxWrittenOut)[1].refused
    assert "is read elsewhere too" in reason


@pytest.mark.parametrize(("axis", "applied"), [(3, 1), (1, 0)])
def test_before_opset_13_it_goes_along_the_last_axis_only(axis, applied):
    """Softmax merged the axes after its own with it; the largest and the sum had their axes as attributes."""
    before = model(*BY_HAND)
    for node in (before.graph.node[0], before.graph.node[3]):
        del node.input[1]
        node.attribute.append(onnx.helper.make_attribute("axes", [axis]))
    before.opset_import[0].version = 12
    del before.graph.initializer[:]
    del before.graph.value_info[:]
    rewritten, report = optimized(before, SoftmaxWrittenOut)
    assert report.applied == applied
    assert_same_function(before, rewritten)
