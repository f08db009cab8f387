"""Attention on CUDA: of depths, and without an axis of heads, that a fused kernel takes; the same answers."""

import numpy as np
import pytest
from graphs import graph, operators, optimized
from onnx import helper
from onnx.reference import ReferenceEvaluator

from aaexport.graph.rules.attention_in_kernel_depths import AttentionInKernelDepths

KEYS = 10
ONE_HEAD = {"q_num_heads": 1, "kv_num_heads": 1}


def attention(depth=6, of_values=3, before=(), inputs=("q", "k", "v"), after=("y",), **options):
    """(B, heads, N, depth) with an axis of heads if there are any; `before` and `after` are other nodes around it."""
    heads = options.pop("heads", (1,))
    sizes = {"q": (*heads, 7, depth), "k": (*heads, KEYS, depth), "v": (*heads, KEYS, of_values)}
    named = {name: ["batch", *size] for name, size in sizes.items()} | options.pop("given", {})
    attributes = options.pop("attributes", {} if heads else ONE_HEAD)
    nodes = [*before, ("Attention", list(inputs), ["attended"], attributes)]
    nodes += options.pop("then", [("Neg", ["attended"], ["y"], {})])
    return graph(nodes, named, options.pop("constants", {}), after, opset=23, dtype=options.pop("dtype", np.float32))


def assert_alike(model, rewritten):
    kinds = {
        value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in model.graph.input
    }
    rng = np.random.default_rng(1)
    feeds = {
        value.name: rng.standard_normal([size.dim_value or 2 for size in value.type.tensor_type.shape.dim]).astype(
            kinds[value.name]
        )
        for value in model.graph.input
    }
    expected, found = (ReferenceEvaluator(each).run(None, feeds) for each in (model, rewritten))
    for one, other in zip(expected, found, strict=True):
        assert one.dtype == other.dtype
        tolerance = 2e-6 if one.dtype == np.float32 else 4e-3
        np.testing.assert_allclose(other, one, rtol=tolerance, atol=tolerance)


def depths(model):
    """Of the inputs of each Attention, by shapes that were inferred."""
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.value_info)
    } | {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return [[shapes[name] for name in node.input] for node in model.graph.node if node.op_type == "Attention"]


def test_in_float32_both_depths_become_multiples_of_8():
    before = attention(heads=())
    rewritten, report = optimized(before, AttentionInKernelDepths, target="cuda")
    assert report.applied == 1
    assert operators(rewritten) == ["Pad", "Pad", "Pad", "Attention", "Slice", "Neg"]
    assert depths(rewritten) == [[[0, 7, 8], [0, KEYS, 8], [0, KEYS, 8]]]
    assert_alike(before, rewritten)


def test_in_float16_both_become_one_for_flash():
    before = attention(12, 3, heads=(), dtype=np.float16)
    rewritten, report = optimized(before, AttentionInKernelDepths, target="cuda")
    assert report.applied == 1
    assert depths(rewritten) == [[[0, 7, 16], [0, KEYS, 16], [0, KEYS, 16]]]
    assert_alike(before, rewritten)


@pytest.mark.parametrize("attributes", [{}, {"scale": 0.3}, {"is_causal": 1}])
@pytest.mark.parametrize("heads", [(1,), (4,)])
def test_heads_are_taken_for_images(heads, attributes):
    before = attention(8, 16, heads=heads, attributes=attributes)
    rewritten, report = optimized(before, AttentionInKernelDepths, target="cuda")
    assert report.applied == 1
    assert operators(rewritten) == ["Reshape", "Reshape", "Reshape", "Attention", "Reshape", "Neg"]
    assert_alike(before, rewritten)


def test_an_axis_that_was_put_in_and_is_taken_out_again_vanishes():
    into = [("Unsqueeze", [name], [f"{name}_with_head"], {}) for name in "qkv"]
    into = [(op, [*read, "one"], made, more) for op, read, made, more in into]
    then = [("Squeeze", ["attended", "one"], ["rows"], {}), ("Neg", ["rows"], ["y"], {})]
    constants = {"one": np.array([1], np.int64)}
    names = [f"{name}_with_head" for name in "qkv"]
    before = attention(8, 8, into, names, heads=(), constants=constants, then=then)
    rewritten, _ = optimized(before, AttentionInKernelDepths, target="cuda")
    assert operators(rewritten) == ["Attention", "Neg"]
    assert_alike(before, rewritten)


def test_keys_that_are_a_pad_and_a_constant_take_more_zeros_for_nothing():
    """As the folded keys of a layer, (B, d, N): turned, and of one type beside their one-hots."""
    before = [
        ("Pad", ["k", "pads"], ["longer"], {}),
        ("Add", ["longer", "onehots"], ["folded"], {}),
        ("Transpose", ["folded"], ["keys"], {"perm": [0, 2, 1]}),
    ]
    constants = {"pads": np.array([0, 0, 0, 0, 2, 0], np.int64), "onehots": [6, KEYS]}
    model = attention(
        6, 8, before, ("q", "keys", "v"), heads=(), given={"k": ["batch", 4, KEYS]}, constants=constants
    )
    rewritten, report = optimized(model, AttentionInKernelDepths, target="cuda")
    assert report.applied == 1
    assert operators(rewritten) == ["Pad", "Pad", "Add", "Transpose", "Attention", "Neg"]  # one is the queries'
    assert_alike(model, rewritten)


def test_what_was_padded_for_float32_is_padded_further_for_float16():
    """No second Pad behind the first, and no second Slice."""
    constants = {name: np.array(each, np.int64) for name, each in
                 {"pads": [0, 0, 0, 0, 0, 5], "first": [0], "last": [3], "axis": [2]}.items()}  # fmt: skip
    model = attention(
        *(16, 3), [("Pad", ["v", "pads"], ["wide"], {})], ("q", "k", "wide"), heads=(), constants=constants,
        then=[("Slice", ["attended", "first", "last", "axis"], ["y"], {})], dtype=np.float16,
    )  # fmt: skip
    rewritten, _ = optimized(model, AttentionInKernelDepths, target="cuda")
    assert operators(rewritten) == ["Pad", "Attention", "Slice"]
    assert depths(rewritten) == [[[0, 7, 16], [0, KEYS, 16], [0, KEYS, 16]]]
    assert_alike(model, rewritten)


@pytest.mark.parametrize("fill", ["edge", 1.0])
def test_a_pad_of_anything_but_zeros_stays_as_it_is(fill):
    mode, more = ({"mode": "edge"}, []) if fill == "edge" else ({}, ["fill"])
    pad = ("Pad", ["k", "pads", *more], ["keys"], mode)
    constants = {"pads": np.array([0, 0, 0, 0, 0, 2], np.int64), "fill": np.array(1, np.float32)}
    model = attention(6, 8, [pad], ("q", "keys", "v"), heads=(), given={"k": ["batch", KEYS, 4]}, constants=constants)
    rewritten, _ = optimized(model, AttentionInKernelDepths, target="cuda")
    assert operators(rewritten) == ["Pad", "Pad", "Pad", "Attention", "Neg"]
    assert_alike(model, rewritten)


def test_what_a_fused_kernel_takes_stays():
    rewritten, report = optimized(attention(8, 8, heads=()), AttentionInKernelDepths, target="cuda")
    assert (report.applied, report.refused) == (0, {})
    assert operators(rewritten) == ["Attention", "Neg"]


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("no fused kernel takes heads of 1030 numbers", {"depth": 1030}),
        ("it has a mask, or keys and values of former queries",
         {"inputs": ("q", "k", "v", "m"), "given": {"m": [7, KEYS]}}),
        ("sizes beside the batch are not known", {"given": {"q": ["batch", 1, "queries", 6]}}),
        ("the depth of its heads is not known",
         {"given": {"q": ["batch", 1, 7, "depth"], "k": ["batch", 1, KEYS, "depth"]}}),
    ],
)  # fmt: skip
def test_others_are_left(reason, changes):
    _, report = optimized(attention(**changes), AttentionInKernelDepths, target="cuda")
    assert report.refused == {reason: 1}


def test_heads_that_share_keys_are_left():
    shared = {"k": ["batch", 1, KEYS, 6], "v": ["batch", 1, KEYS, 3]}
    model = attention(heads=(2,), given=shared)
    _, report = optimized(model, AttentionInKernelDepths, target="cuda")
    assert report.refused == {"its heads of queries share keys": 1}


def test_heads_that_lie_side_by_side_are_left():
    model = attention(12, 6, heads=(), attributes={"q_num_heads": 2, "kv_num_heads": 2})
    _, report = optimized(model, AttentionInKernelDepths, target="cuda")
    assert report.refused == {"its heads lie in the axis of their depths": 1}
