"""What torch's exporter refuses in its own words, or writes wrongly, is told with layer, line and remedy."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from aaexport.capture.program import export_program
from aaexport.errors import ExportError

SHAPE = (3, 12, 10)


class Of(nn.Module):
    """A function of a convolution's map."""

    def __init__(self, function):
        super().__init__()
        self.c, self.function = nn.Conv2d(3, 4, 3, padding=1), function

    def forward(self, x):
        return self.function(self.c(x))


class Inside(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.stages = nn.Sequential(nn.Identity(), layer)

    def forward(self, x):
        return self.stages(x)


class Autocast(nn.Module):
    def __init__(self, device="cpu", dtype=torch.bfloat16, enabled=True):
        super().__init__()
        self.c, self.how = nn.Conv2d(3, 4, 1), {"device_type": device, "dtype": dtype, "enabled": enabled}

    def forward(self, x):
        with torch.autocast(**self.how):
            y = self.c(x)
        return y.float()


def resized(**how):
    return lambda: Of(lambda y: functional.interpolate(y, **how))


TOLD = {
    "divisor": (
        lambda: Of(lambda y: functional.avg_pool2d(y, 3, 2, 1, divisor_override=2)),
        "torch's exporter leaves out divisor_override=2; leave it out and multiply the result by 9 / 2",
    ),
    "adaptive maximum": (lambda: Of(nn.AdaptiveMaxPool2d(3)), r"\(12, 10\) is not divided by \(3, 3\)"),
    "adaptive maximum of whole windows": (lambda: Of(nn.AdaptiveMaxPool2d((3, 5))), r"a kernel of \(4, 2\)"),
    "adaptive maximum of all": (lambda: Of(nn.AdaptiveMaxPool2d(1)), r"write x\.amax\(\(-2, -1\), keepdim=True\)"),
    "autocast": (Autocast, "it computes in bfloat16 inside torch.autocast, .*; export it in float32"),
    "complex": (lambda: Of(torch.fft.rfft2), "it returns complex numbers, .*; return torch.view_as_real"),
    "fractional bilinear": (
        resized(scale_factor=1.3, mode="bilinear"),
        r"scale_factor=1.3 makes 13 of 10 in PyTorch, and 12 in ONNX, .*; give size=\(15, 13\)",
    ),
    "fractional nearest": (resized(scale_factor=1.3, mode="nearest"), "scale_factor=1.3 makes 13 of 10"),
}
FINE = {
    "average": lambda: Of(nn.AvgPool2d(3)),
    "autocast elsewhere": lambda: Autocast(enabled=False),
    "half as large": resized(scale_factor=0.5, mode="bilinear"),
    "1.6 times": resized(scale_factor=1.6, mode="bilinear"),
    "a size": resized(size=(15, 13), mode="bilinear"),
    "absolute values of complex numbers": lambda: Of(lambda y: torch.fft.rfft2(y).abs()),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_cannot_be_written_is_told_with_layer_line_and_remedy(name):
    make, says = TOLD[name]
    with pytest.raises(ExportError, match=says) as caught:
        export_program(Inside(make()).eval(), SHAPE, "dynamic")
    text = str(caught.value)
    assert text.startswith("Inside cannot be written as ONNX: stages.1")
    assert "\n" not in text


def test_the_users_line_is_named():
    with pytest.raises(ExportError, match=r"stages.1 \(Of\), .*test_limits.py:\d+: torch's exporter leaves out"):
        export_program(Inside(TOLD["divisor"][0]()).eval(), SHAPE, "dynamic")


@pytest.mark.parametrize("name", FINE)
def test_what_can_be_written_is_not_stopped(name):
    assert export_program(FINE[name]().eval(), SHAPE, "dynamic")
