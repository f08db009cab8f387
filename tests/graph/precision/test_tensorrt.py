"""TensorRT is given int8 only as it has it: signed, and with 0 stored as 0."""

import numpy as np
import onnx
import precision_graphs
import pytest
from onnx import save

from aaexport.errors import ArgumentError
from aaexport.graph.precision.tensorrt import require_symmetric, why_not_tensorrt

IMAGES = {"x": precision_graphs.images(2, 3, 8, 8)}


@pytest.fixture(scope="module")
def convolution():
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
    constants = {"w": weight.astype(np.float32), "b": bias.astype(np.float32)}
    return precision_graphs.model([("Conv", ["x", "w", "b"], ["y"], {})], {"x": ("N", 3, 8, 8)}, constants)


def test_what_is_made_for_it_is_taken_and_so_are_fractions(convolution):
    assert why_not_tensorrt(convolution) is None
    assert why_not_tensorrt(precision_graphs.int8(convolution, IMAGES, symmetric=True).model) is None


def test_what_is_made_for_cpus_is_refused_with_the_remedy(convolution, tmp_path):
    model = precision_graphs.int8(convolution, IMAGES).model
    assert " in uint8" in why_not_tensorrt(model)
    save(model, tmp_path / "model.int8.onnx")
    remedy = f"`aaexport convert {tmp_path} --dtype int8 --target cuda`"
    with pytest.raises(ArgumentError, match=rf"tensorrt must .*{remedy}"):
        require_symmetric(tmp_path / "model.int8.onnx")


def quantized(zero, *, is_node=False, name="zero"):
    constants = {"scale": np.array(0.1, np.float32), **({} if zero is None or is_node else {name: zero})}
    steps = ["scale", *([] if zero is None else [name])]
    nodes = [("QuantizeLinear", ["x", *steps], ["q"], {}), ("DequantizeLinear", ["q", *steps], ["y"], {})]
    if is_node:
        nodes.insert(0, ("Constant", [], [name], {"value": onnx.numpy_helper.from_array(zero)}))
    return precision_graphs.model(nodes, {"x": ("N", 3)}, constants)


@pytest.mark.parametrize("is_node", [False, True])
@pytest.mark.parametrize(
    ("zero", "fault"),
    [
        (np.array(0, np.int8), None),
        (np.array(3, np.int8), "q around another number than 0"),
        (np.array(0, np.uint8), "q in uint8"),
        (None, "q in uint8"),
    ],
)
def test_the_zero_point_decides(zero, fault, is_node):
    assert why_not_tensorrt(quantized(zero, is_node=is_node and zero is not None)) == fault


def test_a_bias_in_32_bits_is_told():
    constants = {"b": np.zeros(3, np.int32), "scale": np.array(0.1, np.float32)}
    nodes = [("DequantizeLinear", ["b", "scale"], ["f"], {}), ("Add", ["x", "f"], ["y"], {})]
    assert why_not_tensorrt(precision_graphs.model(nodes, {"x": ("N", 3)}, constants)) == "b in int32"
