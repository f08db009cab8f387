"""Right files of modules that nobody here designed pass: what is special about each is a way to cry wolf."""

import pytest
import torch
from torch import nn

import aaexport


class Of(nn.Module):
    """A convolution, and a function of its map."""

    def __init__(self, function, channels=8, kernel=3):
        super().__init__()
        self.convolution, self.function = nn.Conv2d(3, channels, kernel), function

    def forward(self, x):
        return self.function(self.convolution(x))


class Standardised(nn.Module):
    """Of nothing but equal numbers it makes NaN."""

    def forward(self, x):
        return (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)


MODULES = {
    "maximum pooled": lambda: Of(nn.MaxPool2d(2)),
    "several maps": lambda: Of(lambda y: {"fine": y, "coarse": nn.functional.max_pool2d(y, 2)}),
    "largest": lambda: Of(lambda y: y.amax((2, 3))),
    "best classes": lambda: Of(lambda y: y.mean((2, 3)).topk(3)),
    "classes of a map": lambda: Of(lambda y: y.argmax(1)),
    "mask": lambda: Of(lambda y: y > 0.1),
    "not a number of zeros": Standardised,
    "logarithm": lambda: Of(lambda y: (y.abs().mean((1, 2, 3)) - 0.3).log()),
    "instances normalised": lambda: Of(nn.InstanceNorm2d(8)),
    "instances of single pixels normalised": lambda: Of(nn.InstanceNorm2d(8), kernel=1),
    "groups normalised": lambda: Of(nn.GroupNorm(8, 8), kernel=1),
    "deviation": lambda: Of(lambda y: y.std((2, 3))),
    "logarithm of probabilities": lambda: Of(lambda y: y.mean((2, 3)).log_softmax(1)),
    "transposed convolution in groups": lambda: Of(nn.ConvTranspose2d(8, 8, 2, groups=2)),
    "shares": lambda: Of(lambda y: y / y.sum(1, keepdim=True)),
    "boxes and scores": lambda: Of(lambda y: torch.cat([y[:, :4] * 1e6, y[:, 4:].softmax(1)], 1)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_right_file_passes(name, tmp_path):
    torch.manual_seed(0)
    module = MODULES[name]().eval()
    parity = aaexport.convert(module, tmp_path / "x.onnx", input_shape=(3, 12, 10)).parity
    assert parity.passed, parity.failures
