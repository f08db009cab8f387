import pytest
from graphs import assert_same_function, graph, operators, optimized

from aaexport.graph.rules.max_pool_of_slices import MaxPoolOfSlices


def model(opset=23, outputs=("y",), shape=("batch", 3, 9, 8), **attributes):
    nodes = [("MaxPool", ["x"], list(outputs), attributes)]
    return graph(nodes, {"x": list(shape)}, {}, outputs[:1], opset=opset)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, ["Pad", *(["Slice"] * 3 + ["Max"]) * 2]),
        ({"kernel_shape": [2, 2], "strides": [2, 2]}, (["Slice"] * 2 + ["Max"]) * 2),
        ({"kernel_shape": [3, 2]}, [*["Slice"] * 3, "Max", *["Slice"] * 2, "Max"]),
        ({"kernel_shape": [3, 1], "strides": [1, 2], "pads": [0, 0, 2, 0]}, ["Pad", *["Slice"] * 3, "Max", "Slice"]),
        ({"kernel_shape": [2, 2], "auto_pad": "VALID", "dilations": [1, 1]}, (["Slice"] * 2 + ["Max"]) * 2),
    ],
)
def test_each_axis_is_taken_by_itself(attributes, expected):
    before = model(**attributes)
    rewritten, report = optimized(before, MaxPoolOfSlices, target="cuda")
    assert report.applied == 1
    assert operators(rewritten) == expected
    assert_same_function(before, rewritten)


def test_maps_of_unknown_size_and_of_one_axis_are_pooled_too():
    for shape, kernel in ((("batch", 3, "height", "width"), [3, 3]), (("batch", 3, 8), [3])):
        before = model(shape=shape, kernel_shape=kernel, strides=[2] * len(kernel), pads=[1] * 2 * len(kernel))
        rewritten, report = optimized(before, MaxPoolOfSlices, target="cuda")
        assert report.applied == 1
        assert_same_function(before, rewritten, batch=7)


def test_an_opset_that_has_a_kernel_keeps_it():
    rewritten, report = optimized(model(opset=21, kernel_shape=[2, 2]), MaxPoolOfSlices, target="cuda")
    assert (report.applied, report.refused) == (0, {})
    assert operators(rewritten) == ["MaxPool"]


@pytest.mark.parametrize(
    ("reason", "more"),
    [
        ("where the largest numbers lie is read too", {"outputs": ("y", "places")}),
        ("its padding depends on sizes", {"auto_pad": "SAME_UPPER"}),
        ("its last windows may be incomplete", {"ceil_mode": 1}),
        ("its windows have gaps", {"dilations": [2, 2]}),
    ],
)
def test_other_windows_are_left(reason, more):
    _, report = optimized(model(kernel_shape=[2, 2], **more), MaxPoolOfSlices, target="cuda")
    assert report.refused == {reason: 1}
