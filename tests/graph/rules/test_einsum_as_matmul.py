import pytest
from graphs import assert_same_function, graph, operators, optimized

from aaexport.graph.rules.einsum_as_matmul import EinsumAsMatmul


def model(equation, x, table):
    return graph([("Einsum", ["x", "t"], ["y"], {"equation": equation})], {"x": x}, {"t": table})


@pytest.mark.parametrize(
    ("equation", "x", "table"),
    [
        ("bhxyd,md->bhxym", [2, 2, 3, 4, 5], [7, 5]),
        ("mkld,od->mklo", [2, 3, 4, 5], [7, 5]),
        ("b i d , d j -> b i j", [2, 3, 5], [5, 7]),
    ],
)
def test_a_product_with_a_table_becomes_one(equation, x, table):
    before = model(equation, x, table)
    rewritten, report = optimized(before, EinsumAsMatmul)
    assert report.applied == 1
    assert "Einsum" not in operators(rewritten)
    assert_same_function(before, rewritten)


@pytest.mark.parametrize(
    ("equation", "x", "table"),
    [
        ("bij,ij->b", [2, 3, 5], [3, 5]),
        ("bij,jk->bki", [2, 3, 5], [5, 7]),
        ("bij,jj->bij", [2, 3, 5], [5, 5]),
        ("bij,kl->bijkl", [2, 3, 5], [5, 7]),
        ("ij,ji->i", [3, 5], [5, 3]),
    ],
)
def test_other_equations_are_left(equation, x, table):
    before = model(equation, x, table)
    rewritten, report = optimized(before, EinsumAsMatmul)
    assert report.refused == {f"{equation} is not a product of a tensor's last axis with a table": 1}
    assert operators(rewritten) == ["Einsum"]


def test_a_sum_that_broadcasts_is_left():
    _, report = optimized(model("bij,jk->bik", [2, 3, 1], [5, 7]), EinsumAsMatmul)
    assert report.refused == {"the sizes of the summed axis are not known to be the same": 1}
