import pytest
from graphs import assert_same_function, graph, operators, optimized

from aaexport.graph.optimize import optimize_model
from aaexport.graph.rules import within
from aaexport.graph.rules.einsum_in_batches import EinsumInBatches
from aaexport.graph.rules.einsum_of_tables import EinsumOfTables

SIZES = {"b": 2, "h": 3, "w": 4, "c": 5, "k": 6, "y": 2}


def model(equation, **sizes):
    operands = equation.replace(" ", "").split("->")[0].split(",")
    known = SIZES | sizes
    inputs = {name: [known[axis] for axis in axes] for name, axes in zip("pq", operands, strict=True)}
    return graph([("Einsum", ["p", "q"], ["z"], {"equation": equation})], inputs, {}, outputs=["z"])


@pytest.mark.parametrize(
    ("equation", "transposed"),
    [
        ("bhwc,hkc->bhwk", 1),  # of the tables alone
        ("bhwc,hck->bhwk", 0),
        ("bhwc,wkc->bhwk", 3),
        ("byhwc,hkc->byhwk", 1),  # MViTv2 has an axis of heads
        ("byhwc,wkc->byhwk", 3),
        ("hkc, bhwc -> bhwk", 1),
        ("bhwc,wkc->bkhw", 3),
    ],
)
def test_a_table_a_row_is_a_product_in_batches(equation, transposed):
    before = model(equation)
    rewritten, report = optimized(before, EinsumOfTables)
    assert report.applied == 1
    assert operators(rewritten).count("MatMul") == 1
    assert operators(rewritten).count("Transpose") == transposed
    assert operators(rewritten).count("Reshape") == (2 if transposed == 3 else 0)  # moved anyhow: one matrix a table
    assert "Einsum" not in operators(rewritten)
    assert_same_function(before, rewritten)


@pytest.mark.parametrize("equation", ["bhwc,wkc->bhwk", "wkc,byhwc->byhwk", "bhwc,wkc->wbhk"])
def test_a_table_has_one_matrix_of_rows_where_they_must_be_moved(equation):
    rewritten, _ = optimized(model(equation, b="batch"), EinsumOfTables)
    shapes = {value.name: value.type.tensor_type.shape for value in rewritten.graph.value_info}
    (product,) = (node for node in rewritten.graph.node if node.op_type == "MatMul")
    assert [len(shapes[name].dim) for name in product.input[:1]] == [3]
    assert_same_function(model(equation, b="batch"), rewritten, 3)


def test_rows_stay_apart_where_queries_are_to_be_cut():
    first, _ = within((EinsumOfTables,), 1)
    rewritten, reports = optimize_model(model("bhwc,wkc->bhwk", b="batch"), rules=first)
    assert {report.title: report.applied for report in reports}[EinsumOfTables.title] == 1
    assert "Reshape" not in operators(rewritten)


def test_rows_of_several_unknown_sizes_stay_apart():
    before = model("bhwc,wkc->bhwk", b="batch", h="height")
    rewritten, report = optimized(before, EinsumOfTables)
    assert report.applied == 1
    assert "Reshape" not in operators(rewritten)
    assert_same_function(before, rewritten, 3)


def test_a_dynamic_batch_stays_dynamic():
    before = model("bhwc,wkc->bhwk", b="batch")
    rewritten, report = optimized(before, EinsumOfTables)
    assert report.applied == 1
    assert_same_function(before, rewritten, 3)


@pytest.mark.parametrize(
    "equation",
    ["bhwc,hkc->bhw", "bhwc,hkb->bhwk", "bhwc,hky->bhwk", "bhww,hkc->bhwk", "bhwc,hwc->bhw", "bhwc,hcw->bh"],
)
def test_another_sum_is_left(equation):
    rewritten, report = optimized(model(equation), EinsumOfTables)
    assert report.refused == {f"{equation} is not a product with stacked tables": 1}
    assert operators(rewritten) == ["Einsum"]


@pytest.mark.parametrize("axis", ["h", "c"])
def test_an_axis_of_unknown_size_is_left(axis):
    left, right = (
        {name: "many" if name == axis else size for name, size in SIZES.items()},
        {name: "others" if name == axis else size for name, size in SIZES.items()},
    )
    inputs = {"p": [left[each] for each in "bhwc"], "q": [right[each] for each in "hkc"]}
    before = graph([("Einsum", ["p", "q"], ["z"], {"equation": "bhwc,hkc->bhwk"})], inputs, {}, outputs=["z"])
    rewritten, report = optimized(before, EinsumOfTables)
    assert report.refused == {f"the sizes of axis {axis} are not known to be the same": 1}
    assert operators(rewritten) == ["Einsum"]


def test_stacks_of_as_many_axes_are_for_another_rule():
    before = model("bhwc,bhkc->bhwk")
    _, report = optimized(before, EinsumOfTables, EinsumInBatches)
    assert (report.applied, report.refused) == (0, {})
    _, report = optimized(before, EinsumInBatches, EinsumOfTables)
    assert report.applied == 1


def test_stacks_of_more_axes_are_not_for_that_rule():
    _, report = optimized(model("bhwc,hkc->bhwk"), EinsumInBatches)
    assert (report.applied, report.refused) == (0, {})
