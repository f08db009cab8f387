import numpy as np
from graphs import assert_same_function, graph, operators, optimized
from onnx import numpy_helper

from aaexport.graph.rules.reshape_to_known_sizes import ReshapeToKnownSizes

FIRST = [("Shape", ["x"], ["shape"], {}), ("Slice", ["shape", "zero", "one"], ["batch"], {})]
CONSTANTS = {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([2, 3, 4])}


def model(*nodes, shape=("batch", 6, 4)):
    used = {name for _, inputs, _, _ in nodes for name in inputs}
    return graph(nodes, {"x": list(shape)}, {name: value for name, value in CONSTANTS.items() if name in used})


def split_heads(*more):
    return model(*FIRST, *more, ("Concat", ["batch", "rest"], ["sizes"], {"axis": 0}),
                 ("Reshape", ["x", "sizes"], ["y"], {}))  # fmt: skip


def test_the_batch_is_left_to_the_reshape():
    before = split_heads()
    rewritten, report = optimized(before, ReshapeToKnownSizes)
    assert report.applied == 1
    assert operators(rewritten) == ["Reshape"]
    (sizes,) = (numpy_helper.to_array(tensor).tolist() for tensor in rewritten.graph.initializer)
    assert sizes == [-1, 2, 3, 4]
    assert_same_function(before, rewritten, 5)


def test_two_sizes_that_depend_on_the_batch_are_left():
    nodes = [
        *FIRST,
        ("Concat", ["batch", "batch", "rest"], ["sizes"], {"axis": 0}),
        ("Expand", ["one_more", "sizes"], ["more"], {}),
        ("Unsqueeze", ["x", "zero"], ["one_more_"], {}),
        ("Reshape", ["one_more_", "four"], ["one_more"], {}),
        ("Shape", ["more"], ["shape_of_more"], {}),
        ("Reshape", ["more", "shape_of_more"], ["y"], {}),
    ]
    order = [0, 1, 2, 4, 5, 3, 6, 7]
    constants = {**CONSTANTS, "four": np.array([1, -1, 2, 3, 4])}
    before = graph([nodes[index] for index in order], {"x": ["batch", 6, 4]}, constants)
    rewritten, report = optimized(before, ReshapeToKnownSizes)
    assert report.refused == {"more than one size depends on the batch": 1}
    assert operators(rewritten) == operators(before)


def test_other_dynamic_sizes_are_left():
    before = model(("Shape", ["x"], ["sizes"], {}), ("Reshape", ["x", "sizes"], ["y"], {}), shape=("batch", "length"))
    rewritten, report = optimized(before, ReshapeToKnownSizes)
    assert report.refused == {"a size does not follow from the batch": 1}
    assert operators(rewritten) == operators(before)


def test_constant_sizes_are_not_worth_a_word():
    before = graph([("Reshape", ["x", "sizes"], ["y"], {})], {"x": ["batch", 6]}, {"sizes": np.array([-1, 2, 3])})
    _, report = optimized(before, ReshapeToKnownSizes)
    assert (report.applied, report.refused) == (0, {})
