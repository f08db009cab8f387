"""A model without its sigmoids is the same function, accurate however small that is."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aaexport.graph.written_out import without_sigmoid
from aaexport.runners.ort import OrtRunner


def model_of(operator):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "test", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_a_written_out_sigmoid_is_accurate_to_its_own_size():
    x = np.float32([-200, -80, -18, -4, 0, 3, 200])
    model = model_of("Sigmoid")
    plain = without_sigmoid(model)
    onnx.checker.check_model(onnx.load_model_from_string(plain.model), full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Sigmoid"]
    with OrtRunner(plain) as runner:
        y = runner.infer({"x": x})["y"]
    np.testing.assert_allclose(y, 1 / (1 + np.exp(-x.astype(np.float64))), rtol=1e-6, atol=1e-38)


@pytest.mark.parametrize("operator", ["Relu", "HardSigmoid"])
def test_there_is_nothing_to_write_out_without_a_sigmoid(operator):
    assert without_sigmoid(model_of(operator)) is None
