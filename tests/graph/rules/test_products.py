"""Products in any words, as stacked matrices: what is read of a node computes, put together again, what it does."""

import numpy as np
import onnx_ir as ir
import pytest
from graphs import graph
from onnx.reference import ReferenceEvaluator

from aaexport.graph.rules.products import is_product, product

WORDS = {
    "matmul": ("MatMul", {}, [2, 3, 4, 5], [2, 3, 5, 6]),
    "matmul with a matrix": ("MatMul", {}, [2, 3, 4, 5], [5, 6]),
    "matmul with one for all": ("MatMul", {}, [2, 3, 4, 5], [1, 3, 5, 6]),
    "matmul of a matrix": ("MatMul", {}, [4, 5], [3, 5, 6]),
    "gemm": ("Gemm", {"transB": 1}, [4, 5], [6, 5]),
    "gemm the other way": ("Gemm", {"transA": 1}, [5, 4], [5, 6]),
    "einsum of maps": ("Einsum", {"equation": "bndhw,bndij->bnhwij"}, [2, 1, 3, 2, 4], [2, 1, 3, 5, 2]),
    "einsum that turns": ("Einsum", {"equation": "b q k, b k d -> d b q"}, [2, 3, 4], [2, 4, 5]),
    "einsum of two sums": ("Einsum", {"equation": "nqij,nijd->nqd"}, [2, 3, 4, 5], [2, 4, 5, 6]),
    "einsum without a result": ("Einsum", {"equation": "zk,ka"}, [3, 4], [4, 5]),
    "einsum of the rest": ("Einsum", {"equation": "...qd,...kd->...qk"}, [2, 3, 4, 5], [2, 3, 6, 5]),
    "einsum of the rest of one": ("Einsum", {"equation": "...d,rd->...r"}, [2, 3, 5], [6, 5]),
}  # fmt: skip


def read(operator, attributes, left, right):
    """The node, and the numbers that it is fed and computes."""
    model = graph([(operator, ["x", "y"], ["z"], attributes)], {"x": left, "y": right}, {}, ("z",))
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=left), generator.normal(size=right)
    (z,) = ReferenceEvaluator(model).run(None, {"x": x, "y": y})
    return ir.serde.deserialize_model(model).graph[0], x, y, z


def assert_same(found, x, y, z):
    matrices = np.einsum("gms,gps->gmp", x.reshape(-1)[found.rows], y.reshape(-1)[found.columns])
    np.testing.assert_allclose(matrices.reshape(-1)[found.numbering], z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("operator", "attributes", "left", "right"), WORDS.values(), ids=WORDS)
def test_it_is_what_the_node_computes(operator, attributes, left, right):
    node, x, y, z = read(operator, attributes, left, right)
    assert is_product(node)
    found = product(node)
    assert_same(found, x, y, z)
    assert_same(found.turned(), y, x, z)


def test_a_sum_of_a_product_is_one():
    rows = [("Mul", ["x", "y"], ["xy"], {}), ("ReduceSum", ["xy", "axes"], ["z"], {"keepdims": 0})]
    model = graph(rows, {"x": [2, 3, 1, 5], "y": [1, 4, 5]}, {"axes": np.array([3])}, ("z",))
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 3, 1, 5)), generator.normal(size=(1, 4, 5))
    (z,) = ReferenceEvaluator(model).run(None, {"x": x, "y": y})
    node = ir.serde.deserialize_model(model).graph[1]
    assert is_product(node)
    assert_same(product(node), x, y, z)


OTHER_WORDS = {
    "a diagonal": ("Einsum", {"equation": "bii,bij->bij"}, [2, 3, 3], [2, 3, 4]),
    "a sum of one operand": ("Einsum", {"equation": "bqk,bd->bqd"}, [2, 3, 4], [2, 5]),
    "no sum": ("Einsum", {"equation": "bq,bk->bqk"}, [2, 3], [2, 4]),
    "times a number": ("Gemm", {"alpha": 0.5}, [4, 5], [5, 6]),
    "a vector": ("MatMul", {}, [2, 4, 5], [5]),
}


@pytest.mark.parametrize(("operator", "attributes", "left", "right"), OTHER_WORDS.values(), ids=OTHER_WORDS)
def test_what_is_none_is_none(operator, attributes, left, right):
    assert product(read(operator, attributes, left, right)[0]) is None
