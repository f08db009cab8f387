import numpy as np
import onnx
import pytest
from graphs import assert_same_function, graph, operators, optimized
from onnx import numpy_helper

import aaexport
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


BATCH = [("Shape", ["x"], ["shape"], {}), ("Gather", ["shape", "first"], ["batch"], {"axis": 0})]
NUMBERS = {"first": np.array([0]), "second": np.array([1]), "two": np.array([2]), "seven": np.array([7]),
           "eight": np.array([8]), "five": np.array([5]), "rest": np.array([-1])}  # fmt: skip


def grouped(*nodes, data="x"):
    """A Reshape of `data` to (groups, −1), where `nodes` compute the groups."""
    last = [("Concat", ["groups", "rest"], ["sizes"], {"axis": 0}), ("Reshape", [data, "sizes"], ["y"], {})]
    used = {name for _, inputs, _, _ in (*nodes, *last) for name in inputs}
    constants = {name: value for name, value in NUMBERS.items() if name in used}
    return graph([*nodes, *last], {"x": ["batch", 6, 4]}, constants)


BY_CHANCE = {
    "ceil": ([("Add", ["batch", "seven"], ["more"], {}), ("Div", ["more", "eight"], ["groups"], {})], "Div"),
    "least": ([("Min", ["batch", "two"], ["groups"], {})], "Min"),
    "remainder": ([("Mod", ["batch", "five"], ["groups"], {})], "Mod"),
}


@pytest.mark.parametrize("name", BY_CHANCE)
def test_sizes_that_agree_for_two_batches_by_chance_are_left(name):
    nodes, operator = BY_CHANCE[name]
    before = grouped(*BATCH, *nodes)
    rewritten, report = optimized(before, ReshapeToKnownSizes)
    assert report.refused == {f"a size is computed from the batch by {operator}, not by products alone": 1}
    assert operators(rewritten) == operators(before)


def test_a_size_read_off_a_value_of_such_a_size_is_left():
    nodes, _ = BY_CHANCE["ceil"]
    other = [(op, ins, [{"groups": "g"}.get(out, out) for out in outs], more) for op, ins, outs, more in nodes]
    before = grouped(
        *BATCH, *other,
        ("Concat", ["g", "rest"], ["s"], {"axis": 0}), ("Reshape", ["x", "s"], ["r"], {}),
        ("Shape", ["r"], ["shape_of_r"], {}), ("Gather", ["shape_of_r", "first"], ["groups"], {"axis": 0}),
    )  # fmt: skip
    rewritten, report = optimized(before, ReshapeToKnownSizes)
    assert report.refused == {"a size is computed from the batch by Div, not by products alone": 2}
    assert operators(rewritten) == operators(before)


def test_the_size_of_a_part_of_the_batch_is_left():
    nodes = [
        ("Slice", ["x", "first", "most", "first", "eight"], ["part"], {}),
        ("Shape", ["part"], ["shape"], {}),
        ("Gather", ["shape", "first"], ["groups"], {"axis": 0}),
    ]
    last = [("Concat", ["groups", "rest"], ["sizes"], {"axis": 0}), ("Reshape", ["x", "sizes"], ["y"], {})]
    constants = {**{name: NUMBERS[name] for name in ("first", "eight", "rest")}, "most": np.array([2**31])}
    before = graph([*nodes, *last], {"x": ["batch", 6, 4]}, constants)
    rewritten, report = optimized(before, ReshapeToKnownSizes)
    assert report.refused == {"a size is that of a part of the batch": 1}
    assert operators(rewritten) == operators(before)


def test_any_operator_may_compute_sizes_that_do_not_depend_on_the_batch():
    half = [
        ("Shape", ["x"], ["shape"], {}),
        ("Gather", ["shape", "second"], ["channels"], {"axis": 0}),
        ("Div", ["channels", "two"], ["groups"], {}),
    ]
    before = grouped(*half)
    rewritten, report = optimized(before, ReshapeToKnownSizes)
    assert (report.applied, operators(rewritten)) == (1, ["Reshape"])
    assert_same_function(before, rewritten, 5)


def test_products_of_the_batch_are_left_to_the_reshape():
    before = graph(
        [
            *BATCH,
            ("Mul", ["batch", "two"], ["groups"], {}),
            ("Concat", ["groups", "twelve"], ["sizes"], {"axis": 0}),
            ("Reshape", ["x", "sizes"], ["y"], {}),
        ],
        {"x": ["batch", 6, 4]},
        {"first": np.array([0]), "two": np.array([2]), "twelve": np.array([12])},
    )
    rewritten, report = optimized(before, ReshapeToKnownSizes)
    assert (report.applied, operators(rewritten)) == (1, ["Reshape"])
    assert_same_function(before, rewritten, 5)


def cases(model, folder):
    """What optimize compares of the model's file."""
    onnx.save(model, folder / "in.onnx")
    (row,) = aaexport.optimize(folder / "in.onnx", folder / "out.onnx").parity.computations
    return [output.case for output in row.outputs]


def test_optimize_compares_at_a_larger_batch_too(tmp_path):
    assert cases(split_heads(), tmp_path) == ["random, batch 1", "random, batch 3", "random, batch 17"]


def test_optimize_leaves_out_a_larger_batch_that_the_file_itself_does_not_take(tmp_path):
    nodes, _ = BY_CHANCE["ceil"]
    before = graph(
        [
            *BATCH,
            *nodes,
            ("Concat", ["groups", "rest"], ["sizes"], {"axis": 0}),
            ("Reshape", ["x", "sizes"], ["y"], {}),
        ],
        {"x": ["batch", 4]},
        {name: NUMBERS[name] for name in ("first", "seven", "eight", "rest")},
    )
    assert cases(before, tmp_path) == ["random, batch 1", "random, batch 3"]


def test_optimize_compares_large_inputs_at_small_batches_only(tmp_path):
    large = model(("Relu", ["x"], ["y"], {}), shape=("batch", 500, 500))
    assert cases(large, tmp_path) == ["random, batch 1", "random, batch 3"]
