"""Attention of 24 tokens in 2 heads, in float64: 9,216 bytes of weights, 384 a query, an image."""

from functools import partial

import numpy as np
import pytest
from graphs import assert_same_function, graph, operators, optimized

from aaexport.graph.intermediate import tensor_bytes
from aaexport.graph.optimize import optimize_model
from aaexport.graph.rules import FILE_RULES, RULES, within
from aaexport.graph.rules.attention_in_blocks import AttentionInBlocks

B, HEADS, N, D = "batch", 2, 24, 3
ROWS, COLUMNS = 4, 6
LIMIT = 2_000
MEBIBYTE = 2**20
QKV = {"q": [B, HEADS, N, D], "k": [B, HEADS, N, D], "v": [B, HEADS, N, D]}
CONTENT = [("Transpose", ["k"], ["kt"], {"perm": [0, 1, 3, 2]}), ("MatMul", ["q", "kt"], ["content"], {})]
WEIGHTED = [("Softmax", ["logits"], ["w"], {"axis": -1}), ("MatMul", ["w", "v"], ["y"], {})]


def integers(*numbers):
    return np.array(numbers, np.int64)


def blocked(before, limit=LIMIT):
    return optimized(before, partial(AttentionInBlocks, limit=limit / MEBIBYTE))


def assert_in_blocks(before, batch=2):
    rewritten, report = blocked(before)
    assert (report.applied, report.refused) == (1, {})
    assert largest(before) == 9216
    assert largest(rewritten) <= LIMIT
    assert_same_function(before, rewritten, batch)
    return rewritten


def largest(model, batch=1):
    """Bytes of the largest tensor that the model computes from its inputs."""
    computed = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if computed.intersection(node.input):
            computed.update(node.output)
    return max(size for name, size in tensor_bytes(model, batch).items() if name in computed)


def reason(before, limit=LIMIT):
    rewritten, report = blocked(before, limit)
    assert report.applied == 0
    assert operators(rewritten) == operators(before)
    (why,) = report.refused
    return why


TERMS = {
    "a scale": ([("Mul", ["content", "s"], ["logits"], {})], {"s": []}),
    "a divisor and a bias a head": (
        [("Div", ["content", "s"], ["scaled"], {}), ("Add", ["bias", "scaled"], ["logits"], {})],
        {"s": [], "bias": [HEADS, N, N]},
    ),
    "a bias of the keys alone": ([("Add", ["content", "bias"], ["logits"], {})], {"bias": [1, 1, 1, N]}),
    "a mask": (
        [("Where", ["seen", "content", "low"], ["logits"], {})],
        {"seen": np.tri(N, dtype=bool), "low": np.array(-1e9)},
    ),
    "a bias out of a table": (
        [
            ("Gather", ["table", "which"], ["gathered"], {"axis": 0}),
            ("Transpose", ["gathered"], ["bias"], {"perm": [2, 0, 1]}),
            ("Add", ["content", "bias"], ["logits"], {}),
        ],
        {"table": [2 * N - 1, HEADS], "which": np.arange(N)[None, :] - np.arange(N)[:, None] + N - 1},
    ),
    "heads that talk": (
        [
            ("Transpose", ["content"], ["last"], {"perm": [0, 2, 3, 1]}),
            ("MatMul", ["last", "mixed"], ["talked"], {}),
            ("Transpose", ["talked"], ["logits"], {"perm": [0, 3, 1, 2]}),
        ],
        {"mixed": [HEADS, HEADS]},
    ),
}


@pytest.mark.parametrize("terms", TERMS)
def test_the_rows_of_a_softmax_are_computed_some_at_a_time(terms):
    nodes, constants = TERMS[terms]
    rewritten = assert_in_blocks(graph([*CONTENT, *nodes, *WEIGHTED], QKV, constants))
    assert operators(rewritten).count("Softmax") == 5, "24 queries, of which 2,000 bytes hold 5"


def decomposed():
    """Relative positions as SAM has them, along the rows and the columns of a map, in heads · images."""
    into = {"q": [B, N, D], "k": [B, N, D], "v": [B, N, D]}
    constants = {
        "map": integers(-1, ROWS, COLUMNS, D),
        "of_map": integers(-1, ROWS, COLUMNS, ROWS, COLUMNS),
        "of_tokens": integers(-1, N, N),
        "rh": [ROWS, ROWS, D],
        "rw": [COLUMNS, COLUMNS, D],
        "last": integers(-1),
        "last_but_one": integers(-2),
    }
    nodes = [
        ("Transpose", ["k"], ["kt"], {"perm": [0, 2, 1]}),
        ("MatMul", ["q", "kt"], ["content"], {}),
        ("Reshape", ["q", "map"], ["r_q"], {}),
        ("Einsum", ["r_q", "rh"], ["rel_h"], {"equation": "bhwc,hkc->bhwk"}),
        ("Einsum", ["r_q", "rw"], ["rel_w"], {"equation": "bhwc,wkc->bhwk"}),
        ("Unsqueeze", ["rel_h", "last"], ["along_h"], {}),
        ("Unsqueeze", ["rel_w", "last_but_one"], ["along_w"], {}),
        ("Reshape", ["content", "of_map"], ["content5"], {}),
        ("Add", ["content5", "along_h"], ["with_h"], {}),
        ("Add", ["with_h", "along_w"], ["with_both"], {}),
        ("Reshape", ["with_both", "of_tokens"], ["logits"], {}),
        *WEIGHTED,
    ]
    return graph(nodes, into, constants)


def test_decomposed_positions_are_cut_between_the_rows_of_the_map():
    before = decomposed()
    rewritten, report = blocked(before)
    assert (report.applied, report.refused) == (1, {})
    assert operators(rewritten).count("Softmax") == ROWS, "a row of 6 queries has 1,152 bytes"
    assert largest(rewritten) <= LIMIT
    assert_same_function(before, rewritten, 3)


def test_a_row_of_the_map_is_the_least():
    assert reason(decomposed(), 1_000) == "6 queries, which lie together, alone takes 0.002 MiB"


def test_no_einsum_and_no_whole_logits_are_left_of_decomposed_positions():
    before = decomposed()
    rules, then = within(FILE_RULES, LIMIT / MEBIBYTE)
    rewritten, _ = optimize_model(before, rules=rules, then=then)
    assert "Einsum" not in operators(rewritten)
    assert largest(rewritten) <= LIMIT
    assert_same_function(before, rewritten)


OTHER_PRODUCTS = {
    "values first": [
        ("Softmax", ["content"], ["w"], {"axis": -1}),
        ("Transpose", ["v"], ["vt"], {"perm": [0, 1, 3, 2]}),
        ("Transpose", ["w"], ["wt"], {"perm": [0, 1, 3, 2]}),
        ("MatMul", ["vt", "wt"], ["y"], {}),
    ],
    "an einsum": [
        ("Softmax", ["content"], ["w"], {"axis": -1}),
        ("Einsum", ["w", "v"], ["y"], {"equation": "bhij,bhjd->bihd"}),
    ],
    "an einsum of values first": [
        ("Softmax", ["content"], ["w"], {"axis": -1}),
        ("Einsum", ["v", "w"], ["y"], {"equation": "bhjd,bhij->bhdi"}),
    ],
    "no dropout": [
        ("Softmax", ["content"], ["w"], {"axis": 3}),
        ("Dropout", ["w"], ["kept"], {}),
        ("MatMul", ["kept", "v"], ["y"], {}),
    ],
}


@pytest.mark.parametrize("product", OTHER_PRODUCTS)
def test_the_weighted_sum_may_be_written_in_any_way(product):
    assert_in_blocks(graph([*CONTENT, *OTHER_PRODUCTS[product]], QKV, {}), batch=3)


@pytest.mark.parametrize("masked", [False, True])
def test_the_operator_attention_is_cut_too(masked):
    inputs = ["q", "k", "v", *(["mask"] if masked else [])]
    before = graph([("Attention", inputs, ["y"], {})], QKV, {"mask": [1, N, N]} if masked else {}, opset=23)
    rewritten, report = blocked(before)
    assert (report.applied, report.refused) == (1, {})
    assert operators(rewritten).count("Attention") == 5
    assert_same_function(before, rewritten)


def test_a_fixed_batch_counts_with_all_its_images():
    fixed = {name: [4, *sizes[1:]] for name, sizes in QKV.items()}
    scaled, constants = TERMS["a scale"]
    before = graph([*CONTENT, *scaled, *WEIGHTED], fixed, constants)
    rewritten, report = blocked(before)
    assert report.applied == 0
    assert list(report.refused) == ["its result alone takes 0.005 MiB"]
    rewritten, report = blocked(before, 8_000)
    assert report.applied == 1
    assert largest(rewritten, 4) <= 8_000
    assert_same_function(before, rewritten)


def test_what_is_small_enough_is_not_worth_a_word():
    scaled, constants = TERMS["a scale"]
    rewritten, report = blocked(graph([*CONTENT, *scaled, *WEIGHTED], QKV, constants), 9_216)
    assert (report.applied, report.refused) == (0, {})
    assert operators(rewritten).count("Softmax") == 1


def test_without_a_limit_nothing_is_cut():
    assert within(FILE_RULES, None) == (FILE_RULES, ())
    assert within(RULES, None) == (RULES, ())
    assert AttentionInBlocks not in FILE_RULES


LEFT = {
    "the softmax is over the queries": (
        [*CONTENT, ("Softmax", ["content"], ["w"], {"axis": 2}), ("MatMul", ["w", "v"], ["y"], {})],
        "its softmax is over the queries too",
    ),
    "an operator that mixes the queries": (
        [*CONTENT, ("CumSum", ["content", "axis"], ["logits"], {}), *WEIGHTED],
        "CumSum CumSum_2 cannot be run for some of the queries alone",
    ),
    "the weights are dropped at random": (
        [
            *CONTENT,
            ("Softmax", ["content"], ["w"], {"axis": -1}),
            ("Dropout", ["w", "ratio", "training"], ["kept"], {}),
            ("MatMul", ["kept", "v"], ["y"], {}),
        ],
        "its weights are dropped at random",
    ),
    "queries that lie apart": (
        [
            *CONTENT,
            ("Transpose", ["content"], ["turned"], {"perm": [0, 2, 1, 3]}),
            ("Reshape", ["turned", "wide"], ["of_both"], {}),
            ("Transpose", ["of_both"], ["mixed"], {"perm": [0, 1, 2, 3]}),
            ("Softmax", ["mixed"], ["w"], {"axis": -1}),
            ("MatMul", ["w", "v"], ["y"], {}),
        ],
        "Reshape Reshape_3 has queries that lie apart before it is reshaped",
    ),
}
CONSTANTS = {
    "axis": np.array(2),
    "ratio": np.array(0.5),
    "training": np.array(True),
    "wide": integers(0, HEADS, N, N),
}


@pytest.mark.parametrize("kind", LEFT)
def test_near_misses_are_left(kind):
    nodes, why = LEFT[kind]
    assert reason(graph(nodes, QKV, CONSTANTS)) == why


@pytest.mark.parametrize("read", ["logits", "w"])
def test_what_is_read_elsewhere_has_to_be_there_as_a_whole(read):
    scaled, constants = TERMS["a scale"]
    before = graph([*CONTENT, *scaled, *WEIGHTED], QKV, constants, outputs=["y", read])
    operator = {"logits": "Mul Mul_2", "w": "Softmax Softmax_3"}[read]
    assert reason(before) == f"{operator} is read elsewhere too, and would still be there as a whole"


def test_a_term_that_has_to_be_there_as_a_whole_is_told():
    given = QKV | {"bias": [B, HEADS, N, N]}
    before = graph([*CONTENT, ("Add", ["content", "bias"], ["logits"], {}), *WEIGHTED], given, {})
    assert reason(before) == "bias alone takes 0.009 MiB"


def test_queries_or_values_that_are_larger_by_themselves_are_told():
    scaled, constants = TERMS["a scale"]
    assert reason(graph([*CONTENT, *scaled, *WEIGHTED], QKV, constants), 1_000) == "its result alone takes 0.002 MiB"


def test_a_number_of_tokens_that_is_not_known_is_told():
    free = {name: [B, HEADS, "tokens", D] for name in QKV}
    scaled, constants = TERMS["a scale"]
    before = graph([*CONTENT, *scaled, *WEIGHTED], free, constants)
    assert reason(before) == "the size of y does not follow from the batch"


def test_a_mask_made_from_where_the_queries_are_is_told():
    before = graph([("Attention", ["q", "k", "v"], ["y"], {"is_causal": 1})], QKV, {}, opset=23)
    assert reason(before) == "its mask is made from where the queries are (is_causal)"
