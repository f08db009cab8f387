import numpy as np
import pytest
from graphs import assert_same_function, graph, operators, optimized

from aaexport.graph.rules.stacks_without_broadcast import StacksWithoutBroadcast


@pytest.mark.parametrize(("left", "right"), [((5, 3, 4), (5, 4, 6)), ((2, 5, 3, 4), (2, 5, 4, 6))])
def test_tables_that_all_images_share_are_not_repeated(left, right):
    before = graph([("MatMul", ["x", "tables"], ["y"], {})], {"x": ["batch", *left]}, {"tables": list(right)})
    rewritten, report = optimized(before, StacksWithoutBroadcast, target="cuda")
    assert report.applied == 1
    assert operators(rewritten) == ["Transpose", "Reshape", "MatMul", "Reshape", "Transpose"]
    assert_same_function(before, rewritten)


def test_a_transposition_before_it_is_made_with_its_own():
    nodes = [("Transpose", ["x"], ["maps"], {"perm": [0, 2, 3, 1]}), ("MatMul", ["maps", "tables"], ["y"], {})]
    before = graph(nodes, {"x": ["batch", 4, 5, 3]}, {"tables": [5, 4, 6]})
    rewritten, report = optimized(before, StacksWithoutBroadcast, target="cuda")
    assert report.applied == 1
    assert operators(rewritten) == ["Transpose", "Reshape", "MatMul", "Reshape", "Transpose"]
    assert_same_function(before, rewritten)


@pytest.mark.parametrize(("left", "right"), [((5, 3, 4), (4, 6)), ((3, 4), (4, 6)), ((5, 3, 4), (2, 5, 4, 6))])
def test_one_matrix_and_stacks_of_one_height_are_left(left, right):
    tables = {"tables": np.ones(right)}
    before = graph([("MatMul", ["x", "tables"], ["y"], {})], {"x": [2, *left]}, tables)
    rewritten, report = optimized(before, StacksWithoutBroadcast, target="cuda")
    assert (report.applied, report.refused) == (0, {})
    assert operators(rewritten) == ["MatMul"]


def test_what_else_is_repeated_is_left():
    before = graph([("MatMul", ["x", "tables"], ["y"], {})], {"x": ["batch", 5, 3, 4]}, {"tables": [1, 4, 6]})
    _, report = optimized(before, StacksWithoutBroadcast, target="cuda")
    assert report.refused == {"more than the first axis is repeated": 1}


def test_sizes_must_be_known():
    before = graph([("MatMul", ["x", "tables"], ["y"], {})], {"x": ["batch", 5, "rows", 4]}, {"tables": [5, 4, 6]})
    _, report = optimized(before, StacksWithoutBroadcast, target="cuda")
    assert report.refused == {"sizes beside the batch are not known": 1}
