"""What torch's exporter would let overflow stays finite, as in PyTorch."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import aaexport
from aaexport.capture.input_name import INPUT_NAME

VALUES = np.float32([-1e4, -200, -90, -20, -1, -1e-3, 0, 1e-3, 1, 20, 90, 200, 1e4, -np.inf, np.inf, np.nan])


class Pixels(nn.Module):
    """A function of the first half of the pixels and of the second."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(*images.flatten(1).chunk(2, 1))


FUNCTIONS = {
    "log_sigmoid": lambda a, b: nn.functional.logsigmoid(a),
    "log_sigmoid of large numbers": lambda a, b: nn.functional.logsigmoid(a.abs() + 14) * 1e6,
    "logaddexp": torch.logaddexp,
    "logaddexp2": torch.logaddexp2,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_large_numbers_give_is_what_pytorch_gives(name, tmp_path):
    module, path = Pixels(FUNCTIONS[name]), tmp_path / "x.onnx"
    pairs = np.stack(np.meshgrid(VALUES, VALUES), 0).reshape(1, 2, 1, -1)
    aaexport.convert(module, path, input_shape=pairs.shape[1:])
    (answer,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {INPUT_NAME: pairs})
    expected = module(torch.from_numpy(pairs)).numpy()
    np.testing.assert_allclose(answer, expected, rtol=1e-6, atol=1e-7)
    assert {node.op_type for node in onnx.load(path).graph.node} >= {"Softplus"}
