"""A hand-made model that is too large where limits are low (`low_limits`), and what is done with it."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from aaexport.errors import GraphError
from aaexport.graph.write import new_onnx

X = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)


def model_of(seed=0, width=40, *, dtype=np.float32):
    """x · w + b, then · v: two large tensors, and one that stays inside."""
    rng = np.random.default_rng(seed)
    held = {
        "w": rng.standard_normal((8, width)),
        "b": rng.standard_normal(width),
        "v": rng.standard_normal((width, 30)),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Add", ["xw", "b"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    given, made = (helper.make_tensor_value_info(name, kind, ["batch", n]) for name, n in (("x", 8), ("y", 30)))
    tensors = [numpy_helper.from_array(array.astype(dtype), name) for name, array in held.items()]
    graph = helper.make_graph(nodes, "g", [given], [made], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def refusal(function, *arguments):
    with pytest.raises(GraphError) as error:
        function(*arguments)
    return str(error.value)


def answer(runner, x):
    with runner:
        return runner.infer({"x": x})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def replace_with(model, path):
    with new_onnx(path) as new:
        new.write(model)
