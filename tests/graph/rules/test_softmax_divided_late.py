import numpy as np
import pytest
from graphs import assert_same_function, graph, operators, optimized

from aaexport.graph.rules.softmax_divided_late import OTHER_SUMS, SoftmaxDividedLate

SIDE = 4  # as many queries as keys, so that sums over either fit
HEADS = 2
LATE = {
    "largest": ("ReduceMax", ["x", [-1]], {}),
    "shifted": ("Sub", ["x", "largest"], {}),
    "e": ("Exp", ["shifted"], {}),
    "total": ("ReduceSum", ["e", [-1]], {}),
    "multiplied": ("MatMul", ["e", "v"], {}),
    "y": ("Div", ["multiplied", "total"], {}),
}
HEADS_FIRST = {  # heads merged with the images before the product, and the result by query and depth
    "merged": ("Reshape", ["e", [-1, SIDE, SIDE]], {}),
    "values": ("Reshape", ["v", [-1, SIDE, 3]], {}),
    "product": ("MatMul", ["merged", "values"], {}),
    "apart": ("Reshape", ["product", [-1, HEADS, SIDE, 3]], {}),
    "multiplied": ("Transpose", ["apart"], {"perm": [0, 2, 1, 3]}),
    "sums": ("ReduceSum", ["e", [-1]], {"keepdims": 0}),
    "turned": ("Transpose", ["sums"], {"perm": [0, 2, 1]}),
    "total": ("Unsqueeze", ["turned", [-1]], {}),
}


def model(changed=None, outputs=("y",)):
    """x and v are (B, heads, queries, keys) and (B, heads, keys, 3)."""
    waiting, rows, constants = LATE | (changed or {}), [], {}
    while waiting:
        read = {name: {each for each in given if isinstance(each, str)} for name, (_, given, _) in waiting.items()}
        name = next(name for name in waiting if not waiting.keys() & read[name])
        operator, given, attributes = waiting.pop(name)
        names = [each if isinstance(each, str) else f"{name}_{place}" for place, each in enumerate(given)]
        constants |= {n: np.array(each) for n, each in zip(names, given, strict=True) if not isinstance(each, str)}
        rows.append((operator, names, [name], attributes))
    return graph(rows, {"x": ["batch", HEADS, SIDE, SIDE], "v": ["batch", HEADS, SIDE, 3]}, constants, outputs)


SAME = {
    "as kernels do it": {},
    "heads apart afterwards": HEADS_FIRST,
    "keys first": {
        "largest": ("ReduceMax", ["x", [2]], {}),
        "total": ("ReduceSum", ["e", [2]], {"keepdims": 0}),
        "multiplied": ("Einsum", ["v", "e"], {"equation": "bnkv,bnkq->bnqv"}),
        "below": ("Unsqueeze", ["total", [-1]], {}),
        "y": ("Div", ["multiplied", "below"], {}),
    },
    "values first": {"multiplied": ("Einsum", ["v", "e"], {"equation": "bnkv,bnqk->bnqv"})},
}


@pytest.mark.parametrize("changed", SAME.values(), ids=SAME)
@pytest.mark.parametrize("batch", [1, 3])
def test_it_is_one_operator_before_the_product(changed, batch):
    before = model(changed)
    rewritten, report = optimized(before, SoftmaxDividedLate)
    assert (report.applied, report.refused) == (2, {})
    assert not {"Exp", "Div", "ReduceSum", "ReduceMax"} & set(operators(rewritten))
    assert operators(rewritten).count("Softmax") == 1
    assert_same_function(before, rewritten, batch)


OTHERS = {
    "sums of keys": ({"total": ("ReduceSum", ["e", [-2]], {"keepdims": 0}),
                      "below": ("Unsqueeze", ["total", [-1]], {}), "y": ("Div", ["multiplied", "below"], {})},
                     "what is subtracted from its exponents is not the largest of those that are summed"),
    "sums of other queries": (
        {"sums": ("ReduceSum", ["e", [-1]], {}), "total": ("Transpose", ["sums"], {"perm": [0, 1, 3, 2]}),
         "square": ("MatMul", ["e", np.eye(SIDE)], {}), "multiplied": ("Identity", ["square"], {})},
        OTHER_SUMS),
    "sums of the other head": (
        {"sums": ("ReduceSum", ["e", [-1]], {}), "total": ("Gather", ["sums", [1, 0]], {"axis": 1})}, None),
    "a sum that an Einsum takes": (
        {"rows": ("ReduceSum", ["e", [-1]], {}), "sums": ("Einsum", ["rows"], {"equation": "bnqo->bno"}),
         "total": ("Unsqueeze", ["sums", [-1]], {})}, None),
    "twice the sum": ({"sums": ("ReduceSum", ["e", [-1]], {}), "total": ("Mul", ["sums", 2.0], {})}, None),
    "largest of each key": ({"largest": ("ReduceMax", ["x", [-2]], {})},
                            "what is subtracted from its exponents is not the largest of those that are summed"),
    "nothing subtracted": ({"e": ("Exp", ["x"], {})}, None),
    "other exponentials": ({"f": ("Exp", ["x"], {}), "total": ("ReduceSum", ["f", [-1]], {})}, None),
    "product over the queries": (
        {"multiplied": ("Einsum", ["e", "v"], {"equation": "bnqk,bnqv->bnkv"})}, OTHER_SUMS),
}  # fmt: skip


@pytest.mark.parametrize(("changed", "reason"), OTHERS.values(), ids=OTHERS)
def test_what_is_something_else_is_left(changed, reason):
    rewritten, report = optimized(model(changed), SoftmaxDividedLate)
    assert (report.applied, report.refused) == (0, {} if reason is None else {reason: 1})
    assert "Exp" in operators(rewritten)


def test_exponentials_that_others_read_are_left():
    (reason,) = optimized(model(outputs=("y", "e")), SoftmaxDividedLate)[1].refused
    assert reason.startswith("the output of Exp ")
    assert reason.endswith("is read elsewhere too")


THEMSELVES = "its exponentials, or their sum, are multiplied with themselves"
READ = {  # the result, and who else reads what becomes of the exponentials
    "the logarithm of the sum": ({"log": ("Log", ["total"], {})}, ("y", "log"), None),
    "the sum is given": ({}, ("y", "total"), None),
    "the sum on its way": (HEADS_FIRST | {"log": ("Log", ["turned"], {})}, ("y", "log"), None),
    "the product is given": ({}, ("y", "multiplied"), None),
    "others are divided by the sum": ({"other": ("Div", ["v", "total"], {})}, ("y", "other"), None),
    "values times the sum": (
        {"scaled": ("Mul", ["v", "total"], {}), "multiplied": ("MatMul", ["e", "scaled"], {})}, ("y",), None),
    "values of the sum": (
        {"wide": ("Expand", ["total", [1, 1, SIDE, 3]], {}), "multiplied": ("MatMul", ["e", "wide"], {}),
         "y": ("Div", ["multiplied", "wide"], {})}, ("y",), THEMSELVES),
    "squared": ({"multiplied": ("MatMul", ["e", "e"], {})}, ("y",), THEMSELVES),
    "of each two queries": (
        {"multiplied": ("Einsum", ["e", "e"], {"equation": "bnqk,bnsk->bnqs"})}, ("y",), THEMSELVES),
}  # fmt: skip


@pytest.mark.parametrize(("changed", "outputs", "reason"), READ.values(), ids=READ)
def test_what_others_read_of_it_stays_what_it_was(changed, outputs, reason):
    rewritten, report = optimized(model(changed, outputs), SoftmaxDividedLate)
    ((found, count),) = report.refused.items()
    assert (report.applied, count) == (0, 1)
    assert found == reason if reason else found.endswith("is read elsewhere too")
    assert "Softmax" not in operators(rewritten)


@pytest.mark.parametrize("outputs", [("y",), ("y", "rest")])
def test_every_part_of_a_product_is_looked_at(outputs):
    """Of two parts one is divided: the other must be nobody's."""
    rows = [
        ("ReduceMax", ["x", "last"], ["largest"], {}),
        ("Sub", ["x", "largest"], ["shifted"], {}),
        ("Exp", ["shifted"], ["e"], {}),
        ("ReduceSum", ["e", "last"], ["total"], {}),
        ("MatMul", ["e", "v"], ["product"], {}),
        ("Split", ["product", "parts"], ["multiplied", "rest"], {"axis": -1}),
        ("Div", ["multiplied", "total"], ["y"], {}),
    ]
    constants = {"last": np.array([-1]), "parts": np.array([2, 1])}
    before = graph(rows, {"x": ["batch", HEADS, SIDE, SIDE], "v": ["batch", HEADS, SIDE, 3]}, constants, outputs)
    rewritten, report = optimized(before, SoftmaxDividedLate)
    assert report.applied == 0 if "rest" in outputs else report.applied == 2
    assert_same_function(before, rewritten)


def test_an_old_softmax_goes_over_several_axes_at_once():
    """Up to opset 12 its axis is the first by default, and all that follow are one."""
    for attributes, applied in (({}, 0), ({"axis": 2}, 0), ({"axis": -1}, 1)):
        rows = [
            ("Softmax", ["x"], ["weights"], attributes),
            ("ReduceSum", ["weights"], ["total"], {"axes": [attributes.get("axis", 1)]}),
            ("Div", ["weights", "total"], ["y"], {}),
        ]
        before = graph(rows, {"x": ["batch", HEADS, SIDE, SIDE]}, {}, opset=12)
        rewritten, report = optimized(before, SoftmaxDividedLate)
        assert report.applied == applied, attributes
        assert_same_function(before, rewritten)


def test_a_division_by_a_sum_along_another_axis_than_the_weights_is_left():
    rows = [
        ("Softmax", ["x"], ["weights"], {"axis": 2}),
        ("ReduceSum", ["weights", "axis"], ["total"], {}),
        ("Div", ["x", "total"], ["y"], {}),
    ]
    before = graph(rows, {"x": ["batch", HEADS, SIDE, SIDE]}, {"axis": np.array([-1])}, ("y",))
    assert optimized(before, SoftmaxDividedLate)[1].applied == 0
