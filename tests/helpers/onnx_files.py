"""Small ONNX models as bytes."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def serialized(nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(nodes, "test", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def convolution(rng):
    """A convolution of 8 channels over 16 and a ReLU, as bytes."""
    weight = numpy_helper.from_array(rng.standard_normal((16, 8, 3, 3), dtype=np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"], "the last")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, 12, 12])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16, 10, 10])
    return serialized(nodes, [x], [y], [weight])
