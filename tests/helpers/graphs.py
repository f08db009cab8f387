"""Small ONNX models in float64, so that a rewriting can be held to the function it came from to twelve digits."""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from aaexport.graph.check import check_model
from aaexport.graph.optimize import optimize_model


def graph(nodes, inputs, constants, outputs=("y",), opset=20, dtype=np.float64):
    """A model of (operator, inputs, outputs, attributes) rows; its constants are arrays, or seeded ones by shape."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    generator = np.random.default_rng(0)
    arrays = {
        name: value if isinstance(value, np.ndarray) else generator.uniform(0.5, 1.5, value).astype(dtype)
        for name, value in constants.items()
    }
    made = helper.make_graph(
        [helper.make_node(op, ins, outs, name=f"{op}_{i}", **more) for i, (op, ins, outs, more) in enumerate(nodes)],
        "small",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    )
    check_model(model)
    return model


def optimized(model, rule, *others, target="cpu"):
    """What rules make of the model, and the report of the first."""
    rewritten, (report, *_) = optimize_model(model, target=target, rules=(rule, *others))
    check_model(rewritten)
    return rewritten, report


def operators(model):
    return [node.op_type for node in model.graph.node]


def assert_same_function(model, rewritten, batch=2):
    """The same outputs, by name, for the same random inputs; a dynamic size is `batch`."""
    assert [value.name for value in model.graph.output] == [value.name for value in rewritten.graph.output]
    generator = np.random.default_rng(1)
    feeds = {}
    for value in model.graph.input:
        sizes = [size.dim_value or batch for size in value.type.tensor_type.shape.dim]
        feeds[value.name] = generator.standard_normal(sizes)
    expected, found = (ReferenceEvaluator(each).run(None, feeds) for each in (model, rewritten))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-12)


def convolution(x, y, weight, **more):
    """A row of `graph`: a convolution padded by half its 3×3 or 1×1 kernel."""
    size = more.pop("size", 3)
    return "Conv", [x, *weight], [y], {"kernel_shape": [size, size], "pads": [size // 2] * 4, **more}
