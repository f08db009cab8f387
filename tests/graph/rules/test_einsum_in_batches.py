import pytest
from graphs import assert_same_function, graph, operators, optimized

from aaexport.graph.rules.einsum_in_batches import EinsumInBatches

SIZES = {"b": 2, "h": 3, "i": 4, "j": 5, "d": 6}


def model(equation, sizes=SIZES):
    left, right = equation.replace(" ", "").split("->")[0].split(",")
    inputs = {name: [sizes[axis] for axis in axes] for name, axes in (("p", left), ("q", right))}
    return graph([("Einsum", ["p", "q"], ["y"], {"equation": equation})], inputs, {})


@pytest.mark.parametrize(
    ("equation", "transposed"),
    [
        ("bhid,bhdj->bhij", 0),
        ("bhid,bhjd->bhij", 1),
        ("b h d i, b h d j -> b h i j", 1),
        ("hdi,hjd->hij", 2),
        ("bhjd,bhij->bhid", 0),
        ("b h d j,  b h i j -> b h i d", 1),
        ("bhid,bhjd->bhji", 1),
        ("bhdi,bhdj->bhji", 1),
    ],
)
def test_a_product_of_stacks_is_a_matmul(equation, transposed):
    before = model(equation)
    rewritten, report = optimized(before, EinsumInBatches)
    assert report.applied == 1
    assert operators(rewritten) == ["Transpose"] * transposed + ["MatMul"]
    assert_same_function(before, rewritten)


def test_a_dynamic_batch_stays_dynamic():
    before = model("bhid,bhjd->bhij", SIZES | {"b": "batch"})
    rewritten, report = optimized(before, EinsumInBatches)
    assert report.applied == 1
    assert_same_function(before, rewritten, 3)


@pytest.mark.parametrize("equation", ["bhid,bhjd->bhi", "bhid,bhjd->bij", "bhid,hbjd->bhij", "bhid,bhid->bhi"])
def test_another_sum_is_left(equation):
    rewritten, report = optimized(model(equation), EinsumInBatches)
    assert report.refused == {f"{equation} is not a product of stacked matrices": 1}
    assert operators(rewritten) == ["Einsum"]


def test_a_product_with_one_matrix_is_for_another_rule():
    _, report = optimized(model("bhid,jd->bhij"), EinsumInBatches)
    assert (report.applied, report.refused) == (0, {})
