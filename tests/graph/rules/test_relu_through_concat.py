from graphs import assert_same_function, convolution, graph, operators, optimized

from aaexport.graph.rules.relu_through_concat import ReluThroughConcat


def model(first, *, axis=1, other=("batch", 2, 4, 5), outputs=("y",)):
    nodes = [first, ("Concat", ["a", "z"], ["joined"], {"axis": axis}), ("Relu", ["joined"], ["y"], {})]
    return graph(nodes, {"x": ["batch", 3, 4, 5], "z": list(other)}, {"w": [4, 3, 3, 3]}, outputs)


def test_each_part_gets_its_own():
    before = model(convolution("x", "a", ["w"]))
    rewritten, report = optimized(before, ReluThroughConcat)
    assert report.applied == 1
    assert operators(rewritten) == ["Conv", "Relu", "Relu", "Concat"]
    assert_same_function(before, rewritten)


def test_parts_that_no_convolution_made_are_left():
    before = model(("Abs", ["x"], ["a"], {}))
    rewritten, report = optimized(before, ReluThroughConcat)
    assert report.refused == {"no joined part is a convolution's own output, so that nothing would fuse": 1}
    assert operators(rewritten) == operators(before)


def test_rows_may_be_joined_too():
    before = model(convolution("x", "a", ["w"]), axis=2, other=("batch", 4, 1, 5))
    rewritten, report = optimized(before, ReluThroughConcat)
    assert report.applied == 1
    assert_same_function(before, rewritten)


def test_joined_channels_that_others_read_are_left():
    before = model(convolution("x", "a", ["w"]), outputs=("y", "joined"))
    _, report = optimized(before, ReluThroughConcat)
    assert report.refused == {"the output of Concat Concat_1 is read elsewhere too": 1}
