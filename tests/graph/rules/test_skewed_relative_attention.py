import numpy as np
import onnx
import pytest
from graphs import assert_same_function, operators, optimized
from skewed_graphs import DKH, HEADS, SIDE, SIZES, N, model, skewed

from aaexport.graph.optimize import optimize_model
from aaexport.graph.rules import RULES
from aaexport.graph.rules.skewed_relative_attention import SkewedRelativeAttention
from aaexport.graph.rules.tables_in_one import NOT_TWO
from aaexport.nn.choice import Choice

NO_OFFSETS = "its relative logits are not those of the offsets from query to key along an axis of the map"
OF_OTHERS = "its relative logits are not of the queries that are multiplied with the keys"
PER_HEAD = np.random.default_rng(1).normal(size=(HEADS, DKH, 2 * SIDE - 1))
BOTH = np.random.default_rng(2).normal(size=(DKH, 4 * SIDE - 2))
ACROSS = [0, 1, 2, 4, 3, 5]


def attention_of(before, batch=2):
    rewritten, report = optimized(before, SkewedRelativeAttention)
    assert (report.applied, report.refused) == (1, {})
    assert "Tile" not in operators(rewritten)
    assert_same_function(before, rewritten, batch)
    return rewritten


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_it_is_the_same_function_without_the_tiles(batch):
    attention_of(model(), batch)


def test_a_static_batch_stays_static():
    rewritten = attention_of(model(batch=2))
    assert rewritten.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2


def test_the_queries_keys_and_values_are_split_once():
    assert operators(attention_of(model())).count("Split") == 1


@pytest.mark.parametrize(("form", "blocks"), [("fold", 5), ("shift", 5), ("table", 1), ("table", 5)])
def test_every_form_in_blocks_is_the_same_function(form, blocks, monkeypatch):
    monkeypatch.setattr("aaexport.nn.choice.choose", lambda *sizes: Choice(form, blocks))
    written = attention_of(model(), batch=3)
    found = operators(written)
    assert found.count("Softmax") >= blocks
    assert found.count("Pad") == (form == "fold")
    assert found.count("Expand") == (form == "shift")
    _, again = optimized(written, SkewedRelativeAttention)
    assert (again.applied, again.refused) == (0, {})  # what is in that form already is no near miss


IN_ONE = {
    "both_product": ("MatMul", ["by_position", BOTH], {}),
    "across_product": ("Slice", ["both_product", [0], [2 * SIDE - 1], [4]], {}),
    "down_part": ("Slice", ["both_product", [2 * SIDE - 1], [4 * SIDE - 2], [4]], {}),
    "down_product": ("Transpose", ["down_part"], {"perm": [0, 1, 3, 2, 4]}),
}
SAME_IN_OTHER_WORDS = {
    "keys before queries": {
        "queries_of": ("Identity", ["k"], {}),
        "scaled": ("Mul", [0.5, "queries_of"], {}),
        "keys": ("Reshape", ["q", [0, HEADS, DKH, N]], {}),
    },
    "logits scaled as a whole": {
        "sum": ("Add", ["half", "across"], {}),
        "logits": ("Div", ["sum", 3.0], {}),
    },
    "only the content scaled": {
        "unscaled": ("MatMul", ["queries", "keys"], {}),
        "content": ("Mul", ["unscaled", 0.25], {}),
    },
    "relative logits of the queries before the scale": {
        "plain": ("Reshape", ["q", [0, HEADS, DKH, N]], {}),
        "plain_rows": ("Transpose", ["plain"], {"perm": [0, 1, 3, 2]}),
        "by_position": ("Reshape", ["plain_rows", [0, HEADS, SIDE, SIDE, DKH]], {}),
    },
    "both axes added first": {
        "half": ("Add", ["across", "down"], {}),
        "logits": ("Add", ["half", "content"], {}),
    },
    "tables of the other name": skewed("by_position", "r_height", "across", ACROSS)
    | skewed("turned", "r_width", "down", [0, 1, 4, 2, 5, 3]),
    "values that are not a part of the input": {"v_by_head": ("Reshape", ["v_other", [0, HEADS, 2, N]], {}),
                                                "v_other": ("Relu", ["v"], {})},
    "queries that are not a part of the input": {"scaled": ("Tanh", ["q"], {})},
    "content by an einsum, keys first, softmax over them": {
        "content": ("Einsum", ["queries", "keys"], {"equation": "zaqd,zadk->zakq"}),
        "turned_down": ("Transpose", ["down"], {"perm": [0, 1, 3, 2]}),
        "turned_across": ("Transpose", ["across"], {"perm": [0, 1, 3, 2]}),
        "half": ("Add", ["content", "turned_down"], {}),
        "logits": ("Add", ["half", "turned_across"], {}),
        "weights": ("Softmax", ["logits"], {"axis": 2}),
        "y": ("Einsum", ["values", "weights"], {"equation": "bnkv,bnkq->bnqv"}),
    },
    "logits of six axes": {
        "q_map": ("Reshape", ["queries", [0, HEADS, SIDE, SIDE, DKH]], {}),
        "k_map": ("Reshape", ["keys", [0, HEADS, DKH, SIDE, SIDE]], {}),
        "six": ("Einsum", ["q_map", "k_map"], {"equation": "bnhwd,bndij->bnhwij"}),
        "content": ("Reshape", ["six", [0, HEADS, N, N]], {}),
    },
    "weights and values of six axes": {
        "six": ("Reshape", ["weights", [0, HEADS, SIDE, SIDE, SIDE, SIDE]], {}),
        "v_map": ("Reshape", ["values", [0, HEADS, SIDE, SIDE, 2]], {}),
        "y": ("Einsum", ["six", "v_map"], {"equation": "bnhwij,bnijv->bhwnv"}),
    },
    "values and result channels first": {
        "y": ("Einsum", ["weights", "v_by_head"], {"equation": "bnqk,bnvk->bnvq"}),
    },
    "a product written out": {
        "one": ("Unsqueeze", ["weights", [-1]], {}), "other": ("Unsqueeze", ["values", [2]], {}),
        "each": ("Mul", ["one", "other"], {}), "y": ("ReduceSum", ["each", [3]], {"keepdims": 0}),
    },
    "weights halved": {"halved": ("Mul", ["weights", 0.5], {}), "y": ("MatMul", ["halved", "values"], {})},
    "nothing masked, nothing dropped, nothing added": {
        "half": ("Add", ["content", "down"], {}), "sum": ("Sub", ["half", np.zeros((N, N))], {}),
        "all": ("Add", ["sum", "across"], {}), "kept": ("Dropout", ["all"], {}),
        "logits": ("Where", [np.zeros((N, N), bool), -1e9, "kept"], {}),
        "same": ("Cast", ["weights"], {"to": onnx.TensorProto.DOUBLE}), "y": ("MatMul", ["same", "values"], {}),
    },
    "tables in one product": IN_ONE,
    "tables in one product, row by row in turns": {
        "both_product": ("MatMul", ["by_position", BOTH], {}),
        "across_product": ("Slice", ["both_product", [0], [99], [4], [2]], {}),
        "down_part": ("Slice", ["both_product", [1], [99], [4], [2]], {}),
        "down_product": ("Transpose", ["down_part"], {"perm": [0, 1, 3, 2, 4]}),
    },
    "keys that lie in another order": {
        "mixed": ("Reshape", ["k", [0, DKH, HEADS, N]], {}),
        "keys": ("Transpose", ["mixed"], {"perm": [0, 2, 1, 3]}),
    },
}  # fmt: skip


@pytest.mark.parametrize("changed", SAME_IN_OTHER_WORDS.values(), ids=SAME_IN_OTHER_WORDS)
def test_it_is_found_in_other_words(changed):
    attention_of(model(changed), 3)


REFUSED = {
    "an offset one too small": (
        {"across_skewed": ("Slice", ["across_first", [SIDE - 2], [2 * SIDE - 2], [3]], {})},
        NO_OFFSETS,
    ),
    "tiled along the wrong axis": (
        {"across_placed": ("Transpose", ["across_repeated"], {"perm": [0, 1, 4, 2, 3, 5]})},
        NO_OFFSETS,
    ),
    "queries and keys of the offset exchanged": (
        {"across_placed": ("Transpose", ["across_repeated"], {"perm": [0, 1, 2, 5, 3, 4]})},
        NO_OFFSETS,
    ),
    "both axes along the width": (
        skewed("by_position", "r_height", "down", ACROSS),
        "its relative logits run along the width only",
    ),
    "tables of different maps": (
        {"in_one_row": ("Reshape", ["queries", [0, HEADS, 1, N, DKH]], {}),
         **skewed("in_one_row", "r_long", "across", ACROSS, others=1, length=N)},
        "its tables are those of two maps of different height and width",
    ),
    "content averaged over its neighbours": (
        {"before": ("Pad", ["content", [0] * 7 + [2]], {}), "later": ("Slice", ["before", [2], [N + 2], [3]], {}),
         "both": ("Add", ["content", "later"], {}), "averaged": ("Mul", ["both", 0.5], {}),
         "half": ("Add", ["averaged", "down"], {})},
        "the product of queries and keys is moved, or changed, on its way to the logits",
    ),
    "a table of its own a head": (
        {"across_product": ("Einsum", ["by_position", PER_HEAD], {"equation": "bnxyd,ndr->bnxyr"})},
        "its tables have other rows for other heads, or for other rows of the map",
    ),
    "a table of its own a row, full of zeros before training": (
        {"a_row": ("Einsum", ["by_position", np.zeros((SIDE, SIDE, DKH))], {"equation": "bnxyd,ykd->bnxyk"}),
         "a_row_only": ("Reshape", ["a_row", [0, HEADS, N, 1, SIDE]], {}),
         "all_rows": ("Tile", ["a_row_only", [1, 1, 1, SIDE, 1]], {}),
         "across": ("Reshape", ["all_rows", [0, HEADS, N, N]], {})},
        "its tables have other rows for other heads, or for other rows of the map",
    ),
    "weights gated": (
        {"gated": ("Concat", ["less", "rest"], {"axis": 3}), "first": ("Slice", ["weights", [0], [1], [3]], {}),
         "less": ("Mul", ["first", 0.5], {}), "rest": ("Slice", ["weights", [1], [N], [3]], {}),
         "y": ("MatMul", ["gated", "values"], {})},
        "its weights are changed on their way to the values",
    ),
    "softmax over the queries": (
        {"weights": ("Softmax", ["logits"], {"axis": -2})},
        "the softmax is not over the keys, the last axis of its logits",
    ),
    "relative logits of the keys": (
        {"rows_of_keys": ("Transpose", ["keys"], {"perm": [0, 1, 3, 2]}),
         "by_position": ("Reshape", ["rows_of_keys", [0, HEADS, SIDE, SIDE, DKH]], {})},
        OF_OTHERS,
    ),
    "depths in another order": (
        {"reversed": ("Slice", ["queries", [-1], [-100], [3], [-1]], {}),
         "by_position": ("Reshape", ["reversed", [0, HEADS, SIDE, SIDE, DKH]], {})},
        OF_OTHERS,
    ),
    "heads exchanged": (
        {"other_heads": ("Gather", ["queries", [1, 0]], {"axis": 1}),
         "by_position": ("Reshape", ["other_heads", [0, HEADS, SIDE, SIDE, DKH]], {})},
        NO_OFFSETS,
    ),
    "a bias": (
        {"biased": ("Add", ["half", np.ones((N, N))], {}), "logits": ("Add", ["biased", "across"], {})},
        "biased_1, which is added to its logits, is no product of queries",
    ),
    "a nonlinearity": (
        {"curved": ("Relu", ["down"], {}), "half": ("Add", ["content", "curved"], {}),
         "more": ("Add", ["half", "across"], {}), "logits": ("Add", ["more", "down"], {})},
        "curved, which is added to its logits, is no product of queries",
    ),
    "parts of one product that overlap": (
        IN_ONE | {"down_part": ("Slice", ["both_product", [2 * SIDE - 2], [4 * SIDE - 3], [4]], {})},
        NOT_TWO,
    ),
    "parts of one product of which one is negative": (
        IN_ONE | {"minus": ("Neg", ["down_part"], {}),
                  "down_product": ("Transpose", ["minus"], {"perm": [0, 1, 3, 2, 4]})},
        NOT_TWO,
    ),
    "one part of one product twice": (
        IN_ONE | {"down_part": ("Slice", ["both_product", [0], [2 * SIDE - 1], [4]], {})},
        NOT_TWO,
    ),
    "parts of one product exchanged between heads": (
        IN_ONE | {"other_part": ("Gather", ["down_part", [1, 0]], {"axis": 1}),
                  "down_product": ("Transpose", ["other_part"], {"perm": [0, 1, 3, 2, 4]})},
        NO_OFFSETS,
    ),
    "queries of two scales": (
        {"scaled": ("Concat", ["q_low", "q_high"], {"axis": 1}), "q_first": ("Slice", ["q", [0], [2], [1]], {}),
         "q_low": ("Mul", ["q_first", 0.5], {}), "q_high": ("Slice", ["q", [2], [8], [1]], {})},
        "queries is padded, or scaled by more than one factor",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changed", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_something_else_is_left_with_the_reason(changed, reason):
    before = model(changed)
    rewritten, report = optimized(before, SkewedRelativeAttention)
    assert (report.applied, report.refused) == (0, {reason: 1})
    assert operators(rewritten).count("Tile") == 2


def test_a_table_from_outside_is_left():
    before = model(inputs={"r_width": [DKH, 2 * SIDE - 1]})
    _, report = optimized(before, SkewedRelativeAttention)
    assert report.refused == {"a table of embeddings is not a constant": 1}


@pytest.mark.parametrize(("name", "node"), [("logits", "Add"), ("weights", "Softmax")])
def test_what_others_read_is_left(name, node):
    (reason,) = optimized(model(outputs=("y", name)), SkewedRelativeAttention)[1].refused
    assert reason.startswith(f"the output of {node} ")
    assert reason.endswith("is read elsewhere too")


def test_sizes_that_are_not_known_are_said():
    before = model()
    for size, name in zip(before.graph.input[0].type.tensor_type.shape.dim[2:], ("height", "width"), strict=True):
        size.dim_param = name
    del before.graph.value_info[:]
    _, (report,) = optimize_model(before, rules=[SkewedRelativeAttention])
    assert report.refused == {"a size does not follow from the batch": 1}


TRIED = "which a dynamic batch is tried out with,"
TOO_MANY = "are too many to be tried out"
LIMIT = "aaexport.graph.rules.skewed_attention.MAX_LOGITS"


@pytest.mark.parametrize(
    ("batch", "limit", "reason"),
    [
        (
            "batch",
            200,
            f"its 324 logits of 2 images, {TRIED} {TOO_MANY}, 200 at most; at a fixed batch of 1 they are 162",
        ),
        ("batch", 100, f"its 324 logits of 2 images, {TRIED} {TOO_MANY}, 100 at most; a smaller map has fewer"),
        (
            8,
            1_000,
            f"its 1,296 logits of a query {TOO_MANY}, 1,000 at most; fewer images, or a smaller map, have fewer",
        ),
    ],
)
def test_logits_that_are_too_many_to_be_tried_out_are_told_of_how_many_images_they_are(
    batch, limit, reason, monkeypatch
):
    monkeypatch.setattr(LIMIT, limit)
    assert optimized(model(batch=batch), SkewedRelativeAttention)[1].refused == {reason: 1}


def test_the_remedy_for_logits_that_are_too_many_works(monkeypatch):
    monkeypatch.setattr(LIMIT, 200)
    assert optimized(model(batch=1), SkewedRelativeAttention)[1].applied == 1


def test_tables_a_row_are_told_however_many_the_logits_are(monkeypatch):
    """Nothing is tried out for that."""
    monkeypatch.setattr(LIMIT, 1)
    changed, reason = REFUSED["a table of its own a head"]
    assert optimized(model(changed), SkewedRelativeAttention)[1].refused == {reason: 1}


def test_plain_attention_is_not_worth_a_word():
    nodes = {"weights": ("Softmax", ["content"], {"axis": -1})}
    before = model(nodes)
    _, report = optimized(before, SkewedRelativeAttention)
    assert (report.applied, report.refused) == (0, {})


def test_a_layer_of_ours_is_written_as_it_was_asked_for():
    assert SkewedRelativeAttention not in RULES


@pytest.mark.parametrize("opset", [11, 12])
def test_it_is_written_in_operators_of_the_opset(opset):
    """Split has its sizes as an attribute there."""
    before = model()
    (split,) = (node for node in before.graph.node if node.op_type == "Split")
    del split.input[1]
    split.attribute.append(onnx.helper.make_attribute("split", SIZES))
    before.opset_import[0].version = opset
    del before.graph.value_info[:]
    onnx.checker.check_model(before, full_check=True)
    assert attention_of(before).opset_import[0].version == opset
