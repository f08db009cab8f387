"""What is told of a file on CUDA beforehand: of files of one and two nodes, with what is known of each."""

import io

import numpy as np
import pytest
from graphs import graph
from rich.console import Console

from aaexport.graph.cuda_kernels import COPIES_OF_REPEATED_PRODUCT, COPIES_OF_UNEVEN_SPLIT
from aaexport.graph.on_cuda import OnCuda, foresee
from aaexport.report.layout import Facts
from aaexport.report.on_cuda import rows_on_cuda


def attention(depth, of_values, dtype=np.float32, mask=None):
    inputs = {"q": ["batch", 1, 7, depth], "k": ["batch", 1, 9, depth], "v": ["batch", 1, 9, of_values]}
    inputs |= {} if mask is None else {"m": [7, mask]}
    return graph([("Attention", list(inputs), ["y"], {})], inputs, {}, opset=23, dtype=dtype)


@pytest.mark.parametrize(
    ("model", "kernels", "in_memory"),
    [
        (attention(48, 3), {"float32": {"math": 1}, "float16": {"flash": 1}}, 1),
        (attention(48, 8), {"float32": {"memory-efficient": 1}, "float16": {"flash": 1}}, 0),
        (attention(48, 8, np.float16), {"float16": {"memory-efficient": 1}}, 0),
        (attention(48, 48, np.float16), {"float16": {"flash": 1}}, 0),
        (attention(48, 8, mask=9), {"float32": {"math": 1}, "float16": {"math": 1}}, 1),
        (attention(1100, 8), {"float32": {"math": 1}, "float16": {"math": 1}}, 1),
    ],
)
def test_the_kernel_of_each_attention_in_its_own_type_and_in_float16(model, kernels, in_memory):
    told = foresee(model)
    assert told.attention == kernels
    assert told.logits_in_memory == ("Attention_0",) * in_memory


def test_heads_that_lie_side_by_side_have_a_part_of_the_depth():
    inputs = {"q": ["batch", 7, 96], "k": ["batch", 9, 96], "v": ["batch", 9, 16]}
    heads = {"q_num_heads": 2, "kv_num_heads": 2}
    told = foresee(graph([("Attention", list(inputs), ["y"], heads)], inputs, {}, opset=23, dtype=np.float32))
    assert told.attention["float32"] == {"memory-efficient": 1}


@pytest.mark.parametrize(("opset", "left"), [(21, ()), (22, ("MaxPool MaxPool_1",))])
def test_nodes_without_a_kernel_and_the_copies_that_they_cost(opset, left):
    nodes = [
        ("Relu", ["x"], ["r"], {}),
        ("MaxPool", ["r"], ["p"], {"kernel_shape": [2, 2]}),
        ("Neg", ["p"], ["y"], {}),
    ]
    told = foresee(graph(nodes, {"x": ["batch", 3, 8, 8]}, {}, opset=opset, dtype=np.float32))
    assert (told.without_kernel, told.has_kernel_at) == (left, 20 if left else None)
    assert told.copies_inside == 2 * len(left)  # there and back
    assert told.copies_at_its_ends == 2


def test_what_never_had_a_kernel_has_none_at_any_opset():
    nodes = [("Acos", ["x"], ["a"], {}), ("Elu", ["a"], ["y"], {})]
    told = foresee(graph(nodes, {"x": ["batch", 3]}, {}, opset=22, dtype=np.float32))
    assert (told.without_kernel, told.has_kernel_at) == (("Acos Acos_0", "Elu Elu_1"), None)
    assert "--opset" not in shown(told)


def test_products_of_integers_are_told_too():
    pair = {"x": np.ones((4, 5), np.uint8), "w": np.ones((5, 6), np.uint8)}
    nodes = [
        ("MatMulInteger", ["x", "w"], ["i"], {}),
        ("Cast", ["i"], ["f"], {"to": 1}),
        ("Add", ["f", "z"], ["y"], {}),
    ]
    told = foresee(graph(nodes, {"z": [4, 6]}, pair, dtype=np.float32))
    assert told.without_kernel == ("MatMulInteger MatMulInteger_0",)


def test_kernels_that_are_given_numbers_by_copies():
    nodes = [
        ("Split", ["x", "sizes"], ["a", "b"], {"axis": 1}),
        ("MatMul", ["a", "tables"], ["y"], {}),
        ("MatMul", ["b", "table"], ["z"], {}),
    ]
    constants = {"sizes": np.array([4, 2], np.int64), "tables": [4, 8, 5], "table": [8, 5]}
    told = foresee(graph(nodes, {"x": ["batch", 6, 8, 8]}, constants, ("y", "z"), dtype=np.float32))
    assert told.copies_inside == COPIES_OF_UNEVEN_SPLIT + COPIES_OF_REPEATED_PRODUCT
    assert told.copies_at_its_ends == 3


def shown(told):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(Facts(rows_on_cuda(told)))
    return " ".join(console.export_text().split())


def test_a_person_reads_it_in_two_rows():
    told = OnCuda(
        attention={"float32": {"memory-efficient": 12, "math": 1}, "float16": {"flash": 13}},
        logits_in_memory=("attention_3",), without_kernel=("MaxPool pool_1",), has_kernel_at=20,
        copies_inside=2, copies_at_its_ends=2,
    )  # fmt: skip
    text = shown(told)
    assert "attention: 12 × memory-efficient and 1 × math in float32, 13 × flash in float16" in text
    assert "host copies a query: 2 inside, 2 at its ends" in text
    assert "all logits lie in memory: attention_3" in text
    assert "the CPU runs it: MaxPool pool_1; --opset 20 has one" in text
    assert "slow there" not in shown(OnCuda(copies_at_its_ends=2))
    assert rows_on_cuda(None) == {}
