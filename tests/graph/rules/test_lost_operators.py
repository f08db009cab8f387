import numpy as np
import pytest
from graphs import assert_same_function, graph, operators, optimized

from aaexport.graph.rules.lost_operators import LostOperators


def model(operator, opset=22, inputs=("x",), outputs=("y",), constants=None, shape=("batch", 3, 4, 5), **attributes):
    after = [("Neg", ["y"], ["z"], {})]
    nodes = [(operator, list(inputs), list(outputs), attributes), *after]
    return graph(nodes, {"x": list(shape)}, constants or {}, ["z"], opset=opset)


ROWS = {
    "Elu": {},
    "Elu, alpha": {"alpha": 0.3},
    "Selu": {},
    "Selu, both": {"alpha": 0.3, "gamma": 2.0},
    "ThresholdedRelu": {},
    "ThresholdedRelu, alpha": {"alpha": 0.2},
    "InstanceNormalization": {"inputs": ("x", "s", "b"), "constants": {"s": [3], "b": [3]}},
    "InstanceNormalization, one axis": {
        "inputs": ("x", "s", "b"), "constants": {"s": [3], "b": [3]}, "shape": ("batch", 3, 9), "epsilon": 0.1,
    },
    "Dropout": {},
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_others_compute_the_same(row):
    before = model(row.partition(",")[0], **ROWS[row])
    rewritten, report = optimized(before, LostOperators, target="cuda")
    assert report.applied == 1
    assert row.partition(",")[0] not in operators(rewritten)
    assert_same_function(before, rewritten)


@pytest.mark.parametrize("operator", ["Elu", "Dropout"])
def test_an_opset_that_has_a_kernel_keeps_it(operator):
    rewritten, report = optimized(model(operator, opset=21), LostOperators, target="cuda")
    assert (report.applied, report.refused) == (0, {})
    assert operators(rewritten) == [operator, "Neg"]


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("its mask is read too", {"outputs": ("y", "mask")}),
        ("whether it trains is an input",
         {"inputs": ("x", "", "training"), "constants": {"training": np.array(False)}}),
    ],
)  # fmt: skip
def test_a_dropout_that_is_more_is_left(reason, changes):
    _, report = optimized(model("Dropout", **changes), LostOperators, target="cuda")
    assert report.refused == {reason: 1}
