from graphs import assert_same_function, convolution, graph, operators, optimized

from aaexport.graph.rules.relu_through_concat import ReluThroughConcat


def model(first):
    nodes = [first, ("Concat", ["a", "z"], ["joined"], {"axis": 1}), ("Relu", ["joined"], ["y"], {})]
    return graph(nodes, {"x": ["batch", 3, 4, 5], "z": ["batch", 2, 4, 5]}, {"w": [4, 3, 3, 3]})


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
